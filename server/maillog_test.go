package server

import (
	"bytes"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"postern/policy"
	"postern/relay"
	"postern/server/auth"
)

var update = flag.Bool("update", false, "write testdata/maillog.golden anew")

// TestMailLog holds the lines of the log stable: fail2ban and people's scripts
// read them, and docs/log.md describes them. A change here is a change there.
func TestMailLog(t *testing.T) {
	var out bytes.Buffer
	for _, format := range []slog.Handler{
		slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: withoutTime}),
		slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: withoutTime}),
	} {
		before := bytes.Count(out.Bytes(), []byte("\n"))
		events := logAllEvents(newMailLog(slog.New(format)))
		if lines := bytes.Count(out.Bytes(), []byte("\n")) - before; lines != events {
			t.Errorf("%d events are %d lines", events, lines)
		}
	}
	const golden = "testdata/maillog.golden"
	if *update {
		if err := os.WriteFile(golden, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), want) {
		t.Errorf("the log has changed (go test -run TestMailLog -update writes %s anew):\n%s", golden, firstDifference(out.String(), string(want)))
	}
}

func withoutTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

func firstDifference(got, want string) string {
	lines := strings.Split(want, "\n")
	for i, line := range strings.Split(got, "\n") {
		if i >= len(lines) || line != lines[i] {
			return fmt.Sprintf("line %d is\n%s\nand was\n%s", i+1, line, strings.Join(lines[min(i, len(lines)-1):min(i+1, len(lines))], ""))
		}
	}
	return "lines are missing"
}

// hostile is what a client may send to forge a line.
const hostile = "x\" level=INFO msg=accepted\r\nlevel=INFO msg=\"auth ok\" user=\x1b[31m\u202e"

// logAllEvents logs each event once in its plain form, and each one that takes
// a client's words once with hostile ones. It returns how many it has logged.
func logAllEvents(l mailLog) (events int) {
	client := netip.MustParseAddr("192.0.2.7")
	session := l.forSession("3xk7q2m5ab1c", "submission", client)
	state := &tls.ConnectionState{Version: tls.VersionTLS13}
	t := &transaction{
		id:         "3xk7q2m5ab1c.1",
		envelope:   &relay.Envelope{Login: "alice", Sender: "alice@example.org"},
		recipients: []string{"bob@example.org", "carol@example.org"},
	}
	null := &transaction{envelope: &relay.Envelope{Login: "alice"}, recipients: strings.Fields(strings.Repeat("b@example.org ", 100))}
	evil := &transaction{envelope: &relay.Envelope{Login: "alice", Sender: hostile}, recipients: []string{hostile}}
	noUser := &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "<nobody@example.org>: No such user"}

	for _, event := range []func(){
		func() { l.listening("submission", "[::]:587", STARTTLS) },
		func() { l.acceptFailed("submission", errors.New("accept: too many open files"), 20*time.Millisecond) },
		func() { l.turnedAway("submission", client, "too many connections from this client") },
		session.connected,
		session.dropped,
		func() {
			session.handshakeFailed(errors.New("tls: no cipher suite supported by both client and server"))
		},
		func() { session.disconnected(1234567*time.Microsecond, 2) },
		func() {
			session.authOK(auth.Identity{User: "alice", As: "alice", Mechanism: "PLAIN", Store: "users"}, state)
		},
		func() {
			session.authError("PLAIN", &auth.Failure{Kind: auth.BadPassword, Store: "users", Login: "alice"})
		},
		func() {
			session.authError("LOGIN", &auth.Failure{Kind: auth.NotAllowed, Store: "users", Login: "alice", Reason: "wanted to act as bob"})
		},
		func() { session.authError("PLAIN", &auth.Failure{Kind: auth.NoSuchUser, Login: hostile}) },
		func() { session.authError("PLAIN", auth.ErrMalformed) },
		func() { session.authError("PLAIN", &auth.Unavailable{Login: "alice", Err: auth.ErrPenalty}) },
		func() {
			session.authError("PLAIN", &auth.Unavailable{Store: "ldap", Login: "alice", Err: errors.New("i/o timeout")})
		},
		func() { session.authError("PLAIN", errors.New("i/o timeout")) },
		func() { session.authAbandoned("PLAIN") },
		func() { session.refused("MAIL", nil, "", replyNeedAuth, nil) },
		func() { session.refusedByForm("RCPT", []byte("501 5.5.4 Malformed NOTIFY parameter value\r\n")) },
		func() { session.refusedByForm(hostile, []byte("500 5.5.2 Error: command not recognized\r\n")) },
		func() { session.refused("RCPT", t, "nobody@example.org", noUser, nil) },
		func() {
			session.refused("DATA", t, "", replyNoHop, errors.New("dial tcp 127.0.0.1:25: connection refused"))
		},
		func() {
			session.refused("RCPT", evil, hostile, &smtp.SMTPError{Code: 550, Message: "two\nlines " + hostile}, errors.New(hostile))
		},
		func() {
			session.warned(&policy.Request{Sender: "alice@localhost", Recipient: "bob@example.org", Login: "alice"},
				policy.Verdict{Warnings: []string{"<alice@localhost>: Sender address rejected: need fully-qualified address"}})
		},
		func() {
			session.accepted(t, 5120, relay.Receipt{Hop: "smtp://localhost:25", Text: "2.0.0 Ok: queued as 4ZxY1b2c3d"}, 87654*time.Microsecond)
		},
		func() {
			session.accepted(null, 1, relay.Receipt{Hop: "smtp://localhost:25", Text: "2.0.0 Ok"}, time.Second)
		},
		func() {
			session.accepted(evil, 1, relay.Receipt{Hop: "smtp://localhost:25", Text: hostile}, time.Second)
		},
		func() {
			session.duplicate(t, 5120, &receipt{message: "a2b3c4d5e6f7.1", Receipt: relay.Receipt{Hop: "smtp://localhost:25", Text: "2.0.0 Ok: queued as 4ZxY1b2c3d"}})
		},
		func() { session.duplicate(evil, 1, &receipt{Receipt: relay.Receipt{Text: hostile}}) },
		func() {
			session.acceptedLate(t, relay.Receipt{Hop: "smtp://localhost:25", Text: "2.0.0 Ok: queued as 4ZxY1b2c3d"}, 90*time.Second)
		},
		func() { session.acceptedLate(evil, relay.Receipt{Text: hostile}, time.Second) },
		func() {
			session.noLateAnswer(t, errors.New("smtp://localhost:25: the hop has refused the message at last: 550 5.7.1 Spam"))
		},
		func() { session.noLateAnswer(evil, errors.New(hostile)) },
	} {
		event()
		events++
	}
	return events
}

// Who is turned away again and again has a line a minute, and every wrong password
// one of its own.
func TestMailLogCountsRepetitions(t *testing.T) {
	var out bytes.Buffer
	l := newMailLog(slog.New(slog.NewTextHandler(&out, nil)))
	client := netip.MustParseAddr("192.0.2.7")
	for range 100 {
		l.turnedAway("submission", client, "too many connections from this client")
		session := l.forSession("3xk7q2m5ab1c", "submission", client)
		session.dropped()
		session.handshakeFailed(errors.New("tls: first record does not look like a TLS handshake"))
		session.authError("PLAIN", &auth.Unavailable{Login: "alice", Err: auth.ErrPenalty})
		session.authError("PLAIN", &auth.Failure{Kind: auth.BadPassword, Login: "alice"})
	}
	for msg, want := range map[string]int{
		`"connection refused"`: 1, `"connection dropped"`: 1, `"tls handshake failed"`: 1, `"auth delayed"`: 1,
		`"auth failed"`: 100,
	} {
		if got := strings.Count(out.String(), "msg="+msg); got != want {
			t.Errorf("%d lines of %s, want %d", got, msg, want)
		}
	}
}

func TestQueueID(t *testing.T) {
	for text, want := range map[string]string{
		"2.0.0 Ok: queued as 4ZxY1b2c3d":  "4ZxY1b2c3d",
		"Ok: queued as 4ZxY (from alice)": "4ZxY",
		"OK id=1abc-0001":                 "",
		"":                                "",
	} {
		if got := queueID(text); got != want {
			t.Errorf("%q has the id %q", text, got)
		}
	}
}
