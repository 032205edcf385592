package dovecot

import (
	"errors"
	"strings"
	"testing"

	"postern/server/auth"
)

func TestOK(t *testing.T) {
	tests := []struct {
		line, user, as string
	}{
		{"OK\t1\tuser=alice@example.org", "alice@example.org", "alice@example.org"},
		{"OK\t1\tuser=alice\toriginal_user=ALICE", "alice", "alice"},
		{"OK\t1\tuser=alice\tuser=bob", "alice", "alice"},
		{"OK\t1\tuser=alice\tauth_user=admin", "admin", "alice"},
		{"OK\t1\tx=user=mallory\tuser=alice", "alice", "alice"},
	}
	for _, tt := range tests {
		id, err := verdictOf(t, tt.line)
		if want := (auth.Identity{User: tt.user, As: tt.as, Store: Kind}); err != nil || id != want {
			t.Errorf("%q: %+v and %v, want %+v", tt.line, id, err, want)
		}
	}
}

// What is no user authenticates nobody, and is no refusal either.
func TestOKThatIsNone(t *testing.T) {
	tests := []string{
		"OK\t1", "OK\t1\tuser=", "OK\t1\tuser", "OK\t1\tuser=alice\tproxy\thost=192.0.2.1", "OK\t1\tuser=alice\tproxy=y",
		"OK\t1\tuser=alice\tauth_user=", "OK\t1\tuser=a\x01lb", "OK\t1\tuser=a\x010b", "OK\t1\tuser=\xff",
		"OK\t1\tuser=" + strings.Repeat("x", maxUser+1),
	}
	for _, line := range tests {
		id, err := verdictOf(t, line)
		if _, ok := errors.AsType[*auth.Unavailable](err); !ok || id != (auth.Identity{}) {
			t.Errorf("%q: %+v and %v", line, id, err)
		}
	}
}

func TestRefusal(t *testing.T) {
	tests := []struct {
		line   string
		kind   auth.FailureKind
		reason string
	}{
		{"FAIL\t1", auth.Unknowable, ""},
		{"FAIL\t1\tuser=alice", auth.Unknowable, ""},
		{"FAIL\t1\tuser=alice\treason=Go away", auth.Unknowable, "Go away"},
		{"FAIL\t1\tuser_disabled", auth.Disabled, ""},
		{"FAIL\t1\tcode=user_disabled", auth.Disabled, "user_disabled"},
		{"FAIL\t1\tpass_expired", auth.Expired, ""},
		{"FAIL\t1\tcode=pass_expired\treason=Old", auth.Expired, "pass_expired: Old"},
		{"FAIL\t1\tauthz", auth.NotAllowed, ""},
		{"FAIL\t1\tcode=authz_fail", auth.NotAllowed, "authz_fail"},
		{"FAIL\t1\tcode=news", auth.Unknowable, "news"},
		{"FAIL\t1\treason=a\x01lb\x1b[0m\xff", auth.Unknowable, "a?b?[0m?"},
		{"FAIL\t1\treason=" + strings.Repeat("x", 300), auth.Unknowable, strings.Repeat("x", maxReason)},
		{"OK\t1\tuser=alice\tnologin\treason=Closed", auth.Disabled, "nologin: Closed"},
		{"OK\t1\tnologin=y", auth.Disabled, "nologin"},
	}
	for _, tt := range tests {
		_, err := verdictOf(t, tt.line)
		f, ok := errors.AsType[*auth.Failure](err)
		if !ok || f.Kind != tt.kind || f.Reason != tt.reason || f.Store != Kind {
			t.Errorf("%q: %#v", tt.line, err)
		}
	}
}

func TestTemporaryRefusal(t *testing.T) {
	for _, line := range []string{"FAIL\t1\ttemp", "FAIL\t1\tuser=alice\tcode=temp_fail", "FAIL\t1\tuser_disabled\ttemp"} {
		_, err := verdictOf(t, line)
		if _, ok := errors.AsType[*auth.Failure](err); ok || err == nil {
			t.Errorf("%q: %v", line, err)
		}
	}
}

func verdictOf(t *testing.T, line string) (auth.Identity, error) {
	t.Helper()
	a, err := parseAnswer(splitLine([]byte(line)))
	if err != nil {
		t.Fatal(err)
	}
	return a.verdict()
}
