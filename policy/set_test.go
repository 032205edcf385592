package policy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/emersion/go-smtp"
)

// A scripted restriction returns the verdict in its name.
type scripted string

func (s scripted) String() string { return string(s) }

func (s scripted) Check(context.Context, *Request) Verdict {
	name, _, _ := strings.Cut(string(s), " ")
	switch name {
	case "permit":
		return Verdict{Action: Permit}
	case "reject":
		return refuse(554, smtp.EnhancedCode{5, 7, 1}, string(s))
	case "defer":
		return refuse(450, smtp.EnhancedCode{4, 3, 2}, string(s))
	case "if-permit":
		return s.deferIf(DeferIfPermit)
	case "if-reject":
		return s.deferIf(DeferIfReject)
	}
	return Verdict{}
}

func (s scripted) deferIf(a Action) Verdict {
	v := refuse(450, smtp.EnhancedCode{4, 7, 0}, string(s))
	v.Action, v.Cause = a, errors.New("no answer")
	return v
}

func script(words ...string) List {
	var l List
	for _, w := range words {
		if name, warn := strings.CutPrefix(w, "warn "); warn {
			l = append(l, warnIfReject{scripted(name)})
		} else {
			l = append(l, scripted(w))
		}
	}
	return l
}

// TestDeferIf checks how DeferIfPermit and DeferIfReject change later verdicts. The text of a
// reply is the name of the restriction that returned it.
func TestDeferIf(t *testing.T) {
	for _, test := range []struct {
		name                     string
		sender, relay, recipient List
		want                     string
	}{
		{"permit", nil, nil, script("permit"), "permit"},
		{"a permit after if-permit", nil, nil, script("if-permit", "permit"), "450 if-permit"},
		{"an end after if-permit", nil, nil, script("if-permit", "dunno"), "450 if-permit"},
		{"a reject after if-permit", nil, nil, script("if-permit", "reject"), "554 reject"},
		{"a reject after if-reject", nil, nil, script("if-reject", "reject"), "450 if-reject"},
		{"a later reject after if-reject", nil, nil, script("if-reject", "dunno", "reject"), "450 if-reject"},
		{"a permit after if-reject", nil, nil, script("if-reject", "permit"), "permit"},
		{"a defer after if-reject", nil, nil, script("if-reject", "defer"), "450 defer"},
		{"the first if-permit has precedence", nil, nil, script("if-permit 1", "if-permit 2", "permit"), "450 if-permit 1"},
		{"both end the list", nil, nil, script("if-permit", "if-reject", "reject"), "450 if-permit"},

		{"an if-permit of an earlier list", script("if-permit", "permit"), nil, script("permit"), "450 if-permit"},
		{"from relay to recipient", nil, script("if-permit", "permit"), script("permit"), "450 if-permit"},
		{"a reject in a later list", script("if-permit"), nil, script("reject"), "554 reject"},
		{"an if-reject of an earlier stage", script("if-reject", "permit"), nil, script("reject"), "554 reject"},
		{"relay and recipient are one stage", nil, script("if-reject", "permit"), script("reject"), "450 if-reject"},
		{"an earlier list refuses first", script("reject"), script("defer"), script("permit"), "554 reject"},
		{"relay refuses before recipient", nil, script("defer"), script("reject"), "450 defer"},

		{"warn_if_reject removes if-permit", nil, nil, script("warn if-permit", "permit"), "permit"},
		{"warn_if_reject keeps if-reject", nil, nil, script("warn if-reject", "reject"), "450 if-reject"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := Set{env: (&Env{Resolver: fakeDNS{}}).forSet(Config{})}
			s.lists[stageSender], s.lists[stageRelay], s.lists[stageRecipient] = test.sender, test.relay, test.recipient
			v := s.AtRcpt(t.Context(), &Request{Login: "alice"})
			if got := short(v); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
			if strings.HasPrefix(test.want, "450 if-") && (v.Cause == nil || !strings.Contains(v.Restriction, "if-")) {
				t.Errorf("decided by %q with cause %v", v.Restriction, v.Cause)
			}
		})
	}
}

// TestDeferIfAtData: a DeferIfPermit of one stage has no effect at the next.
func TestDeferIfAtData(t *testing.T) {
	s := Set{env: (&Env{Resolver: fakeDNS{}}).forSet(Config{})}
	s.lists[stageRecipient] = script("if-permit", "permit")
	s.lists[stageData] = script("if-permit data")
	s.lists[stageEndOfData] = script("if-reject", "reject")
	r := &Request{Login: "alice"}
	for want, at := range map[string]func(context.Context, *Request) Verdict{
		"450 if-permit": s.AtRcpt, "450 if-permit data": s.AtData, "450 if-reject": s.AtEndOfData,
	} {
		if got := short(at(t.Context(), r)); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func short(v Verdict) string {
	if v.Action == Permit {
		return "permit"
	}
	return fmt.Sprint(v.Reply.Code, " ", v.Reply.Message)
}

// TestVerdictRestriction: the verdict names the restriction that decided, for the log.
func TestVerdictRestriction(t *testing.T) {
	for _, test := range []struct{ recipient, login, want string }{
		{"permit_sasl_authenticated, reject", "alice", "permit_sasl_authenticated"},
		{"permit_sasl_authenticated, reject", "", "reject"},
		{"reject_non_fqdn_sender", "", "end of recipient"},
		{"reject_non_fqdn_sender", "alice", ""},
		{"warn_if_reject permit", "", "warn_if_reject permit"},
	} {
		set := newTestSet(t, Config{Recipient: words(t, test.recipient)})
		v := set.AtRcpt(t.Context(), &Request{Login: test.login, Recipient: "bob@example.net"})
		if v.Restriction != test.want {
			t.Errorf("%s for %q: decided by %q, want %q", test.recipient, test.login, v.Restriction, test.want)
		}
	}
}

func TestNewSetUnknownWord(t *testing.T) {
	_, err := NewSet(Config{Helo: Words{{Name: "rejekt"}}}, &Env{Resolver: fakeDNS{}})
	if err == nil || err.Error() != `policy.helo: unknown restriction "rejekt", did you mean "reject"?` {
		t.Errorf("got %v", err)
	}
}

// TestReplyIsOneLine: a refusal and a warning are one line of bounded length, whatever the client
// has sent.
func TestReplyIsOneLine(t *testing.T) {
	set := newTestSet(t, Config{
		Sender: words(t, "warn_if_reject reject"), Recipient: words(t, "reject"),
	})
	evil := "a\r\n250 ok\x00\x1b[31m\u2028\xff" + strings.Repeat("é", 1000)
	v := set.AtRcpt(t.Context(), &Request{Sender: evil, Recipient: evil})
	for _, text := range append(v.Warnings, v.Reply.Message) {
		if !utf8.ValidString(text) || strings.ContainsAny(text, "\r\n\x00\x1b\u2028") || len(text) > 600 || !strings.Contains(text, "<a  250 ok  [31m") {
			t.Errorf("got %q", text)
		}
	}
	if len(v.Reply.Message) > maxText {
		t.Errorf("a reply of %d bytes", len(v.Reply.Message))
	}
}

func BenchmarkAtRcptDefault(b *testing.B) {
	set, err := NewSet(Defaults(), &Env{Resolver: fakeDNS{}})
	if err != nil {
		b.Fatal(err)
	}
	r := &Request{Login: "alice", Sender: "alice@example.org", Recipient: "bob@example.net", Helo: "laptop"}
	b.ReportAllocs()
	for b.Loop() {
		if v := set.AtRcpt(b.Context(), r); v.Action != Permit {
			b.Fatal(v)
		}
	}
}

func TestAtRcptDefaultAllocatesNothing(t *testing.T) {
	set := newTestSet(t, Defaults())
	r := &Request{Login: "alice", Sender: "alice@example.org", Recipient: "bob@example.net", Helo: "laptop"}
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() { set.AtRcpt(ctx, r) }); n > 0 {
		t.Errorf("%v allocations for a recipient of an authenticated client", n)
	}
}
