package authsocket

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postern/test/kit"
)

// The greetings were recorded from Dovecot 2.3.19, Postfix 3.7 and saslauthd 2.1.28.
var greetings = map[string]Peer{
	"VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nSPID\t24308\nCUID\t1\nCOOKIE\t5f\nDONE\n": {Kind: DovecotAuth},
	"VERSION\t1\t1\nSPID\t24308\n":                   {Kind: DovecotMaster},
	"VERSION\tauth-worker\t1\t0\n":                   {Kind: DovecotOther, Service: "auth-worker"},
	"VERSION\tstats-server\t4\t0\nFILTER\t\n":        {Kind: DovecotOther, Service: "stats-server"},
	"protocol\x00proxymap_protocol\x00\x00":          {Kind: Postfix, Service: "proxymap_protocol"},
	"protocol=anvil_protocol\n\n":                    {Kind: Postfix, Service: "anvil_protocol"},
	"\x00\x16NO NULL login received":                 {Kind: Saslauthd},
	"\x00\x02OK":                                     {Kind: Saslauthd},
	"220 mail.example.org Dovecot ready.\r\n":        {Kind: Mail, Service: "SMTP or LMTP"},
	"* OK [CAPABILITY IMAP4rev1] Dovecot ready.\r\n": {Kind: Mail, Service: "IMAP"},
	"+OK Dovecot ready.\r\n":                         {Kind: Mail, Service: "POP3"},
}

// Every beginning of a greeting is either recognised like the whole or not yet.
func TestRecognize(t *testing.T) {
	for text, want := range greetings {
		for n := range len(text) {
			if p, ok := Recognize([]byte(text[:n])); ok && p != want {
				t.Errorf("%q: got %+v, want %+v", text[:n], p, want)
			}
		}
		if p, ok := Recognize([]byte(text)); !ok || p != want {
			t.Errorf("%q: got %+v, %v, want %+v", text, p, ok, want)
		}
	}
	for _, text := range []string{"", "V", "HELLO\n", "\x00\x16", "\xff\xffNO", "VERSIONS\t1\n"} {
		if p, ok := Recognize([]byte(text)); ok {
			t.Errorf("%q: %+v", text, p)
		}
	}
}

func FuzzRecognize(f *testing.F) {
	for text := range greetings {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if p, _ := Recognize(text); strings.ContainsAny(p.Service, "\x1b\n\r") || len(p.Service) > 40 {
			t.Errorf("%q: %q", text, p.Service)
		}
	})
}

func TestProbe(t *testing.T) {
	for text, want := range greetings {
		path := daemon(t, text)
		if p, err := Probe(t.Context(), "unix", path); err != nil || p != want {
			t.Errorf("%q: got %+v, %v, want %+v", text, p, err, want)
		}
	}
}

// A daemon that sends nothing is named by its process, which is this one.
func TestProbeSilence(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "socket"))
	kit.Must(t, err)
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = conn.Read(make([]byte, 8)) // the request, so that Probe is reading
		cancel()
	}()
	p, err := Probe(ctx, "unix", l.Addr().String())
	if err != nil || p.Kind != Unknown || !p.Silent || !strings.Contains(p.Process, "authsocket") {
		t.Errorf("got %+v, %v", p, err)
	}
}

func TestCheckType(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	kit.Must(t, os.WriteFile(file, nil, 0o600))
	for path, want := range map[string]string{dir: "is a folder", file: "is a file", daemon(t, ""): "", filepath.Join(dir, "missing"): ""} {
		err := CheckType(path)
		if e, ok := errors.AsType[*NotSocketError](err); ok != (want != "") || ok && !strings.Contains(e.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}

// daemon listens on a socket and sends text to each client.
func daemon(t *testing.T, text string) string {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "socket"))
	kit.Must(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte(text))
			_, _ = conn.Read(make([]byte, 8))
			conn.Close()
		}
	}()
	return l.Addr().String()
}
