package fault

import (
	"crypto/tls"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"postern/test/kit"
)

// program builds postern once for all tests.
var program = kit.Program("postern", "-race")

func TestMain(m *testing.M) {
	kit.AtOnce(8)
	status := m.Run()
	kit.RemovePrograms()
	os.Exit(status)
}

const users = "alice:" + kit.Hash + "\nbob:" + kit.Hash + "\n"

// quick are the keys of [relay] that make a test short: a silent hop costs six seconds
// instead of a minute. Six seconds are enough for a hop that replies on a busy machine.
const quick = `patience = "500ms"
connect_timeout = "6s"
command_timeout = "6s"
data_timeout = "6s"
`

// exempt switches off the penalties for wrong passwords.
const exempt = `penalty_exempt = ["127.0.0.0/8"]` + "\n"

// A server is the postern under test. Its folder and its port remain when its process
// ends, so that it can be started again.
type server struct {
	dir, addr string
	ca        *kit.CA
	run       func(*exec.Cmd, chan<- error) error // starts a process and sends its result
	cmd       *exec.Cmd
	ended     chan error
}

// newServer writes the files of a postern with this next hop, and does not start it.
// sections has lines to add to sections of the configuration.
func newServer(t *testing.T, hop string, sections map[string]string) *server {
	t.Helper()
	s := &server{dir: folder(t), addr: kit.Addr(t), run: run}
	s.ca = kit.NewCA(t, s.dir)
	s.ca.Issue(t, 1, s.file("cert.pem"), s.file("key.pem"))
	kit.Own(t, s.file("cert.pem"), s.file("key.pem"))
	s.write(t, "users", users)
	all := map[string]string{
		"server": "hostname = \"postern.example.org\"\n",
		"tls":    fmt.Sprintf("certificates = [{ cert = %q, key = %q }]\n", s.file("cert.pem"), s.file("key.pem")),
		"auth":   fmt.Sprintf("stores = [{ kind = \"userfile\", path = %q }]\n", s.file("users")),
		"relay":  fmt.Sprintf("next_hops = [%q]\n", hop),
	}
	if strings.Contains(sections["auth"], "[[auth.stores]]") {
		all["auth"] = ""
	}
	for name, lines := range sections {
		all[name] += lines
	}
	text := fmt.Sprintf("[[listener]]\nname = \"submissions\"\naddress = [%q]\nmode = \"tls\"\n", s.addr)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		text += "[" + name + "]\n" + all[name]
	}
	s.write(t, "config.toml", text)
	t.Cleanup(func() { s.finish(t) })
	return s
}

func startServer(t *testing.T, hop string, sections map[string]string) *server {
	t.Helper()
	s := newServer(t, hop, sections)
	s.start(t)
	return s
}

// folder makes a folder that belongs to the user of the server.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "postern-fault-")
	kit.Must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	kit.Own(t, dir)
	return dir
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	kit.Must(t, os.Rename(from, to))
}

func (s *server) file(name string) string { return filepath.Join(s.dir, name) }

func (s *server) write(t *testing.T, name, text string) {
	t.Helper()
	kit.Must(t, os.WriteFile(s.file(name), []byte(text), 0o600))
	kit.Own(t, s.file(name))
}

// start runs the server and waits until it accepts clients.
func (s *server) start(t *testing.T) {
	t.Helper()
	s.launch(t)
	s.await(t)
}

func (s *server) launch(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(s.file("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	kit.Must(t, err)
	defer log.Close()
	s.cmd = s.command(t, "serve")
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.ended = make(chan error, 1)
	if err := s.run(s.cmd, s.ended); err != nil {
		s.cmd = nil
		t.Fatal(err)
	}
}

func run(cmd *exec.Cmd, ended chan<- error) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { ended <- cmd.Wait() }()
	return nil
}

// await waits for the reply to EHLO, or for the end of the server, which fails the test.
func (s *server) await(t *testing.T) {
	t.Helper()
	kit.Eventually(t, "postern at "+s.addr, func() bool {
		select {
		case err := <-s.ended:
			s.cmd = nil
			t.Fatalf("postern ended: %v\n%s", err, s.log())
		default:
		}
		c, err := s.connect()
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// command returns a subcommand of postern, as the user that owns its files.
func (s *server) command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	file, err := program()
	kit.Must(t, err)
	cmd := kit.Command(file, append(args, "--config", s.file("config.toml"))...)
	cmd.Dir = s.dir
	return cmd
}

func (s *server) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	kit.Must(t, s.cmd.Process.Signal(sig))
}

// kill ends the server by SIGKILL.
func (s *server) kill(t *testing.T) {
	t.Helper()
	s.signal(t, syscall.SIGKILL)
	<-s.ended
	s.cmd = nil
}

// stop ends the server by SIGTERM. It must end with status 0 within a minute.
func (s *server) stop(t *testing.T) {
	t.Helper()
	if s.cmd == nil {
		return
	}
	s.signal(t, syscall.SIGTERM)
	s.wait(t)
}

func (s *server) wait(t *testing.T) {
	t.Helper()
	select {
	case err := <-s.ended:
		if err != nil {
			t.Errorf("postern ended with %v", err)
		}
	case <-time.After(time.Minute):
		_ = s.cmd.Process.Kill()
		t.Errorf("postern did not stop: %v", <-s.ended)
	}
	s.cmd = nil
}

func (s *server) finish(t *testing.T) {
	s.stop(t)
	kit.InspectLog(t, s.log())
	if text := s.log(); t.Failed() {
		t.Logf("end of the log of postern:\n%s", text[max(0, len(text)-20000):])
	}
}

func (s *server) log() string {
	text, _ := os.ReadFile(s.file("log"))
	return string(text)
}

func (s *server) logged(words string) int { return strings.Count(s.log(), words) }

func (s *server) tls() *tls.Config {
	return &tls.Config{RootCAs: s.ca.Pool, ServerName: "localhost"}
}
