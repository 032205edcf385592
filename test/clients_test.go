package test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"postern/test/kit"
)

// A submission is what a mail client does.
type submission struct {
	mode     tlsMode
	port     string
	ca       string // file
	user     string
	password string
	from     string
	to       string
	message  string // file with CRLF line ends; s-nail writes its own message
	dir      string // for the client's own files
}

// A mailClient is one row of the table: the programs that it needs, and its command for a
// submission.
type mailClient struct {
	name    string
	needs   []string
	command func(t *testing.T, s submission) *exec.Cmd
}

var mailClients = []mailClient{
	{"swaks PLAIN", []string{"swaks"}, swaks("PLAIN")},
	{"swaks LOGIN", []string{"swaks"}, swaks("LOGIN")},
	{"msmtp", []string{"msmtp"}, msmtp},
	{"curl", []string{"curl"}, curl},
	{"s-nail", []string{"s-nail"}, snail},
	{"smtplib", []string{"python3"}, smtplib},
	{"nodemailer", []string{"node", "nodemailer"}, nodemailer},
}

// Each client sends the same message through both ports, and Postfix delivers exactly the
// bytes that the client sent.
func TestMailClients(t *testing.T) {
	t.Parallel()
	s := startSink(t)
	p := startPostern(t, posternOptions{NextHop: startPostfix(t, s).URL})
	for _, client := range mailClients {
		for _, mode := range []tlsMode{startTLS, implicitTLS} {
			t.Run(client.name+" "+string(mode), func(t *testing.T) {
				peer(t, client.needs...)
				sub := newSubmission(t, p, mode)
				runClient(t, client.command(t, sub))
				sent, err := os.ReadFile(sub.message)
				kit.Must(t, err)
				got := s.wait(t, sub.mark())
				compare(t, got, sub, sent)
			})
		}
	}
}

func newSubmission(t *testing.T, p *postern, mode tlsMode) submission {
	sub := submission{
		mode:     mode,
		port:     fmt.Sprint(p.ports[mode]),
		ca:       p.ca.File,
		user:     "alice",
		password: password,
		from:     "alice@example.org",
		to:       "bob@example.net",
		dir:      t.TempDir(),
	}
	sub.message = filepath.Join(sub.dir, "message")
	write(t, sub.message, strings.ReplaceAll(awkwardMessage, "MARK", sub.mark()))
	return sub
}

// mark is in the message and identifies it at the sink.
func (s submission) mark() string {
	return "mark-" + filepath.Base(filepath.Dir(s.dir)) + "-" + string(s.mode)
}

// awkwardMessage has what is easily lost: folded header lines and tabs, dots at the start
// of a line, trailing blanks, 8-bit text, a line far longer than 998 bytes, and empty
// lines at the end.
var awkwardMessage = strings.ReplaceAll(`From: "Alice (at home)" <alice@example.org>
To: Bob <bob@example.net>,
	Carol <carol@example.com>
Subject: =?UTF-8?Q?Gr=C3=BC=C3=9Fe?=
  MARK
Date: Sun, 01 Nov 2026 12:00:00 +0100
Message-ID: <MARK@client.example.org>
X-Blanks:   kept  
MIME-Version: 1.0
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: 8bit

.one dot
..two dots
.
..
 .blank and dot
From the beginning of a line
trailing blanks and a tab  	
Grüße, 你好, 👋
`+strings.Repeat("0123456789", 500)+`
the end, and two empty lines


`, "\n", "\r\n")

func runClient(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd.Args[0], err, out)
	}
}

// compare checks that the message has the Received fields of Postfix and postern, and
// then exactly what was sent.
func compare(t *testing.T, got delivery, sub submission, sent []byte) {
	t.Helper()
	if got.From != sub.from || len(got.To) != 1 || got.To[0] != sub.to {
		t.Errorf("envelope is %q to %q, want %q to %q", got.From, got.To, sub.from, sub.to)
	}
	rest := got.Data
	for _, by := range []string{"by mx.example.net (Postfix)", "with ESMTPSA"} {
		var trace []byte
		trace, rest = cutField(rest)
		if !bytes.HasPrefix(trace, []byte("Received: ")) || !bytes.Contains(trace, []byte(by)) {
			t.Errorf("first field is %q, want a Received with %q", trace, by)
		}
	}
	if !bytes.Equal(rest, sent) {
		t.Errorf("the message has changed: %s", difference(rest, sent))
	}
}

// difference shows the first difference of two messages.
func difference(got, want []byte) string {
	at := 0
	for at < min(len(got), len(want)) && got[at] == want[at] {
		at++
	}
	from := max(0, at-40)
	return fmt.Sprintf("at byte %d:\n got %.100q\nwant %.100q", at, got[min(from, len(got)):], want[min(from, len(want)):])
}

// cutField cuts off the first header field with its folded lines.
func cutField(data []byte) (field, rest []byte) {
	end := 0
	for {
		n := bytes.IndexByte(data[end:], '\n')
		if n < 0 {
			return data, nil
		}
		end += n + 1
		if end == len(data) || data[end] != ' ' && data[end] != '\t' {
			return data[:end], data[end:]
		}
	}
}

func command(t *testing.T, name string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), kit.Patience)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	return cmd
}

// swaks adds a line end to the message.
func swaks(mechanism string) func(*testing.T, submission) *exec.Cmd {
	return func(t *testing.T, s submission) *exec.Cmd {
		flag := map[tlsMode]string{startTLS: "--tls", implicitTLS: "--tls-on-connect"}
		message, err := os.ReadFile(s.message)
		kit.Must(t, err)
		data := filepath.Join(s.dir, "data")
		write(t, data, strings.TrimSuffix(string(message), "\r\n"))
		return command(t, "swaks", "--server", "localhost", "--port", s.port, flag[s.mode],
			"--tls-verify", "--tls-ca-path", s.ca,
			"--auth", mechanism, "--auth-user", s.user, "--auth-password", s.password,
			"--from", s.from, "--to", s.to, "--data", "@"+data)
	}
}

func msmtp(t *testing.T, s submission) *exec.Cmd {
	starttls := map[tlsMode]string{startTLS: "on", implicitTLS: "off"}
	cmd := command(t, "msmtp", "--host=localhost", "--port="+s.port, "--tls=on", "--tls-starttls="+starttls[s.mode],
		"--tls-trust-file="+s.ca, "--auth=plain", "--user="+s.user, "--passwordeval=echo "+s.password,
		"--from="+s.from, s.to)
	in, err := os.Open(s.message)
	kit.Must(t, err)
	t.Cleanup(func() { in.Close() })
	cmd.Stdin = in
	return cmd
}

func curl(t *testing.T, s submission) *exec.Cmd {
	url := map[tlsMode]string{startTLS: "smtp://localhost:", implicitTLS: "smtps://localhost:"}
	return command(t, "curl", "--silent", "--show-error", "--ssl-reqd", "--cacert", s.ca,
		"--user", s.user+":"+s.password, "--mail-from", s.from, "--mail-rcpt", s.to,
		"--upload-file", s.message, url[s.mode]+s.port)
}

// snail writes its own message. SOURCE_DATE_EPOCH fixes the date, so that it first writes
// the same message into an mbox file, to which the test compares.
func snail(t *testing.T, s submission) *exec.Cmd {
	url := map[tlsMode]string{startTLS: "smtp://localhost:", implicitTLS: "smtps://localhost:"}
	run := func(mta string) *exec.Cmd {
		cmd := command(t, "s-nail", "-:/", "-Sv15-compat", "-Smta="+mta, "-Ssmtp-use-starttls",
			"-Ssmtp-auth=plain", "-Suser="+s.user, "-Spassword="+s.password,
			"-Stls-ca-file="+s.ca, "-Stls-verify=strict", "-Sttycharset=utf-8", "-Smime-encoding=8bit",
			"-r"+s.from, "-s"+s.mark(), s.to)
		cmd.Env = append(cmd.Env, "SOURCE_DATE_EPOCH=1793534400")
		cmd.Stdin = strings.NewReader(".dot\n.\n..\nGrüße  \n\nthe end\n\n")
		return cmd
	}
	mbox := filepath.Join(s.dir, "mbox")
	runClient(t, run("test://"+mbox))
	text, err := os.ReadFile(mbox)
	kit.Must(t, err)
	_, message, _ := strings.Cut(strings.TrimSuffix(string(text), "\n"), "\n")
	write(t, s.message, strings.ReplaceAll(message, "\n", "\r\n"))
	return run(url[s.mode] + s.port)
}

func smtplib(t *testing.T, s submission) *exec.Cmd {
	return command(t, python, "testdata/send.py", string(s.mode), s.port, s.ca, s.user, s.password, s.from, s.to, s.message)
}

func nodemailer(t *testing.T, s submission) *exec.Cmd {
	cmd := command(t, "node", "testdata/send.cjs", string(s.mode), s.port, s.ca, s.user, s.password, s.from, s.to, s.message)
	cmd.Env = nodeEnv()
	return cmd
}
