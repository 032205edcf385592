package app

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern/cmd/postern/internal/config"
	"postern/cmd/postern/internal/logging"
	"postern/server/auth/throttle"
	"postern/test/kit"
)

// withState returns an App that has read a state folder, and its log.
func withState(t *testing.T, dir string) (*App, *kit.LogBuffer) {
	t.Helper()
	cfg := new(config.Config)
	cfg.Server.StateDir = dir
	cfg.Auth.PenaltyWait = time.Minute
	log := new(kit.LogBuffer)
	a := New(cfg, logging.With(slog.New(slog.NewTextHandler(log, nil))))
	kit.Must(t, a.openState(cfg))
	t.Cleanup(a.Close)
	return a, log
}

// known logs alice in, and reports whether she was known at her address.
func known(t *testing.T, a *App) bool {
	t.Helper()
	attempt, err := a.throttle.Acquire(t.Context(), netip.MustParseAddr("192.0.2.1"), "alice")
	kit.Must(t, err)
	attempt.Done(throttle.Outcome{Result: throttle.Success, User: "alice"})
	return attempt.Known
}

func TestKnownPairsSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	first, log := withState(t, dir)
	if known(t, first) {
		t.Error("alice is known at the first start")
	}
	first.Close()
	second, _ := withState(t, dir)
	if !known(t, second) {
		t.Error("alice is not known after a restart")
	}
	if log.String() != "" {
		t.Errorf("the log has\n%s", log.String())
	}
	files, err := os.ReadDir(dir)
	kit.Must(t, err)
	for _, f := range files {
		info, err := f.Info()
		kit.Must(t, err)
		if info.Mode() != 0o600 {
			t.Errorf("%s has the mode %v", f.Name(), info.Mode())
		}
	}
	if len(files) != 2 {
		t.Errorf("the folder has %v", files)
	}
}

// A damaged file is reported and replaced, and the server starts.
func TestDamagedStateIsIgnored(t *testing.T) {
	for name, content := range map[string]string{
		"secret": "abc\n", "secret ": "", "known-pairs": "damaged", "known-pairs ": "postern throttle 1\ncut",
	} {
		name = strings.TrimSpace(name)
		dir := t.TempDir()
		a, _ := withState(t, dir)
		known(t, a)
		a.Close()
		kit.Must(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
		a, log := withState(t, dir)
		if known(t, a) {
			t.Errorf("%s: alice is known", name)
		}
		if !strings.Contains(log.String(), `msg="state file ignored; the server starts without it" path=`+filepath.Join(dir, name)) {
			t.Errorf("%s: the log has\n%s", name, log.String())
		}
		a.Close()
		a, log = withState(t, dir)
		if !known(t, a) || log.String() != "" {
			t.Errorf("%s: it was not replaced; the log has\n%s", name, log.String())
		}
	}
}

// What a crash or another user has left in the folder is replaced, and not followed.
func TestStateFilesAreReplaced(t *testing.T) {
	dir, elsewhere := t.TempDir(), filepath.Join(t.TempDir(), "elsewhere")
	kit.Must(t, os.WriteFile(elsewhere, []byte("kept"), 0o600))
	kit.Must(t, os.Symlink(elsewhere, filepath.Join(dir, pairsFile+".new")))
	kit.Must(t, os.WriteFile(filepath.Join(dir, secretFile+".new"), []byte("half"), 0o600))
	a, log := withState(t, dir)
	known(t, a)
	a.Close()
	if content, err := os.ReadFile(elsewhere); err != nil || string(content) != "kept" {
		t.Errorf("%q, %v", content, err)
	}
	if files, _ := os.ReadDir(dir); len(files) != 2 || log.String() != "" {
		t.Errorf("%v; the log has\n%s", files, log.String())
	}
}

// A folder of the configuration has to exist; the default one need not be usable.
func TestStateFolderThatCannotBeUsed(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	cfg := new(config.Config)
	log := new(kit.LogBuffer)
	a := New(cfg, logging.With(slog.New(slog.NewTextHandler(log, nil))))
	defer a.Close()
	t.Setenv("STATE_DIRECTORY", missing+":/other")
	kit.Must(t, a.openState(cfg))
	if !strings.Contains(log.String(), "state folder not used") || !strings.Contains(log.String(), missing) || a.state != nil {
		t.Errorf("the log has\n%s", log.String())
	}
	cfg.Server.StateDir = missing
	if err := a.openState(cfg); err == nil || !strings.Contains(err.Error(), "install -d -m 0700") {
		t.Errorf("got %v, want an error with the next step", err)
	}
}

// A failure to save is logged once, and does not end the server.
func TestStateThatCannotBeSaved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	kit.Must(t, os.Mkdir(dir, 0o700))
	a, log := withState(t, dir)
	kit.Must(t, os.RemoveAll(dir))
	for range 3 {
		known(t, a)
		a.state.save()
	}
	if n := strings.Count(log.String(), "state file cannot be saved"); n != 1 {
		t.Errorf("%d lines:\n%s", n, log.String())
	}
	kit.Must(t, os.Mkdir(dir, 0o700))
	a.state.save()
	if _, err := os.Stat(filepath.Join(dir, pairsFile)); err != nil {
		t.Errorf("what could not be saved is not saved later: %v", err)
	}
}
