package main

import (
	"net"
	"strings"
	"testing"
	"time"

	"postern/cmd/postern/internal/apptest"
	"postern/cmd/postern/internal/process"
	"postern/test/kit"
)

func TestHealth(t *testing.T) {
	s := apptest.Start(t)
	wantHealth(t, "--config", s.Config())
	wantHealth(t, "--address", s.Address)
}

// wantHealth runs the command until it succeeds, as service managers do: a busy
// machine may need more than the two seconds of health.
func wantHealth(t *testing.T, args ...string) {
	t.Helper()
	var status int
	var stderr string
	if !kit.Soon(func() bool {
		status, _, stderr = command(t, "", append([]string{"health"}, args...)...)
		return status == process.ExitOK
	}) {
		t.Errorf("%q: status %d: %s", args, status, stderr)
	}
}

func TestHealthWithPROXYHeader(t *testing.T) {
	s := apptest.New(t)
	s.Configure(t, "")
	text := strings.Replace(apptest.ReadFile(t, s.Config()), "[server]\n", "[server]\nproxy_trusted = [\"127.0.0.0/8\"]\n", 1)
	apptest.WriteFile(t, s.Config(), text)
	s.Start(t)
	wantHealth(t, "--config", s.Config())
	if status, _, _ := command(t, "", "health", "--address", s.Address); status != process.ExitFailure {
		t.Errorf("without a PROXY header: status %d, want %d", status, process.ExitFailure)
	}
}

func TestHealthWithoutServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // does not accept a connection
	kit.Must(t, err)
	defer l.Close()
	for name, address := range map[string]string{"no listener": kit.Addr(t), "silence": l.Addr().String()} {
		begin := time.Now()
		status, _, stderr := command(t, "", "health", "--address", address)
		if status != process.ExitFailure || !strings.Contains(stderr, "not healthy") {
			t.Errorf("%s: status %d: %s", name, status, stderr)
		}
		if took := time.Since(begin); took > 10*healthTime {
			t.Errorf("%s: took %v", name, took)
		}
	}
}

func TestLocalAddresses(t *testing.T) {
	for bound, want := range map[string]string{
		":587":              "127.0.0.1:587 [::1]:587",
		"0.0.0.0:587":       "127.0.0.1:587",
		"[::]:465":          "[::1]:465 127.0.0.1:465",
		"192.0.2.1:587":     "192.0.2.1:587",
		"[2001:db8::1]:587": "[2001:db8::1]:587",
	} {
		var got []string
		for _, a := range localAddresses(bound) {
			got = append(got, a.String())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: got %q, want %q", bound, got, want)
		}
	}
}

// A mistake in the file, and another port in it, do not make the running server ill.
func TestHealthAsksTheRunningServer(t *testing.T) {
	s := apptest.New(t)
	socket := s.File("control")
	control := "[server]\ncontrol = \"" + socket + "\"\n"
	apptest.WriteFile(t, s.Config(), strings.Replace(apptest.ReadFile(t, s.Config()), "[server]\n", control, 1))
	s.Start(t)
	wantHealth(t, "--config", s.Config())
	sound := apptest.ReadFile(t, s.Config())
	for name, text := range map[string]string{
		"unknown key": sound + "no_such_key = 1\n",
		"not TOML":    sound + "[relay\n",
		"other port":  strings.Replace(sound, s.Address, kit.Addr(t), 1) + "\n[log]\nlevel = \"loud\"\n",
	} {
		apptest.WriteFile(t, s.Config(), text)
		s.Reload(t, "reload refused")
		wantHealth(t, "--config", s.Config())
		if _, stdout, _ := command(t, "", "health", "--config", s.Config()); !strings.Contains(stdout, "the last reload was refused") {
			t.Errorf("%s: %q", name, stdout)
		}
	}
	apptest.WriteFile(t, s.Config(), sound)
	s.Reload(t, "msg=reloaded")
	if _, stdout, _ := command(t, "", "health", "--config", s.Config()); stdout != "" {
		t.Errorf("after a good reload: %q", stdout)
	}
	s.Stop(t)
	if status, _, stderr := command(t, "", "health", "--config", s.Config()); status != process.ExitFailure || !strings.Contains(stderr, "not healthy") {
		t.Errorf("after the end: status %d: %s", status, stderr)
	}
}

func TestParseHealth(t *testing.T) {
	r := parseHealth([]string{"config /etc/postern/config.toml", "listener tls [::]:465", "proxy_trusted 127.0.0.0/8", "proxy_trusted x", "later version", "", "refused a; b"})
	if !r.isOf("/etc/postern/config.toml") || r.isOf("/etc/postern/other.toml") || r.isOf("config.toml") {
		t.Errorf("%+v", r)
	}
	h := r.health()
	if len(h.probes) != 2 || !h.probes[0].tls || h.probes[0].proxied || !h.probes[1].proxied || !strings.HasSuffix(h.note, "a; b") {
		t.Errorf("%+v", h)
	}
}
