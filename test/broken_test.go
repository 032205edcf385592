package test

import (
	"bufio"
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"postern/test/kit"
)

// A fixture prepares files or a daemon for one set-up of test/broken, and sets the
// placeholders that the configuration uses.
type fixture func(t *testing.T, s *setup, args []string)

// fixtures returns the fixtures by name. Each file broken_*_test.go has the fixtures of
// one subject.
func fixtures() map[string]fixture {
	all := make(map[string]fixture)
	for _, some := range []map[string]fixture{
		fileFixtures,
		hopFixtures,
		dnsFixtures,
		directoryFixtures,
		certificateFixtures,
		userFixtures,
		authFixtures,
		systemFixtures,
	} {
		for name, f := range some {
			if all[name] != nil {
				panic("two fixtures have the name " + name)
			}
			all[name] = f
		}
	}
	return all
}

// fileFixtures prepare files in the folder of the set-up.
var fileFixtures = map[string]fixture{
	// file NAME TEXT...: a file with one line
	"file": func(t *testing.T, s *setup, args []string) {
		s.write(t, args[0], strings.Join(args[1:], " ")+"\n")
	},
	// remove NAME
	"remove": func(t *testing.T, s *setup, args []string) { kit.Must(t, os.Remove(s.file(args[0]))) },
	// mkdir NAME
	"mkdir": func(t *testing.T, s *setup, args []string) {
		kit.Must(t, os.Mkdir(s.file(args[0]), 0o755))
		kit.Own(t, s.file(args[0]))
	},
	// chmod MODE NAME
	"chmod": func(t *testing.T, s *setup, args []string) {
		mode, err := strconv.ParseUint(args[0], 8, 32)
		kit.Must(t, err)
		kit.Must(t, os.Chmod(s.file(args[1]), os.FileMode(mode)))
	},
	// shell COMMANDS: in the folder of the set-up
	"shell": func(t *testing.T, s *setup, args []string) {
		cmd := command(t, "sh", "-ec", strings.Join(args, " "))
		cmd.Dir = s.dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		files, err := filepath.Glob(s.file("*"))
		kit.Must(t, err)
		kit.Own(t, files...)
	},
	// rootowned NAME
	"rootowned": func(t *testing.T, s *setup, args []string) { kit.Must(t, os.Chown(s.file(args[0]), 0, 0)) },
}

// Each set-up of test/broken gets an answer that names its cause and the next step.
func TestBroken(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("broken/cases/*.toml")
	kit.Must(t, err)
	const least = 60
	if len(files) < least {
		t.Fatalf("%d set-ups, want at least %d", len(files), least)
	}
	var cases []*brokenCase
	for _, file := range files {
		c, err := readBroken(file)
		if err != nil {
			t.Fatal(err)
		}
		cases = append(cases, c)
	}
	hop := startPostfix(t, startSink(t))
	shared := startDirectories(t, cases)
	t.Run("cases", func(t *testing.T) {
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				c.run(t, hop.URL, shared)
			})
		}
	})
	for _, c := range cases {
		c.wantOwnCauseOnly(t, cases)
	}
}

// A brokenCase is one file of test/broken: a header of comments, and the configuration.
//
//	# cause: NAME         cases of the same cause share it
//	# fixture: NAME ARGS  one of fixtures(); repeatable, in this order
//	# run: COMMAND        after "postern"; default check. --config is added, but not to passwd
//	# stdin: TEXT         one line for the command
//	# exit: STATUS        default 1 for FAIL, otherwise 0
//	# level: LEVEL        of the entry of check that has to match: FAIL, warn or note; "sound"
//	                      stands for a set-up without FAIL and warn
//	# want: REGEXP        has to match in that entry, or in the output of another command,
//	                      where runs of white space are one blank; repeatable
//	# also: REGEXP        other FAIL and warn entries that the cause entails; repeatable
type brokenCase struct {
	name, cause, level string
	fixtures           [][]string
	command            []string
	stdin              string
	exit               int
	want, also         []*regexp.Regexp
	config             string
	output             string // of the command, after run
}

func readBroken(file string) (*brokenCase, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	c := &brokenCase{name: strings.TrimSuffix(filepath.Base(file), ".toml"), command: []string{"check"}, exit: -1}
	lines := bufio.NewScanner(bytes.NewReader(data))
	read := 0
	for lines.Scan() {
		text, ok := strings.CutPrefix(lines.Text(), "# ")
		key, value, pair := strings.Cut(text, ": ")
		if !ok || !pair {
			break
		}
		if err := c.set(key, value); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", file, key, err)
		}
		read += len(lines.Bytes()) + 1
	}
	c.config = string(data[min(read, len(data)):])
	switch {
	case c.cause == "":
		return nil, fmt.Errorf("%s: no cause", file)
	case len(c.want) == 0 && c.level != "sound":
		return nil, fmt.Errorf("%s: no want", file)
	case c.exit < 0:
		c.exit = map[bool]int{true: 1, false: 0}[c.level == "FAIL"]
	}
	return c, nil
}

func (c *brokenCase) set(key, value string) (err error) {
	expression := func(to *[]*regexp.Regexp) error {
		re, err := regexp.Compile(value)
		*to = append(*to, re)
		return err
	}
	switch key {
	case "cause":
		c.cause = value
	case "fixture":
		words := strings.Fields(value)
		if fixtures()[words[0]] == nil {
			return fmt.Errorf("there is no fixture %q", words[0])
		}
		c.fixtures = append(c.fixtures, words)
	case "run":
		c.command = strings.Fields(value)
	case "stdin":
		c.stdin = value
	case "exit":
		c.exit, err = strconv.Atoi(value)
	case "level":
		c.level = value
	case "want":
		err = expression(&c.want)
	case "also":
		err = expression(&c.also)
	default:
		err = fmt.Errorf("no such key")
	}
	return err
}

// A setup is the folder of one case while it runs.
type setup struct {
	dir    string
	values map[string]string // of the placeholders
	prefix []string          // a program that runs postern, such as unshare and its arguments
	root   bool              // run postern as root
}

func (s *setup) file(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(s.dir, name)
}

// write writes a file that the user of postern owns.
func (s *setup) write(t *testing.T, name, text string) {
	t.Helper()
	write(t, s.file(name), text)
	kit.Own(t, s.file(name))
}

// replace replaces the placeholders, {{name}}.
func (s *setup) replace(text string) string {
	for name, value := range s.values {
		text = strings.ReplaceAll(text, "{{"+name+"}}", value)
	}
	return text
}

// newSetup makes a folder with a sound certificate for mail.example.org (cert.pem, key.pem,
// ca.pem) and a user file (users).
func newSetup(t *testing.T, hop string) *setup {
	t.Helper()
	dir := kit.OpenDir(t)
	s := &setup{dir: dir, values: map[string]string{
		"dir": dir, "hop": hop, "listen": kit.Addr(t), "listen2": kit.Addr(t),
	}}
	ca := kit.NewCA(t, dir)
	certPEM, keyPEM := kit.Certificate{Hosts: []string{"mail.example.org"}, NotAfter: time.Now().AddDate(0, 3, 0)}.SignedBy(t, ca)
	s.write(t, "cert.pem", string(certPEM))
	s.write(t, "key.pem", string(keyPEM))
	kit.Must(t, os.Chmod(s.file("key.pem"), 0o600))
	s.write(t, "users", users)
	kit.Must(t, os.Chmod(s.file("users"), 0o640))
	return s
}

// run starts the command and keeps its output. shared are placeholders of servers that many
// cases use.
func (c *brokenCase) run(t *testing.T, hop string, shared map[string]string) {
	s := newSetup(t, hop)
	maps.Copy(s.values, shared)
	all := fixtures()
	for _, f := range c.fixtures {
		args := make([]string, len(f)-1)
		for i, a := range f[1:] {
			args[i] = s.replace(a)
		}
		all[f[0]](t, s, args)
	}
	s.write(t, "config.toml", s.replace(c.config))
	args := slices.Clone(c.command)
	if args[0] != "passwd" {
		args = append(args, "--config", s.file("config.toml"))
	}
	for i, a := range args {
		args[i] = s.replace(a)
	}
	file, err := program()
	kit.Must(t, err)
	line := append(slices.Clone(s.prefix), append([]string{file}, args...)...)
	cmd := kit.Command(line[0], line[1:]...)
	if s.root {
		cmd.SysProcAttr = nil
	}
	cmd.Dir = s.dir
	cmd.Stdin = strings.NewReader(s.replace(c.stdin) + "\n")
	out, err := cmd.CombinedOutput()
	c.output = string(out)
	if got := cmd.ProcessState.ExitCode(); got != c.exit {
		t.Errorf("%v, exit status %d, want %d", err, got, c.exit)
	}
	c.check(t)
	if t.Failed() {
		t.Logf("output:\n%s", out)
	}
}

// check looks for the entry that names the cause, and for others that should not be there.
func (c *brokenCase) check(t *testing.T) {
	if c.command[0] != "check" && c.command[0] != "doctor" {
		if !matchAll(c.want, c.output) {
			t.Errorf("no match of %v", c.want)
		}
		return
	}
	found := 0
	for _, e := range entries(c.output) {
		switch {
		case e.level == c.level && matchAll(c.want, e.text):
			found++
		case e.level == "ok" || e.level == "note":
		case !slices.ContainsFunc(c.also, func(r *regexp.Regexp) bool { return r.MatchString(oneLine(e.text)) }):
			t.Errorf("an answer about something else: %s %s", e.level, e.text)
		}
	}
	if want := map[bool]int{true: 0, false: 1}[c.level == "sound"]; found != want {
		t.Errorf("%d entries %q with %v, want %d", found, c.level, c.want, want)
	}
}

// wantOwnCauseOnly fails if the output of c satisfies the patterns of another cause.
func (c *brokenCase) wantOwnCauseOnly(t *testing.T, cases []*brokenCase) {
	answers := []entry{{text: c.output}}
	if c.command[0] == "check" || c.command[0] == "doctor" {
		answers = entries(c.output)
	}
	for _, other := range cases {
		if other.cause == c.cause || len(other.want) == 0 {
			continue
		}
		for _, e := range answers {
			if matchAll(other.want, e.text) {
				t.Errorf("%s: an answer to the cause %s satisfies the patterns of %s (%s):\n%s", c.name, c.cause, other.cause, other.name, e.text)
			}
		}
	}
}

// An entry is one result of check: a line that begins with its level, and the indented
// lines after it.
type entry struct{ level, text string }

func entries(output string) (list []entry) {
	for line := range strings.Lines(output) {
		level, rest, _ := strings.Cut(line, " ")
		switch {
		case level != "":
			list = append(list, entry{level, rest})
		case len(list) > 0:
			list[len(list)-1].text += line
		}
	}
	return list
}

func matchAll(patterns []*regexp.Regexp, text string) bool {
	line := oneLine(text)
	return !slices.ContainsFunc(patterns, func(r *regexp.Regexp) bool { return !r.MatchString(line) })
}

// oneLine makes every run of white space one blank, so that patterns do not depend on how
// lines are folded.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
