package ldapclient

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"

	"postern/internal/ldapclient/ldaptest"
	"postern/test/kit"
)

// element returns a BER element.
func element(identifier byte, content []byte) []byte {
	length := []byte{0x84, byte(len(content) >> 24), byte(len(content) >> 16), byte(len(content) >> 8), byte(len(content))}
	return slices.Concat([]byte{identifier}, length, content)
}

// nested returns an octet string of size bytes inside of so many elements.
func nested(identifier byte, depth, size int) []byte {
	b := make([]byte, 0, 6*depth+6+size)
	for level := range depth {
		rest := (depth-level-1)*6 + 6 + size
		b = append(b, identifier, 0x84, byte(rest>>24), byte(rest>>16), byte(rest>>8), byte(rest))
	}
	return append(b, octets(strings.Repeat("x", size))...)
}

// octets returns an octet string.
func octets(s string) []byte { return element(0x04, []byte(s)) }

// hostile has messages for which the library would need many times their size. Each begins with
// the number of the request.
func hostile() map[string]func(id byte) []byte {
	number := func(id byte) []byte { return []byte{0x02, 1, id} }
	done := element(0x65, slices.Concat([]byte{0x0a, 1, 0}, octets(""), octets("")))
	message := func(fields ...[]byte) []byte { return element(sequence, slices.Concat(fields...)) }
	return map[string]func(id byte) []byte{
		"deep":       func(id byte) []byte { return message(number(id), nested(0x64, 990, 230_000)) },
		"a bit deep": func(id byte) []byte { return message(number(id), nested(0x64, maxDepth, 1)) },
		"wide": func(id byte) []byte {
			return message(number(id), element(0x64, bytes.Repeat([]byte{0x04, 0}, 120_000)))
		},
		"many": func(id byte) []byte {
			entry := message(number(id), element(0x64, slices.Concat(octets(""), element(sequence, nil))))
			return bytes.Repeat(entry, 240_000/len(entry))
		},
		"long control": func(id byte) []byte {
			return message(number(id), done, element(0xa0, element(sequence, octets(strings.Repeat("x", 8192)))))
		},
		"deep value of a control": func(id byte) []byte {
			control := slices.Concat(octets(ldap.ControlTypeBeheraPasswordPolicy), octets(string(nested(sequence, 990, 100_000))))
			return message(number(id), done, element(0xa0, element(sequence, control)))
		},
		"many controls": func(id byte) []byte {
			one := message(number(id+1), done, element(0xa0, element(sequence, octets(strings.Repeat("x", 1000)))))
			return bytes.Repeat(one, 20)
		},
		"indefinite length": func(id byte) []byte {
			return slices.Concat([]byte{sequence, 0x80}, number(id), done, []byte{0, 0})
		},
		"indefinite within": func(id byte) []byte { return message(number(id), []byte{0x65, 0x80, 0, 0}) },
		"long tag":          func(id byte) []byte { return message(number(id), []byte{0x7f, 0x65, 0}) },
		"child longer than its parent": func(id byte) []byte {
			return message(number(id), []byte{0x65, 3, 0x04, 9, 0}, octets("12345678"))
		},
		"not a sequence":           func(id byte) []byte { return element(0x31, number(id)) },
		"long length":              func(byte) []byte { return []byte{sequence, 0x84, 0x7f, 0xff, 0xff, 0xff} },
		"length of 127 bytes":      func(byte) []byte { return append([]byte{sequence, 0xff}, make([]byte, 127)...) },
		"length that does not end": func(byte) []byte { return []byte{sequence, 0x84, 1} },
	}
}

// A server's answer never costs many times its size, and is refused as if there were none.
func TestHostileAnswers(t *testing.T) {
	const most = 8 << 20 // bytes allocated, of two connections and their requests; the library would need 300 MB
	for name, answer := range hostile() {
		t.Run(name, func(t *testing.T) {
			f := ldaptest.Start(t, func(c *ldaptest.Conn, q ldaptest.Request) {
				if q.Tag == ldap.ApplicationBindRequest {
					ldaptest.People(c, q)
					return
				}
				c.Write(answer(byte(q.ID)))
				c.Close()
			})
			c := open(t, withService(t, f.URL()))
			ctx, cancel := context.WithTimeout(t.Context(), kit.Patience)
			defer cancel()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := login(ctx, c)
			runtime.ReadMemStats(&after)
			if _, isConfig := errors.AsType[*ConfigError](err); err == nil || isConfig {
				t.Errorf("it is an answer: %v", err)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > most {
				t.Errorf("allocated %d bytes", n)
			}
		})
	}
}

// The allowance is that of one request, and messages just within it are accepted.
func TestAllowance(t *testing.T) {
	f := ldaptest.Start(t, func(c *ldaptest.Conn, q ldaptest.Request) {
		if q.Tag == ldap.ApplicationSearchRequest {
			c.Entry(q, "uid=alice", "mail="+strings.Repeat("a@example.org|", 9000)+"b@example.org")
			c.Done(q, 0, "", element4KiB())
			return
		}
		ldaptest.People(c, q)
	})
	c := open(t, withService(t, f.URL()))
	for range 3 {
		if err := login(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	if n := f.Connections(); n != 2 {
		t.Errorf("%d connections, want one for each purpose", n)
	}
}

// element4KiB returns a control that fits into maxControls.
func element4KiB() *ber.Packet {
	control := ber.NewSequence("")
	control.AppendChild(ldaptest.Octets("1.2.3"))
	control.AppendChild(ldaptest.Octets(strings.Repeat("x", maxControls-100)))
	return control
}

// After StartTLS the messages inside TLS are checked, and bytes that a third party has added to the
// response are not taken for messages.
func TestAnswersAfterStartTLS(t *testing.T) {
	certificate := kit.Certificate{}.SelfSigned(t)
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]}), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name     string
		injected []byte
		answer   func(id byte) []byte // nil: of a working server
		ok       bool
	}{
		{"works", nil, nil, true},
		{"deep", nil, hostile()["deep"], false},
		{"injected", hostile()["many controls"](1), nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := ldaptest.Start(t, func(c *ldaptest.Conn, q ldaptest.Request) {
				switch {
				case q.Tag == ldap.ApplicationExtendedRequest:
					c.Done(q, 0, "")
					c.Write(tt.injected)
					c.Conn = tls.Server(c.Conn, &tls.Config{Certificates: []tls.Certificate{certificate}})
				case q.Tag == ldap.ApplicationSearchRequest && tt.answer != nil:
					c.Write(tt.answer(byte(q.ID)))
				default:
					ldaptest.People(c, q)
				}
			})
			cfg := withService(t, f.URL())
			cfg.StartTLS, cfg.CAFile = true, file
			ctx, cancel := context.WithTimeout(t.Context(), kit.Patience)
			defer cancel()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := login(ctx, open(t, cfg))
			runtime.ReadMemStats(&after)
			if (err == nil) != tt.ok {
				t.Errorf("%v", err)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 8<<20 {
				t.Errorf("allocated %d bytes", n)
			}
		})
	}
}

// FuzzMessage looks for messages that pass the check and for which the library needs many times
// their size, and for messages of the library that do not pass.
func FuzzMessage(f *testing.F) {
	for _, message := range hostile() {
		if m := message(1); len(m) < 1000 {
			f.Add(m)
		}
	}
	response := ber.NewSequence("")
	response.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, 1, ""))
	response.AppendChild(element4KiB())
	f.Add(response.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		var allowed allowance
		allowed.renew()
		in := bytes.NewReader(b)
		message, err := readMessage(in, &allowed)
		if err != nil {
			return
		}
		if read := len(b) - in.Len(); !bytes.Equal(message, b[:read]) {
			t.Fatalf("%d bytes were read, and %d returned", read, len(message))
		}
		packet, err := ber.DecodePacketErr(message)
		if err != nil {
			return
		}
		if depth := depthOf(packet); depth > maxDepth {
			t.Errorf("depth %d", depth)
		}
	})
}

func depthOf(p *ber.Packet) int {
	deepest := 0
	for _, child := range p.Children {
		deepest = max(deepest, depthOf(child))
	}
	return deepest + 1
}
