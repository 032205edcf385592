package spool

import (
	"bufio"
	"bytes"
	"fmt"
	"hash/crc32"
	"testing"

	"postern/relay"
)

// The decision whether a message may be signed is kept. A file of an earlier version does
// not have it: then a login or the mark of a report stands for it.
func TestMaySign(t *testing.T) {
	for _, e := range []relay.Envelope{{}, {MaySign: true}, {MaySign: true, Login: "alice"}} {
		text, err := encodeHeader(&header{Envelope: newEnvelope(&e), To: []recipient{{Address: "bob@example.com"}}})
		if err != nil {
			t.Fatal(err)
		}
		if got := readBack(t, text).Envelope.relay(0); got.MaySign != e.MaySign {
			t.Errorf("MaySign is %v, want %v", got.MaySign, e.MaySign)
		}
	}
	for _, c := range []struct {
		version int
		json    string
		want    bool
	}{
		{1, `"envelope":{"sender":"alice@example.org","login":"alice"}`, true},
		{2, `"envelope":{"sender":"alice@example.org","login":"alice"}`, true},
		{2, `"envelope":{"sender":"ceo@example.org"}`, false},
		{2, `"envelope":{"sender":""}`, false},
		{2, `"report":true,"envelope":{"sender":""}`, true},
		{2, `"report":false,"envelope":{"sender":""}`, false},
		{2, `"envelope":{"sender":"","may_sign":true}`, true},
	} {
		text := `{"to":[{"address":"bob@example.com"}],` + c.json + `}`
		file := fmt.Appendf(nil, "%s %d %d %08x\n%s\n", magic, c.version, len(text), crc32.Checksum([]byte(text), castagnoli), text)
		if got := readBack(t, file).Envelope.relay(0).MaySign; got != c.want {
			t.Errorf("version %d, %s: MaySign is %v", c.version, c.json, got)
		}
	}
}

func readBack(t *testing.T, file []byte) *content {
	t.Helper()
	c := &content{}
	if _, err := c.readHeader(bufio.NewReader(bytes.NewReader(file))); err != nil {
		t.Fatal(err)
	}
	return c
}
