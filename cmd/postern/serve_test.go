package main

import (
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"postern/cmd/postern/internal/app"
	"postern/cmd/postern/internal/config"
	"postern/cmd/postern/internal/process"
	"postern/test/kit"
)

func TestServeAcceptsMail(t *testing.T) {
	s := startTestServer(t)
	kit.Must(t, s.submit(t, "alice", "right"))
	if err := s.submit(t, "alice", "wrong"); err == nil || !strings.Contains(err.Error(), "535") {
		t.Errorf("a wrong password: got %v, want 535", err)
	}
}

func TestReloadBringsNewUsersAndHops(t *testing.T) {
	s := startTestServer(t)
	other := startMailbox(t, s.file("other"))
	kit.Must(t, os.Rename(s.file("users"), s.file("users2")))
	s.user(t, "bob", "bobs")
	writeFile(t, s.config(), strings.Replace(readFile(t, s.config()), s.mailbox.URL(), other.URL(), 1))
	s.reload(t, "msg=reloaded")
	if err := s.submit(t, "bob", "bobs"); err == nil || !strings.Contains(err.Error(), "it is not in") {
		t.Errorf("the new user's message: got %v, want it in the other mailbox", err)
	}
	files, err := os.ReadDir(s.file("other"))
	if err != nil || len(files) != 1 {
		t.Errorf("the other mailbox has %d messages (%v), want 1", len(files), err)
	}
}

func TestReloadRefusesABrokenFile(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(t *testing.T, s *testServer)
		want  string
	}{
		"configuration": {func(t *testing.T, s *testServer) { s.configure(t, "no_such_key = 1\n") }, "no_such_key"},
		"certificate": {func(t *testing.T, s *testServer) {
			kit.Must(t, os.WriteFile(s.file("cert.pem"), []byte("broken"), 0o600))
		}, "cert.pem"},
		"open relay": {func(t *testing.T, s *testServer) {
			s.configure(t, "[[listener]]\nname = \"open\"\naddress = [\"127.0.0.1:0\"]\nrequire_auth = false\n[policy]\nrecipient = \"permit\"\n")
		}, "open relay"},
	} {
		t.Run(name, func(t *testing.T) {
			s := startTestServer(t)
			cert, err := os.ReadFile(s.file("cert.pem"))
			kit.Must(t, err)
			c.spoil(t, s)
			s.reload(t, "reload refused")
			if !strings.Contains(s.log.String(), c.want) {
				t.Errorf("the log lacks %q:\n%s", c.want, s.log.String())
			}
			kit.Must(t, os.WriteFile(s.file("cert.pem"), cert, 0o600)) // the client trusts this one
			kit.Must(t, s.submit(t, "alice", "right"))
		})
	}
}

func TestReloadLogsWhatNeedsARestart(t *testing.T) {
	s := startTestServer(t)
	s.configure(t, "[log]\nformat = \"json\"\nlevel = \"debug\"\n")
	s.reload(t, "msg=reloaded")
	s.address = kit.Addr(t)
	s.configure(t, "")
	s.reload(t, "msg=reloaded")
	for _, want := range []string{`msg="restart needed" key=log.format`, `msg="restart needed" listener=submission`} {
		if !strings.Contains(s.log.String(), want) {
			t.Errorf("the log lacks %s:\n%s", want, s.log.String())
		}
	}
}

// The server waits for a transaction in flight after the first signal, and not after
// the second one.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	s := startTestServer(t)
	d, err := s.trial(t, "alice", "right").Begin(t.Context())
	kit.Must(t, err)
	defer d.Close()
	if _, err := d.Command(354, "DATA"); err != nil {
		t.Fatal(err)
	}
	s.signals <- syscall.SIGTERM
	select {
	case err := <-s.ended:
		t.Fatalf("ended with a transaction in flight: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	s.signals <- syscall.SIGTERM
	select {
	case err := <-s.ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(15 * time.Second):
		t.Fatal("not ended after the second signal")
	}
}

func TestPortInUseIsExplained(t *testing.T) {
	s := newTestServer(t)
	l, err := net.Listen("tcp", s.address)
	kit.Must(t, err)
	defer l.Close()
	d, err := app.NewDaemon(func() (*config.Config, error) { return config.Load(s.config()) }, &s.log)
	kit.Must(t, err)
	defer d.Close()
	err = d.Start(nil)
	if err == nil || !strings.Contains(err.Error(), "another server has this port") {
		t.Errorf("got %v", err)
	}
}

func TestServeRefusesRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it is refused to root")
	}
	s := newTestServer(t)
	status, _, stderr := command(t, "", "serve", "--config", s.config())
	if status != process.ExitConfig || !strings.Contains(stderr, "server.user") {
		t.Errorf("status %d, want %d; it said:\n%s", status, process.ExitConfig, stderr)
	}
}
