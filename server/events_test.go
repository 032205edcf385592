package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"postern/policy"
	"postern/relay"
	"postern/relay/dedup"
	"postern/server/auth"
	"postern/server/auth/throttle"
	"postern/server/smtpd"
)

var update = flag.Bool("update", false, "replace testdata/maillog.golden")

// TestLogFormat compares the lines of the log with those of the golden file: fail2ban and
// scripts read them. docs/log.md describes them and changes with them.
func TestLogFormat(t *testing.T) {
	var out bytes.Buffer
	for _, format := range []slog.Handler{
		slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: withoutTime}),
		slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: withoutTime}),
	} {
		before := bytes.Count(out.Bytes(), []byte("\n"))
		events := logAllEvents(slog.New(format))
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
		t.Errorf("the log has changed (go test -run TestLogFormat -update replaces %s):\n%s", golden, firstDifference(out.String(), string(want)))
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

// hostile is a text with which a client could try to forge a line.
const hostile = "x\" level=INFO msg=accepted\r\nlevel=INFO msg=\"auth ok\" user=\x1b[31m\u202e"

// logAllEvents logs each event with usual values, and each one that has values from a
// client with hostile ones, too. It returns the number of events.
func logAllEvents(log *slog.Logger) (events int) {
	l := NewLog(log)
	client := netip.MustParseAddr("192.0.2.7")
	session := l.ForSession("3xk7q2m5ab1c", "submission", client)
	for _, list := range [][]func(){
		connectionEvents(l, session, client), refusedEvents(session), messageEvents(session, dedup.NewLog(log)), otherEvents(l, session),
	} {
		for _, event := range list {
			event()
			events++
		}
	}
	return events
}

func connectionEvents(l Events, session SessionEvents, client netip.Addr) []func() {
	state := &tls.ConnectionState{Version: tls.VersionTLS13}
	return []func(){
		func() { l.Listening("submission", "[::]:587", STARTTLS) },
		func() { l.AcceptFailed("submission", errors.New("accept: too many open files"), 20*time.Millisecond) },
		func() { l.ConnectionRefused("submission", client, "too many connections from this client") },
		session.Connected,
		func() { session.Dropped(tooMany[unauthenticated], "") },
		func() { session.Dropped(tooManyOfUser, "alice") },
		func() { session.TooManyOfUser("alice") },
		func() {
			session.HandshakeFailed(errors.New("tls: no cipher suite supported by both client and server"))
		},
		func() { session.Disconnected(1234567*time.Microsecond, 2) },
		func() {
			session.AuthOK(auth.Identity{User: "alice", As: "alice", Mechanism: "PLAIN", Store: "users"}, state)
		},
		func() {
			session.AuthError("PLAIN", &auth.Failure{Kind: auth.BadPassword, Store: "users", Login: "alice"}, false)
		},
		func() {
			session.AuthError("LOGIN", &auth.Failure{Kind: auth.NotAllowed, Store: "users", Login: "alice", Reason: "wanted to act as bob"}, false)
		},
		func() { session.AuthError("PLAIN", &auth.Failure{Kind: auth.NoSuchUser, Login: hostile}, false) },
		func() { session.AuthError("PLAIN", auth.ErrMalformed, false) },
		func() { session.AuthError("PLAIN", &auth.Unavailable{Login: "alice", Err: throttle.ErrPenalty}, false) },
		func() {
			session.AuthError("PLAIN", &auth.Unavailable{Store: "ldap", Login: "alice", Err: errors.New("i/o timeout")}, false)
		},
		func() { session.AuthError("PLAIN", errors.New("i/o timeout"), false) },
		func() { session.AuthAbandoned("PLAIN", "") },
		func() { session.AuthAbandoned("PLAIN", "alice") },
		func() { session.AuthUnfinished("SCRAM-SHA-256", "alice") },
		func() {
			session.AuthError("PLAIN", &auth.Failure{Kind: auth.Unknowable, Store: "pam", Login: "alice"}, true)
		},
		func() {
			session.AuthError("PLAIN", &auth.Unavailable{Store: "ldap", Login: "alice", Err: errors.New("i/o timeout"), Unanswered: true}, true)
		},
		func() {
			session.AuthError("PLAIN", &auth.Unavailable{Login: "alice", Err: throttle.ErrPenalty, Refused: &auth.Failure{Kind: auth.BadPassword, Store: "users"}}, false)
		},
	}
}

func refusedEvents(session SessionEvents) []func() {
	refused := func(verb, argument string, r *smtpd.Reply) Refused {
		return Refused{Refusal: smtpd.Refusal{Verb: verb, Argument: argument, Reply: r}}
	}
	inMail := func(verb, to string, r *smtpd.Reply) Refused {
		return Refused{Refusal: smtpd.Refusal{Verb: verb, Argument: "TO:<" + to + ">", Reply: r}, User: "alice", InTransaction: true, From: "alice@example.org", To: to}
	}
	hangUp := inMail("DATA", "", withCause(replyNoHop, errors.New("dial tcp 127.0.0.1:25: connection refused")))
	hangUp.Argument = ""
	forged := inMail("RCPT", hostile, withCause(reply(550, 5, 0, 0, "two\nlines "+hostile), errors.New(hostile)))
	forged.From = hostile
	return []func(){
		func() { session.Refused(refused("MAIL", "", replyNeedAuth)) },
		func() { session.Refused(refused("MAIL", "FROM:<alice@example.org>", replyNeedAuth)) },
		func() {
			r := refused("RCPT", "TO:<bob@example.org> NOTIFY=MAYBE", reply(501, 5, 5, 4, "Error: bad NOTIFY parameter syntax"))
			r.User, r.InTransaction, r.From = "alice", true, "alice@example.org"
			session.Refused(r)
		},
		func() {
			r := refused("MAIL", hostile, reply(501, 5, 5, 4, "Syntax: MAIL FROM:<address>"))
			r.User = "alice"
			session.Refused(r)
		},
		func() { session.Refused(refused("unknown", "", reply(500, 5, 5, 2, "Error: command not recognized"))) },
		func() {
			session.Refused(inMail("RCPT", "nobody@example.org", reply(550, 5, 1, 1, "<nobody@example.org>: No such user")))
		},
		func() { session.Refused(hangUp) },
		func() { session.Refused(forged) },
	}
}

func messageEvents(session SessionEvents, late dedup.Events) []func() {
	m := MessageEvent{
		ID: "3xk7q2m5ab1c.1", User: "alice", From: "alice@example.org",
		To: []string{"bob@example.org", "carol@example.org"}, Size: 5120,
	}
	null := MessageEvent{User: "alice", To: strings.Fields(strings.Repeat("b@example.org ", 100)), Size: 1}
	evil := MessageEvent{User: "alice", From: hostile, To: []string{hostile}, Size: 1}
	receipt := relay.Receipt{Hop: "smtp://localhost:25", Text: "2.0.0 Ok: queued as 4ZxY1b2c3d"}
	envelope := relay.Envelope{
		Session: "3xk7q2m5ab1c", Message: m.ID, Listener: "submission", Remote: netip.MustParseAddrPort("192.0.2.7:4000"),
		Login: m.User, Sender: m.From,
	}
	evilEnvelope := envelope
	evilEnvelope.Message, evilEnvelope.Sender = "", hostile
	return []func(){
		func() {
			session.RejectWarning(&policy.Request{Sender: "alice@localhost", Recipient: "bob@example.org", Login: "alice"},
				"<alice@localhost>: Sender address rejected: need fully-qualified address")
		},
		func() { session.Accepted(m, receipt, 87654*time.Microsecond) },
		func() {
			session.Accepted(null, relay.Receipt{Hop: "smtp://localhost:25", Text: "2.0.0 Ok"}, time.Second)
		},
		func() {
			session.Accepted(evil, relay.Receipt{Hop: "smtp://localhost:25", Text: hostile}, time.Second)
		},
		func() {
			session.Duplicate(m, relay.Receipt{Hop: receipt.Hop, Text: receipt.Text, First: "a2b3c4d5e6f7.1"})
		},
		func() { session.Duplicate(evil, relay.Receipt{Text: hostile}) },
		func() { late.AcceptedLate(&envelope, len(m.To), receipt, 90*time.Second) },
		func() { late.AcceptedLate(&evilEnvelope, 1, relay.Receipt{Text: hostile}, time.Second) },
		func() {
			late.NoLateAnswer(&envelope, errors.New("smtp://localhost:25: the hop has refused the message at last: 550 5.7.1 Spam"))
		},
		func() { late.NoLateAnswer(&evilEnvelope, errors.New(hostile)) },
	}
}

func otherEvents(l Events, session SessionEvents) []func() {
	return []func(){
		func() { l.RestartNeeded("submission", "its address or mode has changed, or it is gone") },
		func() { session.ForeignProtocol("HTTP", "") },
		func() {
			session.ForeignProtocol("PROXY", proxied{}.foreignHint(&smtpd.ForeignError{Protocol: "PROXY"}))
		},
		func() { session.UnknownClient(smtpd.Refusal{Verb: "MAIL", Reply: replyUnknownClient}) },
		func() {
			session.ConnectionError(errors.New("read tcp 192.0.2.1:587->192.0.2.7:50000: connection reset by peer"))
		},
		func() {
			session.Panicked(&smtpd.PanicError{Value: "index out of range [1] with length 1", Stack: []byte("goroutine 1 [running]:\n")})
		},
	}
}

// TestLogCountsRepetitions: what costs a client nothing is logged once a minute for each
// address, and each wrong password in one line.
func TestLogCountsRepetitions(t *testing.T) {
	var out bytes.Buffer
	l := NewLog(slog.New(slog.NewTextHandler(&out, nil)))
	client := netip.MustParseAddr("192.0.2.7")
	for range 100 {
		l.ConnectionRefused("submission", client, "too many connections from this client")
		session := l.ForSession("3xk7q2m5ab1c", "submission", client)
		session.Dropped(tooMany[unauthenticated], "")
		session.ForeignProtocol("HTTP", "")
		session.HandshakeFailed(errors.New("tls: first record does not look like a TLS handshake"))
		session.AuthError("PLAIN", &auth.Unavailable{Login: "alice", Err: throttle.ErrPenalty}, false)
		session.AuthError("PLAIN", &auth.Failure{Kind: auth.BadPassword, Login: "alice"}, false)
	}
	for msg, want := range map[string]int{
		`"connection refused"`: 1, `"connection dropped"`: 1, `"tls handshake failed"`: 1, `"auth delayed"`: 1,
		`"foreign protocol"`: 1,
		`"auth failed"`:      100,
	} {
		if got := strings.Count(out.String(), "msg="+msg); got != want {
			t.Errorf("%d lines of %s, want %d", got, msg, want)
		}
	}
}

// A limitedLog holds the lines that a limit has passed.
type limitedLog struct {
	limit *logLimit
	lines []string
}

func (l *limitedLog) event(name, client string) {
	l.limit.log(name, netip.MustParseAddr(client), func(count int) {
		l.lines = append(l.lines, fmt.Sprint(name, " ", client, " ", count))
	})
}

func (l *limitedLog) want(t *testing.T, lines ...string) {
	t.Helper()
	if !slices.Equal(l.lines, lines) {
		t.Errorf("logged %q, want %q", l.lines, lines)
	}
	l.lines = nil
}

func TestLogLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &limitedLog{limit: newLogLimit()}
		l.event("refused", "192.0.2.1")
		l.want(t, "refused 192.0.2.1 1")
		for range 50 {
			l.event("refused", "192.0.2.1")
		}
		l.want(t)
		l.event("refused", "192.0.2.2") // each address has its own line
		l.event("delayed", "192.0.2.1") // and each event
		l.want(t, "refused 192.0.2.2 1", "delayed 192.0.2.1 1")

		time.Sleep(lineEvery)
		l.event("refused", "192.0.2.1") // counted in the minute that begins
		l.want(t, "refused 192.0.2.1 50")
		time.Sleep(lineEvery)
		l.limit.sweep()
		l.want(t, "refused 192.0.2.1 1")
		time.Sleep(lineEvery)
		l.limit.sweep()
		l.want(t)
		if n := len(l.limit.known) + l.limit.order.Len(); n != 0 {
			t.Errorf("%d addresses are not forgotten", n)
		}
		l.event("refused", "192.0.2.1")
		l.want(t, "refused 192.0.2.1 1")
	})
}

// TestLogLimitOfSubscribers: the addresses of an IPv6 /64 count as one.
func TestLogLimitOfSubscribers(t *testing.T) {
	l := &limitedLog{limit: newLogLimit()}
	l.event("refused", "2001:db8::1")
	l.event("refused", "2001:db8::2")
	l.event("refused", "2001:db8:0:1::1")
	l.want(t, "refused 2001:db8::1 1", "refused 2001:db8:0:1::1 1")
}

// TestLogLimitIsBounded: the table and the log are bounded for any number of addresses.
func TestLogLimitIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &limitedLog{limit: newLogLimit()}
		for i := range 3 * limitedAddresses {
			l.event("refused", netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}).String())
		}
		if n := len(l.limit.known); n != limitedAddresses+1 || l.limit.order.Len() != n {
			t.Errorf("%d addresses in memory", n)
		}
		if n := len(l.lines); n != limitedAddresses+1 {
			t.Errorf("%d lines", n)
		}
		l.lines = nil
		time.Sleep(lineEvery)
		l.limit.sweep()
		l.want(t, fmt.Sprint("refused 10.0.47.255 ", 2*limitedAddresses-1))
		if n := len(l.limit.known); n != 1 {
			t.Errorf("%d addresses in memory afterwards", n)
		}
	})
}

func TestNoLogLimit(t *testing.T) {
	l := new(limitedLog)
	l.event("refused", "192.0.2.1")
	l.event("refused", "192.0.2.1")
	l.limit.sweep()
	l.want(t, "refused 192.0.2.1 1", "refused 192.0.2.1 1")
}

// TestLogLimitLosesNothing: each of many concurrent events is counted once.
func TestLogLimitLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := newLogLimit()
		var counted atomic.Int64
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for range 100 {
					limit.log("refused", netip.MustParseAddr("192.0.2.1"), func(count int) { counted.Add(int64(count)) })
					time.Sleep(time.Second)
				}
			})
		}
		all.Wait()
		time.Sleep(lineEvery)
		limit.sweep()
		if n := counted.Load(); n != 800 {
			t.Errorf("%d of 800 events were counted", n)
		}
	})
}

// TestLogLimitOfServer: what was counted is logged when any client disconnects, also
// after a reload.
func TestLogLimitOfServer(t *testing.T) {
	d := newTestServer(t, defaultSettings())
	client := netip.MustParseAddr("192.0.2.1")
	synctest.Test(t, func(t *testing.T) {
		s, err := New(d.parts)
		if err != nil {
			t.Fatal(err)
		}
		for range 4 {
			s.events.ConnectionRefused("submission", client, "too many connections")
		}
		if err := s.Reload(d.parts); err != nil {
			t.Fatal(err)
		}
		time.Sleep(lineEvery)
		s.events.ForSession("id", "submission", client).Disconnected(0, 0)
	})
	if n := d.log.Count(`msg="connection refused"*client=192.0.2.1*count=3`); n != 1 {
		t.Errorf("%d lines for the counted events", n)
	}
}

// TestDelaysNameTheirReason: an attempt that waited for its login is no guess, unless it was
// verified before it waited.
func TestDelaysNameTheirReason(t *testing.T) {
	busy := fmt.Errorf("%w: %w", throttle.ErrLoginBusy, context.DeadlineExceeded)
	for want, err := range map[string]error{
		`msg="auth delayed" session=3xk7q2m5ab1c client=192.0.2.1 user=alice mech=PLAIN reason="too many guesses for this user" count=1`: &auth.Unavailable{Login: "alice", Err: busy},
		`msg="auth failed" session=3xk7q2m5ab1c client=192.0.2.1 user=alice mech=PLAIN store=users reason="wrong password"`: &auth.Unavailable{
			Login: "alice", Err: busy, Refused: &auth.Failure{Kind: auth.BadPassword, Store: "users"}},
	} {
		var out strings.Builder
		l := NewLog(slog.New(slog.NewTextHandler(&out, nil)))
		l.ForSession("3xk7q2m5ab1c", "submission", netip.MustParseAddr("192.0.2.1")).AuthError("PLAIN", err, false)
		if !strings.Contains(out.String(), want[:20]) || !strings.Contains(out.String(), want[strings.Index(want, "user="):]) {
			t.Errorf("%s, want %s", out.String(), want)
		}
	}
}
