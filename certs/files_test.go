package certs

import (
	"context"
	"crypto/tls"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"postern/test/kit"
)

// used returns the serial number of the certificate in use.
func used(t *testing.T, f *Files) int64 {
	t.Helper()
	cert, err := f.GetCertificate(&tls.ClientHelloInfo{})
	if err != nil {
		t.Fatal(err)
	}
	return cert.Leaf.SerialNumber.Int64()
}

// watching runs Watch until the end of a test.
func watching(t *testing.T, f *Files) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); f.Watch(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
}

func eventuallyUses(t *testing.T, f *Files, serial int64) {
	t.Helper()
	kit.Eventually(t, "the change of the certificate", func() bool { return used(t, f) == serial })
}

func TestWatchRename(t *testing.T) {
	folder := t.TempDir()
	f := open(t, NewLog(slog.New(slog.DiscardHandler)), maker{serial: 1, hosts: []string{"mail.example.org"}}.in(t, folder))
	watching(t, f)
	maker{serial: 2, hosts: []string{"mail.example.org"}}.in(t, folder)
	eventuallyUses(t, f, 2)
	maker{serial: 3, hosts: []string{"mail.example.org"}}.in(t, folder)
	eventuallyUses(t, f, 3)
}

// Certbot keeps all versions in archive/ and replaces links in live/.
func TestWatchCertbotLinks(t *testing.T) {
	base := t.TempDir()
	live, archive := mkdir(t, base, "live", "example.org"), mkdir(t, base, "archive", "example.org")
	pair := Pair{Cert: filepath.Join(live, "fullchain.pem"), Key: filepath.Join(live, "privkey.pem")}
	renew := func(n string, serial int64) {
		certPEM, keyPEM := maker{serial: serial, hosts: []string{"mail.example.org"}}.pem(t)
		replace(t, filepath.Join(archive, "privkey"+n+".pem"), keyPEM)
		symlink(t, "../../archive/example.org/privkey"+n+".pem", pair.Key)
		replace(t, filepath.Join(archive, "fullchain"+n+".pem"), certPEM)
		symlink(t, "../../archive/example.org/fullchain"+n+".pem", pair.Cert)
	}
	renew("1", 1)
	f := open(t, NewLog(slog.New(slog.DiscardHandler)), pair)
	watching(t, f)
	renew("2", 2)
	eventuallyUses(t, f, 2)
}

// Kubernetes replaces one link in the path of all files of a secret.
func TestWatchKubernetesLinks(t *testing.T) {
	base := t.TempDir()
	write := func(version string, serial int64) {
		certPEM, keyPEM := maker{serial: serial, hosts: []string{"mail.example.org"}}.pem(t)
		folder := mkdir(t, base, version)
		replace(t, filepath.Join(folder, "tls.crt"), certPEM)
		replace(t, filepath.Join(folder, "tls.key"), keyPEM)
		symlink(t, version, filepath.Join(base, "..data"))
	}
	write("..1", 1)
	symlink(t, "..data/tls.crt", filepath.Join(base, "tls.crt"))
	symlink(t, "..data/tls.key", filepath.Join(base, "tls.key"))
	f := open(t, NewLog(slog.New(slog.DiscardHandler)), Pair{Cert: filepath.Join(base, "tls.crt"), Key: filepath.Join(base, "tls.key")})
	watching(t, f)
	write("..2", 2)
	if err := os.RemoveAll(filepath.Join(base, "..1")); err != nil {
		t.Fatal(err)
	}
	eventuallyUses(t, f, 2)
	write("..3", 3)
	eventuallyUses(t, f, 3)
}

// A folder in the path may be a link, too.
func TestWatchLinkOnTheWay(t *testing.T) {
	base := t.TempDir()
	pair := Pair{Cert: filepath.Join(base, "current", "fullchain.pem"), Key: filepath.Join(base, "current", "privkey.pem")}
	maker{serial: 1, hosts: []string{"mail.example.org"}}.in(t, mkdir(t, base, "one"))
	maker{serial: 2, hosts: []string{"mail.example.org"}}.in(t, mkdir(t, base, "two"))
	symlink(t, "one", filepath.Join(base, "current"))
	f := open(t, NewLog(slog.New(slog.DiscardHandler)), pair)
	watching(t, f)
	symlink(t, "two", filepath.Join(base, "current"))
	eventuallyUses(t, f, 2)
}

func TestBrokenPairKeepsTheOld(t *testing.T) {
	goodCert, goodKey := maker{serial: 2, hosts: []string{"mail.example.org"}}.pem(t)
	tests := []struct {
		name      string
		cert, key []byte // nil: removed
		want      string
	}{
		{"certificate incomplete", goodCert[:len(goodCert)/2], goodKey, "the file is incomplete"},
		{"key incomplete", goodCert, goodKey[:len(goodKey)/2], "the file is incomplete"},
		{"certificate empty", []byte{}, goodKey, "is empty"},
		{"key of another certificate", goodCert, second(maker{serial: 3, hosts: []string{"mail.example.org"}}.pem(t)), "is the key of another certificate"},
		{"key with a passphrase", goodCert, encode("ENCRYPTED PRIVATE KEY", []byte("x")), "openssl pkey"},
		{"files swapped", goodKey, goodCert, "certificate and key are exchanged"},
		{"certificate gone", nil, goodKey, "certbot"},
		{"key gone", goodCert, nil, "certbot"},
		{"endless", goodCert, make([]byte, 2<<20), "larger than"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			log := new(kit.LogBuffer)
			pair := maker{serial: 1, hosts: []string{"mail.example.org"}}.in(t, t.TempDir())
			f := open(t, NewLog(log.Logger()), pair)
			overwrite(t, pair.Cert, tt.cert)
			overwrite(t, pair.Key, tt.key)
			err := f.Reload(t.Context())
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Reload: %v, want %q in it", err, tt.want)
			}
			if used(t, f) != 1 {
				t.Error("the old pair is not in use any more")
			}
			if !strings.Contains(log.String(), "the old one stays") {
				t.Errorf("the failure is not in the log: %s", log)
			}
			if _, err := OpenFiles(config(pair), NewLog(log.Logger()), nil); err == nil {
				t.Error("a start with the broken pair succeeds")
			}
		})
	}
}

func second(_, b []byte) []byte { return b }

func overwrite(t *testing.T, name string, content []byte) {
	t.Helper()
	if content == nil {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		return
	}
	replace(t, name, content)
}

// A pair that stays broken is reported once, and it is used when it is correct again.
func TestCorrectedPair(t *testing.T) {
	log := new(kit.LogBuffer)
	folder := t.TempDir()
	pair := maker{serial: 1, hosts: []string{"mail.example.org"}}.in(t, folder)
	f := open(t, NewLog(log.Logger()), pair)
	replace(t, pair.Key, []byte("half"))
	f.reloadChanged()
	f.reloadChanged()
	if n := strings.Count(log.String(), "the old one stays"); n != 1 {
		t.Errorf("reported %d times, want once: %s", n, log)
	}
	maker{serial: 2, hosts: []string{"mail.example.org"}}.in(t, folder)
	f.reloadChanged()
	if used(t, f) != 2 || !strings.Contains(log.String(), "certificate reloaded") {
		t.Errorf("the corrected pair is not in use: %s", log)
	}
}

// If a named pipe replaces a certificate, reading it does not block.
func TestWatchNamedPipe(t *testing.T) {
	log := new(kit.LogBuffer)
	folder := t.TempDir()
	pair := maker{serial: 1, hosts: []string{"mail.example.org"}}.in(t, folder)
	f := open(t, NewLog(log.Logger()), pair)
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	watching(t, f)
	t.Cleanup(func() { // ends a reader that blocks
		if w, err := os.OpenFile(pipe, os.O_RDWR, 0); err == nil {
			_ = w.Close()
		}
	})
	symlink(t, pipe, pair.Cert)
	kit.Eventually(t, "the failure is in the log", func() bool { return strings.Contains(log.String(), "not a regular file") })
	maker{serial: 2, hosts: []string{"mail.example.org"}}.in(t, folder)
	eventuallyUses(t, f, 2)
}

// If one pair is broken, the others are replaced.
func TestPairsAreIndependent(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	first := maker{serial: 1, hosts: []string{"mail.example.org"}}.in(t, one)
	f := open(t, NewLog(slog.New(slog.DiscardHandler)), first, maker{serial: 2, hosts: []string{"smtp.example.net"}}.in(t, two))
	replace(t, first.Key, []byte("half"))
	maker{serial: 3, hosts: []string{"smtp.example.net"}}.in(t, two)
	if err := f.Reload(t.Context()); err == nil {
		t.Error("Reload says that all is well")
	}
	server := TLSConfig(Defaults(), f)
	if got := serialOf(t, server, &tls.Config{ServerName: "mail.example.org"}); got != 1 {
		t.Errorf("the broken pair's name is served by %d, want 1", got)
	}
	if got := serialOf(t, server, &tls.Config{ServerName: "smtp.example.net"}); got != 3 {
		t.Errorf("the renewed pair's name is served by %d, want 3", got)
	}
}

func TestAge(t *testing.T) {
	tests := []struct {
		name string
		left time.Duration
		want string
	}{
		{"fresh", 60 * 24 * time.Hour, ""},
		{"two weeks", 15 * 24 * time.Hour, ""},
		{"less than two weeks", 13 * 24 * time.Hour, "expires soon"},
		{"over", -time.Minute, "has expired"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			log := new(kit.LogBuffer)
			end := time.Now().Add(tt.left)
			f := open(t, NewLog(log.Logger()), maker{serial: 1, hosts: []string{"mail.example.org"}, notBefore: end.AddDate(0, -3, 0), notAfter: end}.in(t, t.TempDir()))
			if got := log.String(); !strings.Contains(got, tt.want) || (tt.want == "") != (got == "") {
				t.Errorf("log: %q, want %q", got, tt.want)
			}
			if p := f.Infos()[0].Problems[0]; !strings.Contains(p.Cause, tt.want) || (tt.want == "") != (p.Level == Note) {
				t.Errorf("%+v, want %q", p, tt.want)
			}
			if d := f.NotAfter().Sub(end).Abs(); d > 2*time.Second {
				t.Errorf("NotAfter is off by %v", d)
			}
		})
	}
}

func TestNotAfterIsTheFirst(t *testing.T) {
	soon := time.Now().Add(20 * 24 * time.Hour)
	f := open(t, NewLog(slog.New(slog.DiscardHandler)),
		maker{serial: 1, hosts: []string{"mail.example.org"}}.in(t, t.TempDir()),
		maker{serial: 2, hosts: []string{"smtp.example.net"}, notAfter: soon}.in(t, t.TempDir()))
	if d := f.NotAfter().Sub(soon).Abs(); d > 2*time.Second {
		t.Errorf("NotAfter is off by %v", d)
	}
}

func TestInfos(t *testing.T) {
	pair := maker{serial: 1, hosts: []string{"mail.example.org", "192.0.2.1"}, key: newRSA(t)}.in(t, t.TempDir())
	got := open(t, NewLog(slog.New(slog.DiscardHandler)), pair).Infos()[0]
	if got.Pair != pair || strings.Join(got.Names, " ") != "mail.example.org 192.0.2.1" || got.Algorithm != "RSA" {
		t.Errorf("got %+v", got)
	}
}

// A file that every user of the machine can change is refused. At a reload the old pair stays,
// and the log has the path and the next step.
func TestFilesThatOthersCanChange(t *testing.T) {
	for _, tt := range []struct {
		name string
		at   func(Pair) string
		mode os.FileMode
	}{
		{"certificate", func(p Pair) string { return p.Cert }, 0o646},
		{"key", func(p Pair) string { return p.Key }, 0o602},
		{"folder", func(p Pair) string { return filepath.Dir(p.Key) }, 0o707},
	} {
		t.Run(tt.name, func(t *testing.T) {
			log := new(kit.LogBuffer)
			folder := t.TempDir()
			pair := maker{serial: 1, hosts: []string{"mail.example.org"}}.in(t, folder)
			f := open(t, NewLog(log.Logger()), pair)
			at := tt.at(pair)
			maker{serial: 2, hosts: []string{"mail.example.org"}}.in(t, folder)
			chmod(t, at, tt.mode)
			for range 2 {
				f.reloadChanged()
			}
			step := "run chmod o-w " + at
			if n := strings.Count(log.String(), step); n != 1 || used(t, f) != 1 || !strings.Contains(log.String(), "the old one stays") {
				t.Errorf("certificate %d, reported %d times: %s", used(t, f), n, log)
			}
			if _, err := OpenFiles(config(pair), NewLog(log.Logger()), nil); err == nil || !strings.Contains(err.Error(), step) {
				t.Errorf("at start: %v", err)
			}
			chmod(t, at, 0o700)
			f.reloadChanged()
			if used(t, f) != 2 {
				t.Errorf("the corrected pair is not in use: %s", log)
			}
		})
	}
}

// The folders of certbot and of Debian's ssl-cert are accepted.
func TestUsualPermissionsOfKeys(t *testing.T) {
	live, archive := t.TempDir(), t.TempDir()
	pair := maker{serial: 1, hosts: []string{"mail.example.org"}}.in(t, archive)
	linked := Pair{Cert: filepath.Join(live, "fullchain.pem"), Key: filepath.Join(live, "privkey.pem")}
	symlink(t, pair.Cert, linked.Cert)
	symlink(t, pair.Key, linked.Key)
	chmod(t, live, 0o700)
	for mode, folder := range map[os.FileMode]os.FileMode{0o600: 0o755, 0o640: 0o710, 0o644: 0o700} {
		chmod(t, archive, folder)
		chmod(t, pair.Key, mode)
		if _, err := OpenFiles(config(linked), NewLog(slog.New(slog.DiscardHandler)), nil); err != nil {
			t.Errorf("key %o in a folder %o: %v", mode, folder, err)
		}
	}
}
