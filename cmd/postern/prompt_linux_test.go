package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"postern/cmd/postern/internal/process"
	"postern/test/kit"
)

// openTerminal returns the two sides of a pseudo-terminal. Text that is written to the
// person's side is input of the other one.
func openTerminal(t *testing.T) (person, terminal *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	kit.Must(t, err)
	t.Cleanup(func() { person.Close() })
	fd := int(person.Fd())
	kit.Must(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	kit.Must(t, err)
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	kit.Must(t, err)
	t.Cleanup(func() { terminal.Close() })
	return person, terminal
}

// A typist types an answer after each question, when the terminal does not echo any
// more.
type typist struct {
	person   *os.File
	terminal *os.File
	answers  []string
	asked    bytes.Buffer
	typing   sync.WaitGroup
}

func (w *typist) Write(p []byte) (int, error) {
	w.asked.Write(p)
	if strings.HasSuffix(string(p), ": ") && len(w.answers) > 0 {
		answer := w.answers[0]
		w.answers = w.answers[1:]
		w.typing.Go(func() { w.answer(answer) })
	}
	return len(p), nil
}

func (w *typist) answer(text string) {
	awaitNoEcho(w.terminal)
	_, _ = w.person.WriteString(text + "\n")
}

// awaitNoEcho waits until the terminal does not echo.
func awaitNoEcho(terminal *os.File) { kit.Soon(func() bool { return !echoes(terminal) }) }

func echoes(f *os.File) bool {
	termios, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err != nil || termios.Lflag&unix.ECHO != 0
}

func TestPasswdAsksTwice(t *testing.T) {
	for name, c := range map[string]struct {
		answers []string
		status  int
	}{
		"the same": {[]string{"blue", "blue"}, process.ExitOK},
		"another":  {[]string{"blue", "glue"}, process.ExitFailure},
	} {
		t.Run(name, func(t *testing.T) {
			person, terminal := openTerminal(t)
			file := filepath.Join(t.TempDir(), "users")
			w := &typist{person: person, terminal: terminal, answers: c.answers}
			status := run([]string{"passwd", file, "carol"}, terminal, w, w)
			w.typing.Wait()
			if status != c.status {
				t.Errorf("status %d, want %d: %s", status, c.status, w.asked.String())
			}
			if !echoes(terminal) {
				t.Error("the terminal is left without echo")
			}
			if _, err := os.Stat(file); (err == nil) != (c.status == process.ExitOK) {
				t.Errorf("file: %v", err)
			}
		})
	}
}

// Text of a client does not control the terminal of the administrator. In a pipe it is unchanged.
func TestQueueEscapesForTerminals(t *testing.T) {
	s, _ := spooling(t)
	const subject, escaped = "\x1b]0;owned\x07\u009b2J", `\x1b]0;owned\x07\u009b2J`
	kit.Must(t, s.Trial(t, "alice", "right").Send(t.Context(), subject))
	list := runQueue(t, s, "list")
	id := queueID.FindString(list)
	if raw := runQueue(t, s, "show", "--message", id); !strings.Contains(raw, subject) {
		t.Errorf("in a pipe: %q", raw)
	}
	for _, args := range [][]string{{"list"}, {"show", id}, {"show", "--message", id}} {
		person, terminal := openTerminal(t)
		shown := make(chan string)
		go func() {
			text, _ := io.ReadAll(person) // ends with EIO when the terminal is closed
			shown <- string(text)
		}()
		status := run(append(append([]string{"queue"}, args...), "--config", s.Config()), strings.NewReader(""), terminal, os.Stderr)
		kit.Must(t, terminal.Close())
		text := <-shown
		if status != process.ExitOK || strings.ContainsAny(text, "\x1b\x07\u009b") || !strings.Contains(text, id) && !strings.Contains(text, escaped) {
			t.Errorf("%q on a terminal: status %d, %q", args, status, text)
		}
		if args[0] == "show" && len(args) == 3 && !strings.Contains(text, escaped) {
			t.Errorf("the message is not shown: %q", text)
		}
	}
}

func TestInterruptRestoresEcho(t *testing.T) {
	person, terminal := openTerminal(t)
	p, err := newPrompter(terminal, &bytes.Buffer{})
	kit.Must(t, err)
	asked := make(chan error, 1)
	go func() {
		_, err := p.ask("Password: ")
		asked <- err
	}()
	awaitNoEcho(terminal)
	kit.Must(t, syscall.Kill(os.Getpid(), syscall.SIGINT))
	if err := <-asked; err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("got %v", err)
	}
	if !echoes(terminal) || !term.IsTerminal(int(terminal.Fd())) {
		t.Error("the terminal is left without echo")
	}
	_, err = person.WriteString("\n") // ends the goroutine that reads
	kit.Must(t, err)
}
