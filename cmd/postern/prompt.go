package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/term"
)

// maxPassword is the largest password that is read, in bytes. It is more than a
// client can send (RFC 4954, section 4) and more than any hash scheme accepts, so
// that the scheme or the store reports a password that is too long.
const maxPassword = 12288

var (
	errInterrupted  = errors.New("interrupted; nothing was changed")
	errMismatch     = errors.New("the two passwords differ; nothing was changed")
	errNoTerminal   = errors.New("standard input is not a terminal")
	errLongPassword = fmt.Errorf("the password has more than %d bytes", maxPassword)
)

// A prompter asks for passwords on a terminal, without echo.
type prompter struct {
	terminal *os.File
	out      io.Writer // for the questions; not standard output, which may be a pipe
}

// newPrompter returns an error if in is not a terminal.
func newPrompter(in io.Reader, out io.Writer) (*prompter, error) {
	f, ok := in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil, errNoTerminal
	}
	return &prompter{f, out}, nil
}

func (p *prompter) ask(question string) (string, error) {
	fmt.Fprint(p.out, question)
	password, err := p.readHidden()
	fmt.Fprintln(p.out)
	return password, err
}

// askTwice asks for a new password. Both answers must be equal.
func (p *prompter) askTwice(question, again string) (string, error) {
	first, err := p.ask(question)
	if err != nil {
		return "", err
	}
	second, err := p.ask(again)
	if err != nil {
		return "", err
	}
	if first != second {
		return "", errMismatch
	}
	return first, nil
}

// readHidden reads a line without echo. It catches signals, because an interrupt
// would leave the terminal without echo. A read from a terminal cannot be aborted, so
// after an interrupt the goroutine that reads is left until the process ends.
func (p *prompter) readHidden() (string, error) {
	fd := int(p.terminal.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	interrupt := make(chan os.Signal, 1)
	signal.Notify(interrupt, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(interrupt)

	type result struct {
		line []byte
		err  error
	}
	read := make(chan result, 1)
	go func() {
		line, err := term.ReadPassword(fd)
		read <- result{line, err}
	}()
	select {
	case r := <-read:
		return string(r.line), r.err
	case <-interrupt:
		return "", errors.Join(errInterrupted, term.Restore(fd, before))
	}
}

// readPasswordLine reads a password from a pipe or a file: the first line without its
// line end.
func readPasswordLine(in io.Reader) (string, error) {
	line, err := bufio.NewReader(io.LimitReader(in, maxPassword+2)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("cannot read the password: %w", err)
	}
	line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
	if len(line) > maxPassword {
		return "", errLongPassword
	}
	return line, nil
}
