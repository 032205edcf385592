package spool

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// sample returns a file as a spool writes it.
func sample(t testing.TB) []byte {
	t.Helper()
	var out bytes.Buffer
	text := toBob("x").text()
	h := &header{
		Arrived: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Reason: "no hop", Size: int64(len(text)),
		Envelope: envelope{Sender: "alice@example.org", Login: "alice"},
		To:       []recipient{{Address: "bob@example.com"}, {Address: "carol@example.com"}},
	}
	if _, err := encode(&out, h, strings.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	line, err := encodeRecord(&record{Done: []int{1}, Tries: 2, Reason: "later"})
	if err != nil {
		t.Fatal(err)
	}
	return append(out.Bytes(), line...)
}

func TestParse(t *testing.T) {
	file := sample(t)
	c, err := parse(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	if p := c.pending(); len(p) != 1 || p[0] != 0 || c.tries != 2 || c.reason != "later" || c.journal != int64(len(file)) {
		t.Errorf("%+v", c)
	}
	if err := c.verify(bytes.NewReader(file)); err != nil {
		t.Error(err)
	}
}

// A changed byte is detected before the message is sent, or invalidates only the last record.
func TestChangedBytesAreDetected(t *testing.T) {
	file := sample(t)
	for i := range file {
		bad := bytes.Clone(file)
		bad[i] ^= 0x01
		c, err := parse(bytes.NewReader(bad), int64(len(bad)))
		if err == nil {
			err = c.verify(bytes.NewReader(bad))
		}
		if err == nil && (c.journal == int64(len(file)) || len(c.pending()) != 2) {
			t.Errorf("a change of byte %d, %q, is not detected", i, file[i])
		}
		if err != nil && !errors.Is(err, errDamaged) {
			t.Errorf("byte %d: %v", i, err)
		}
	}
	for n := range file {
		c, err := parse(bytes.NewReader(file[:n]), int64(n))
		if err == nil && len(c.pending()) != 2 {
			t.Errorf("cut to %d bytes: %+v", n, c)
		}
	}
}

// Files of the first version have ENVID and ORCPT decoded. They are read and delivered,
// even with values that are not valid now.
func TestFirstVersion(t *testing.T) {
	const message = "Subject: old\r\n\r\n.hello\r\n"
	envelope := `{"arrived":"2026-01-02T03:04:05Z","reason":"no hop","size":` + fmt.Sprint(len(message)) + `,"envelope":{` +
		`"sender":"alice@example.org","login":"alice","ret":"HDRS","envid":"a b+c"},"to":[` +
		`{"address":"bob@example.com","notify":["FAILURE"],"original":"b+ob@example.com","kind":"RFC822"},` +
		`{"address":"carol@example.com","original":"c\u00f6\\@example.com","kind":"UTF-8"},` +
		`{"address":"dave@example.com","original":"` + strings.Repeat("x", 900) + `","kind":"RFC822"},` +
		`{"address":"erin@example.com","original":"e\trin","kind":"UTF-8"},` +
		`{"address":"frank@example.com"}]}`
	file := fmt.Appendf(nil, "postern-spool 1 %d %08x\n%s\n%s%x\n", len(envelope), crc32.Checksum([]byte(envelope), castagnoli), envelope, message, sha256.Sum256([]byte(message)))
	dir := t.TempDir()
	r := newRig(t, dir, nil)
	if err := os.WriteFile(filepath.Join(dir, queued, "00000000000000aaaaaa"), file, 0o600); err != nil {
		t.Fatal(err)
	}
	r.close()
	again := newRig(t, dir, nil)
	again.deliver()
	again.empty()
	got := again.hop.Delivered()
	if len(got) != 1 || string(got[0].Data) != message || got[0].Params != "BODY=8BITMIME SIZE=24 RET=HDRS ENVID=a+20b+2Bc" {
		t.Fatalf("delivered %+v", got)
	}
	var params []string
	for _, to := range got[0].To {
		params = append(params, to.Params)
	}
	want := []string{"NOTIFY=FAILURE ORCPT=RFC822;b+2Bob@example.com", `ORCPT=UTF-8;c\x{F6}\x{5C}@example.com`, "", "", ""}
	if !slices.Equal(params, want) {
		t.Errorf("RCPT with %q", params)
	}
}

// ENVID and ORCPT are stored as they were sent.
func TestTextsAreKept(t *testing.T) {
	h := &header{
		Envelope: envelope{EnvelopeID: "a+20b+2bc=<&>", UTF8: true},
		To: []recipient{
			{Address: "bob@example.com", Kind: "rfc822", Original: "b+C3+b6+ff=b@example.org"},
			{Address: "carol@example.com", Kind: "x400", Original: "/C=fr/<&>/"},
			{Address: "dave@example.com", Kind: "utf-8", Original: "d\u00f6\u2028" + `\x{F6}`},
		},
	}
	text, err := encodeHeader(h)
	if err != nil {
		t.Fatal(err)
	}
	c := &content{}
	if _, err := c.readHeader(bufio.NewReader(bytes.NewReader(text))); err != nil {
		t.Fatal(err)
	}
	if c.Envelope != h.Envelope || !reflect.DeepEqual(c.To, h.To) || c.check() != nil {
		t.Errorf("%+v, %v", c.header, c.check())
	}
}

// A file of an unknown version is not read.
func TestUnknownVersion(t *testing.T) {
	file := bytes.Replace(sample(t), []byte("postern-spool 2 "), []byte("postern-spool 3 "), 1)
	if _, err := parse(bytes.NewReader(file), int64(len(file))); !errors.Is(err, errDamaged) || !strings.Contains(err.Error(), "version 3") {
		t.Errorf("%v", err)
	}
}

// A damaged file is set aside, and the others are delivered.
func TestDamagedFilesAreSetAside(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, dir, nil)
	body, envelope, good := r.spooled(toBob("body")), r.spooled(toBob("envelope")), r.spooled(toBob("good"))
	r.close()
	change(t, filepath.Join(dir, queued, body), ".hello", ".jello")
	change(t, filepath.Join(dir, queued, envelope), "bob@", "b\nb@")
	const empty = "00000000000000aaaaaa"
	if err := os.WriteFile(filepath.Join(dir, queued, empty), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, queued, "00000000000000bbbbbb"), 0o700); err != nil {
		t.Fatal(err)
	}
	again := newRig(t, dir, nil)
	again.deliver()
	again.empty()
	if got := subjects(again.hop.Delivered()); len(got) != 1 || got[0] != "good" {
		t.Errorf("delivered %q, not only %s", got, good)
	}
	if got := again.files(broken); len(got) != 4 {
		t.Errorf("set aside: %q", got)
	}
	if n := strings.Count(again.log.String(), "damaged and set aside"); n != 4 {
		t.Errorf("logged %d times:\n%s", n, again.log.String())
	}
}

func change(t *testing.T, file, from, to string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, bytes.Replace(text, []byte(from), []byte(to), 1), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Any file is either parsed or reported as damaged.
func FuzzParse(f *testing.F) {
	file := sample(f)
	f.Add(file)
	f.Add(file[:len(file)-3])
	f.Add([]byte("postern-spool 1 2 00000000\n{}\n"))
	f.Add([]byte("postern-spool 2 2 00000000\n{}\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		c, err := parse(bytes.NewReader(file), int64(len(file)))
		if err != nil {
			if !errors.Is(err, errDamaged) {
				t.Errorf("not damaged, but %v", err)
			}
			return
		}
		if c.journal > int64(len(file)) || len(c.done) != len(c.To) || len(c.To) == 0 {
			t.Errorf("%+v", c)
		}
		if err := c.verify(bytes.NewReader(file)); err != nil && !errors.Is(err, errDamaged) {
			t.Error(err)
		}
	})
}

// FuzzEnvelope does the same with correct checksums. A valid envelope can be put into
// commands, and can be written and read again.
func FuzzEnvelope(f *testing.F) {
	for _, old := range []bool{false, true} {
		f.Add([]byte(`{"size":3,"envelope":{"sender":"a@example.org","ret":"HDRS"},"to":[{"address":"b@example.com","notify":["NEVER"]}]}`), []byte(`{"done":[0],"tries":1}`), old)
		f.Add([]byte(`{"size":-1,"to":[{"address":"b@example.com"}]}`), []byte(`{"done":[-1]}`), old)
		f.Add([]byte(`{"size":9223372036854775807,"to":[{}]}`), []byte(`null`), old)
		f.Add([]byte(`{"size":3,"envelope":{"envid":"a b"},"to":[{"address":"b@example.com","original":"b\u00f6\n+20","kind":"UTF-8"}]}`), []byte(`{}`), old)
		f.Add([]byte(`{"size":3,"envelope":{"envid":"a+20b"},"to":[{"address":"b@example.com","original":"b+C3+B6","kind":"rfc822"}]}`), []byte(`{}`), old)
	}
	f.Fuzz(func(t *testing.T, envelope, note []byte, old bool) {
		v := version
		if old {
			v = decodedTexts
		}
		file := fmt.Appendf(nil, "%s %d %d %08x\n%s\n", magic, v, len(envelope), crc32.Checksum(envelope, castagnoli), envelope)
		file = append(file, "abc"+strings.Repeat("0", sumLine)...)
		file = fmt.Appendf(file, "%08x %s\n", crc32.Checksum(note, castagnoli), note)
		c, err := parse(bytes.NewReader(file), int64(len(file)))
		if err != nil {
			if !errors.Is(err, errDamaged) {
				t.Errorf("not damaged, but %v", err)
			}
			return
		}
		if strings.ContainsAny(c.Envelope.Sender+c.To[0].Address+c.Envelope.EnvelopeID+c.To[0].Original+string(c.To[0].Kind), "\r\n\x00") {
			t.Errorf("%+v", c.header)
		}
		text, err := encodeHeader(&c.header)
		if err != nil {
			t.Fatal(err)
		}
		again := &content{}
		if _, err := again.readHeader(bufio.NewReader(bytes.NewReader(text))); err != nil {
			t.Error(err)
		} else if again.Envelope.EnvelopeID != c.Envelope.EnvelopeID || again.To[0].Original != c.To[0].Original {
			t.Errorf("%+v becomes %+v", c.header, again.header)
		}
	})
}
