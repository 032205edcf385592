package app_test

import (
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"postern/cmd/postern/internal/app"
	"postern/cmd/postern/internal/apptest"
	"postern/cmd/postern/internal/config"
	"postern/test/kit"
)

func TestServeAcceptsMail(t *testing.T) {
	s := apptest.Start(t)
	kit.Must(t, s.Submit(t, "alice", "right"))
	if err := s.Submit(t, "alice", "wrong"); err == nil || !strings.Contains(err.Error(), "535") {
		t.Errorf("a wrong password: got %v, want 535", err)
	}
}

func TestReloadBringsNewUsersAndHops(t *testing.T) {
	s := apptest.Start(t)
	other := apptest.StartMailbox(t, s.File("other"))
	kit.Must(t, os.Rename(s.File("users"), s.File("users2")))
	s.User(t, "bob", "bobs")
	apptest.WriteFile(t, s.Config(), strings.Replace(apptest.ReadFile(t, s.Config()), s.Mailbox.URL(), other.URL(), 1))
	s.Reload(t, "msg=reloaded")
	if err := s.Submit(t, "bob", "bobs"); err == nil || !strings.Contains(err.Error(), "it is not in") {
		t.Errorf("the new user's message: got %v, want it in the other mailbox", err)
	}
	files, err := os.ReadDir(s.File("other"))
	if err != nil || len(files) != 1 {
		t.Errorf("the other mailbox has %d messages (%v), want 1", len(files), err)
	}
}

func TestReloadRefusesABrokenFile(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(t *testing.T, s *apptest.Server)
		want  string
	}{
		"configuration": {func(t *testing.T, s *apptest.Server) { s.Configure(t, "no_such_key = 1\n") }, "no_such_key"},
		"certificate": {func(t *testing.T, s *apptest.Server) {
			kit.Must(t, os.WriteFile(s.File("cert.pem"), []byte("broken"), 0o600))
		}, "cert.pem"},
		"open relay": {func(t *testing.T, s *apptest.Server) {
			s.Configure(t, "[[listener]]\nname = \"open\"\naddress = [\"127.0.0.1:0\"]\nrequire_auth = false\n[policy]\nrecipient = \"permit\"\n")
		}, "open relay"},
	} {
		t.Run(name, func(t *testing.T) {
			s := apptest.Start(t)
			cert, err := os.ReadFile(s.File("cert.pem"))
			kit.Must(t, err)
			c.spoil(t, s)
			s.Reload(t, "reload refused")
			if !strings.Contains(s.Log.String(), c.want) {
				t.Errorf("the log lacks %q:\n%s", c.want, s.Log.String())
			}
			kit.Must(t, os.WriteFile(s.File("cert.pem"), cert, 0o600)) // the client trusts this one
			kit.Must(t, s.Submit(t, "alice", "right"))
		})
	}
}

func TestReloadLogsWhatNeedsARestart(t *testing.T) {
	s := apptest.Start(t)
	s.Configure(t, "[log]\nformat = \"json\"\nlevel = \"debug\"\n")
	s.Reload(t, "msg=reloaded")
	s.Address = kit.Addr(t)
	s.Configure(t, "")
	s.Reload(t, "msg=reloaded")
	for _, want := range []string{`msg="restart needed" key=log.format`, `msg="restart needed" listener=submission`} {
		if !strings.Contains(s.Log.String(), want) {
			t.Errorf("the log lacks %s:\n%s", want, s.Log.String())
		}
	}
}

// The server waits for a transaction in flight after the first signal, and not after
// the second one.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	s := apptest.Start(t)
	d, err := s.Trial(t, "alice", "right").Begin(t.Context())
	kit.Must(t, err)
	defer d.Close()
	if _, err := d.Command(354, "DATA"); err != nil {
		t.Fatal(err)
	}
	s.Signals <- syscall.SIGTERM
	select {
	case err := <-s.Ended:
		t.Fatalf("ended with a transaction in flight: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	s.Signals <- syscall.SIGTERM
	select {
	case err := <-s.Ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(15 * time.Second):
		t.Fatal("not ended after the second signal")
	}
}

func TestPortInUseIsExplained(t *testing.T) {
	s := apptest.New(t)
	l, err := net.Listen("tcp", s.Address)
	kit.Must(t, err)
	defer l.Close()
	d, err := app.NewDaemon(func() (*config.Config, error) { return config.Load(s.Config()) }, &s.Log)
	kit.Must(t, err)
	defer d.Close()
	err = d.Start(nil)
	if err == nil || !strings.Contains(err.Error(), "another server has this port") {
		t.Errorf("got %v", err)
	}
}
