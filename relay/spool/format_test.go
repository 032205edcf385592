package spool

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// sample is a file as a spool writes it.
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

// Any byte that is not what was written is found before anything is sent, or
// costs no more than the last note.
func TestEveryByteCounts(t *testing.T) {
	file := sample(t)
	for i := range file {
		bad := bytes.Clone(file)
		bad[i] ^= 0x01
		c, err := parse(bytes.NewReader(bad), int64(len(bad)))
		if err == nil {
			err = c.verify(bytes.NewReader(bad))
		}
		if err == nil && (c.journal == int64(len(file)) || len(c.pending()) != 2) {
			t.Errorf("byte %d, %q, may be anything", i, file[i])
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

// A damaged file is set aside, and the others go their way.
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

// FuzzParse: whatever stands in a file, it is understood or damaged.
func FuzzParse(f *testing.F) {
	file := sample(f)
	f.Add(file)
	f.Add(file[:len(file)-3])
	f.Add([]byte("postern-spool 1 2 00000000\n{}\n"))
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

// FuzzEnvelope: the same behind checksums that are right, and what gets
// through can be put on the wire and written again.
func FuzzEnvelope(f *testing.F) {
	f.Add([]byte(`{"size":3,"envelope":{"sender":"a@example.org","ret":"HDRS"},"to":[{"address":"b@example.com","notify":["NEVER"]}]}`), []byte(`{"done":[0],"tries":1}`))
	f.Add([]byte(`{"size":-1,"to":[{"address":"b@example.com"}]}`), []byte(`{"done":[-1]}`))
	f.Add([]byte(`{"size":9223372036854775807,"to":[{}]}`), []byte(`null`))
	f.Fuzz(func(t *testing.T, envelope, note []byte) {
		file := fmt.Appendf(nil, "%s %d %08x\n%s\n", magic, len(envelope), crc32.Checksum(envelope, castagnoli), envelope)
		file = append(file, "abc"+strings.Repeat("0", sumLine)...)
		file = fmt.Appendf(file, "%08x %s\n", crc32.Checksum(note, castagnoli), note)
		c, err := parse(bytes.NewReader(file), int64(len(file)))
		if err != nil {
			if !errors.Is(err, errDamaged) {
				t.Errorf("not damaged, but %v", err)
			}
			return
		}
		if strings.ContainsAny(c.Envelope.Sender+c.To[0].Address, "\r\n\x00") {
			t.Errorf("%+v", c.header)
		}
		if _, err := encodeHeader(&c.header); err != nil {
			t.Error(err)
		}
	})
}
