package server

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"
	"time"
)

// FuzzSession has an authenticated client say anything. Whatever it is, the
// client has heard as many acceptances as messages have come to the next hop,
// which for its part looks whether they are clean; and the connection ends when
// the client has ended it.
func FuzzSession(f *testing.F) {
	const begin = "MAIL FROM:<alice@example.org>\r\nRCPT TO:<bob@example.org>\r\n"
	for _, seed := range []string{
		"NOOP\r\nRSET\r\nVRFY a\r\nEHLO x\r\nQUIT\r\n",
		begin + "DATA\r\nSubject: x\r\n\r\none\r\n.\r\n" + begin + "DATA\r\n.\r\n",
		begin + "DATA\r\n\r\n\n.\n\r.\r\r\n.\n..\r\n.\r\n",
		begin + "DATA\r\ncut",
		begin + "BDAT 5\r\n\r\none BDAT 4 LAST\r\ntwo\n" + begin + "BDAT 0 LAST\r\n",
		begin + "BDAT 100 LAST\r\ncut",
		begin + "BDAT 3\r\na\x00bRSET\r\nBDAT 99999999999 LAST\r\n",
		"BDAT 10\r\n0123456789AUTH PLAIN\r\nSTARTTLS\r\n",
		begin + begin + "RCPT TO:<\"a b\"@[127.0.0.1]>\r\nMAIL FROM:<> SIZE=9 BODY=8BITMIME SMTPUTF8 RET=FULL ENVID=x AUTH=<>\r\n",
	} {
		f.Add([]byte(seed))
	}
	s := defaultSettings()
	s.Server.MessageSizeLimit = 64 << 10
	s.Server.Limits.DataTimeout = patience
	d := newStand(f, s)
	f.Fuzz(func(t *testing.T, text []byte) {
		before := len(d.hop.Delivered())
		said := d.converseRaw(t, text)
		accepted := bytes.Count(said, []byte("250 2.0.0 Ok: queued as "))
		if sent := len(d.hop.Delivered()) - before; sent != accepted {
			t.Errorf("%d messages were sent, and the client has heard\n%s", sent, said)
		}
	})
}

// FuzzStranger has somebody without a password say anything, in clear and over
// TLS. Nobody gets in, and the next hop does not hear of it.
func FuzzStranger(f *testing.F) {
	for _, seed := range []string{
		"EHLO x\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n.\r\n",
		"EHLO x\r\nAUTH PLAIN\r\nAGFsaWNlAHdyb25n\r\nAUTH LOGIN\r\n*\r\nAUTH LOGIN =\r\nYQ==\r\n\r\n",
		"HELO x\r\nAUTH PLAIN AGFsaWNlAA==\r\nBDAT 5\r\nRSET\nMAIL FROM:<>\r\n",
		"STARTTLS\r\nEHLO x\r\nMAIL FROM:<>\r\n",
		"\x16\x03\x01\x00\x05hello",
	} {
		f.Add([]byte(seed), true)
		f.Add([]byte(seed), false)
	}
	d := newStand(f, defaultSettings())
	f.Fuzz(func(t *testing.T, text []byte, secure bool) {
		c, err := dial(d.address(), STARTTLS)
		if err != nil {
			t.Fatal(err)
		}
		defer c.raw.Close()
		if secure {
			if err := c.secure(); err != nil {
				t.Fatal(err)
			}
		}
		said := c.monologue(t, text)
		if bytes.Contains(said, []byte("\n235 ")) || d.hop.Count("MAIL") > 0 {
			t.Errorf("a stranger has got in:\n%s", said)
		}
	})
}

// converseRaw logs in, says text and what ends a connection, and returns what the
// server has said to it.
func (d *stand) converseRaw(t *testing.T, text []byte) []byte {
	c, err := dial(d.address(), STARTTLS)
	if err != nil {
		t.Fatal(err)
	}
	defer c.raw.Close()
	if err := c.login("alice secret"); err != nil {
		t.Fatal(err)
	}
	return c.monologue(t, text)
}

// monologue says text and what ends a connection, and returns what the server
// has said meanwhile.
func (c *client) monologue(t *testing.T, text []byte) []byte {
	_ = c.raw.SetDeadline(time.Now().Add(patience))
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = c.conn().Write(text)
		_ = c.closeWrite()
	}()
	said, err := io.ReadAll(c.in)
	<-sent
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("the connection is still open after\n%s", said)
	}
	return said
}
