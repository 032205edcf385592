package logging

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"log/syslog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode"

	"postern/test/kit"
)

// logged returns one line in the given format.
func logged(t *testing.T, format Format, args ...any) string {
	t.Helper()
	var out bytes.Buffer
	cfg := Defaults()
	cfg.Format = format
	log, err := Open(cfg, &out)
	if err != nil {
		t.Fatal(err)
	}
	log.Info("login refused", args...)
	return out.String()
}

// hostile are values that a client may send and that appear in a line.
var hostile = map[string]string{
	"line end":         "x\nlevel=ERROR msg=forged",
	"CRLF":             "x\r\n<3>forged",
	"another key":      `x user=root`,
	"a quote":          `x" user="root`,
	"end of JSON":      `x"}` + "\n" + `{"msg":"forged"}`,
	"ANSI escape":      "\x1b[31mred\x1b[2J",
	"C1 control":       "\u009b31mred",
	"raw C1 control":   "\x9b31mred",
	"override":         "\u202etxt.exe",
	"line separator":   "a\u2028b\u2029c\u0085d",
	"NUL":              "a\x00b",
	"invalid UTF-8":    "\xff\xfe\xc3",
	"very long":        strings.Repeat("A", 1<<16),
	"very long, UTF-8": "x" + strings.Repeat("\u00e9", 1<<15),
	"backspace":        "root\b\b\b\balice",
	"DEL":              "a\x7fb",
}

func TestHostileValues(t *testing.T) {
	for _, format := range []Format{Text, JSON} {
		for name, value := range hostile {
			t.Run(fmt.Sprintf("%s/%s", format, name), func(t *testing.T) {
				checkLine(t, format, logged(t, format, "user", value, "session", "s1"))
				checkLine(t, format, logged(t, format, "err", errors.New(value)))
				checkLine(t, format, logged(t, format, "warnings", []string{value, value}))
				checkLine(t, format, logged(t, format, "g", slog.GroupValue(slog.String("user", value))))
			})
		}
	}
}

var quotedWord = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)

func checkLine(t *testing.T, format Format, line string) {
	t.Helper()
	body, ended := strings.CutSuffix(line, "\n")
	if !ended || strings.ContainsFunc(body, func(r rune) bool { return !unicode.IsPrint(r) && r != '\ufffd' }) {
		t.Errorf("not one clean line: %.200q", line)
	}
	if len(line) > 8*maxValue {
		t.Errorf("%d bytes", len(line))
	}
	if format == JSON && !json.Valid([]byte(line)) {
		t.Errorf("not JSON: %.200q", line)
	}
	if bare := quotedWord.ReplaceAllString(line, ""); format == Text &&
		(strings.Contains(bare, "user=root") || strings.Contains(bare, "forged")) {
		t.Errorf("a key was forged: %s", line)
	}
}

func TestValuesInText(t *testing.T) {
	tests := []struct {
		value any
		want  string
	}{
		{"alice", `v=alice`},
		{"a b", `v="a b"`},
		{"x\ny", `v="x\ny"`},
		{"\x1b[31m", `v="\x1b[31m"`},
		{netip.MustParseAddrPort("[2001:db8::1]:587"), `v=[2001:db8::1]:587`},
		{[]string{"a", "b"}, `v="[a b]"`},
		{errors.New("no such user"), `v="no such user"`},
		{3, `v=3`},
		{90 * time.Second, `v=1m30s`},
		{nil, `v=<nil>`},
		{strings.Repeat("A", maxValue), `v=` + strings.Repeat("A", maxValue)},
		{strings.Repeat("A", maxValue+1), fmt.Sprintf("v=\"%s... (%d bytes)\"", strings.Repeat("A", maxValue), maxValue+1)},
	}
	for _, tt := range tests {
		if line := logged(t, Text, "v", tt.value); !strings.HasSuffix(line, tt.want+"\n") {
			t.Errorf("%v: %.200s, want %.200s", tt.value, line, tt.want)
		}
	}
}

func TestLongLists(t *testing.T) {
	line := logged(t, Text, "warnings", make([]string, 100_000))
	if len(line) > 8*maxValue {
		t.Errorf("%d bytes", len(line))
	}
}

func TestLogLevel(t *testing.T) {
	var out bytes.Buffer
	log, err := Open(Defaults(), &out)
	if err != nil {
		t.Fatal(err)
	}
	session := log.With("session", "s1")
	session.Debug("one")
	log.SetLevel(Level(slog.LevelDebug))
	session.Debug("two")
	log.SetLevel(Level(slog.LevelError))
	session.Warn("three")
	if got := out.String(); strings.Contains(got, "one") || !strings.Contains(got, "two") || strings.Contains(got, "three") {
		t.Errorf("log: %s", got)
	}
}

func TestTimeWithoutJournal(t *testing.T) {
	if line := logged(t, Text); !strings.HasPrefix(line, "time=2") {
		t.Errorf("no time in %q", line)
	}
}

// Under systemd, the journal adds the time and reads the severity from a prefix.
func TestJournal(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "journal"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	t.Setenv("JOURNAL_STREAM", streamOf(t, file))
	log, err := Open(Defaults(), file)
	if err != nil {
		t.Fatal(err)
	}
	session := log.With("session", "s1")
	session.Info("one")
	session.WithGroup("g").Warn("two", "k", "v")
	session.Error("three")
	session.Debug("four")
	got, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	want := "<6>level=INFO msg=one session=s1\n" +
		"<4>level=WARN msg=two session=s1 g.k=v\n" +
		"<3>level=ERROR msg=three session=s1\n"
	if string(got) != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// streamOf returns the value that JOURNAL_STREAM has for a file.
func streamOf(t *testing.T, file *os.File) string {
	t.Helper()
	st, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	sys := st.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%d:%d", sys.Dev, sys.Ino)
}

// A redirected stderr is not the journal, although JOURNAL_STREAM is set.
func TestRedirectedFromJournal(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	t.Setenv("JOURNAL_STREAM", "1:1")
	if isJournal(file) {
		t.Error("isJournal is true for a file")
	}
}

// fakeSyslog returns a system log whose datagrams the test reads.
func fakeSyslog(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func receive(t *testing.T, conn *net.UnixConn) string {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(kit.Patience)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64<<10)
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

func TestSyslog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	daemon := fakeSyslog(t, path)
	w, err := syslog.Dial("unixgram", path, syslog.LOG_MAIL|syslog.LOG_INFO, "postern")
	if err != nil {
		t.Fatal(err)
	}
	var fallback bytes.Buffer
	l := new(Log)
	l.toSyslog(Text, w, &fallback)
	log := l.Logger
	tests := []struct {
		write func(string, ...any)
		want  string // facility mail is 2, so the number is 16 and the severity
	}{
		{log.Error, "<19>"},
		{log.Warn, "<20>"},
		{log.Info, "<22>"},
	}
	for _, tt := range tests {
		tt.write("message accepted", "user", "a\nb")
		got := receive(t, daemon)
		if !strings.HasPrefix(got, tt.want) || !strings.Contains(got, " postern[") ||
			!strings.HasSuffix(got, `msg="message accepted" user="a\nb"`+"\n") || strings.Contains(got, "time=") {
			t.Errorf("got %q, want %s", got, tt.want)
		}
	}
	restartSyslog(t, daemon, path, log, &fallback)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// restartSyslog stops and starts the daemon. Lines in between are written to the
// fallback.
func restartSyslog(t *testing.T, daemon *net.UnixConn, path string, log *slog.Logger, fallback *bytes.Buffer) {
	if err := daemon.Close(); err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(path) // closing the listener may have removed the socket
	log.Info("while it is down")
	if !strings.Contains(fallback.String(), "while it is down") {
		t.Errorf("the line is lost: %q", fallback)
	}
	daemon = fakeSyslog(t, path)
	log.Info("back again")
	if got := receive(t, daemon); !strings.Contains(got, "back again") {
		t.Errorf("got %q", got)
	}
}
