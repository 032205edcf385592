package auth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"postern/server/auth/throttle"
)

// fakeStore is a backend with one user for each entry, whose password is the value. It
// counts its calls.
type fakeStore struct {
	users map[string]string
	asked int
	err   error
}

func (s *fakeStore) VerifyPassword(_ context.Context, _ *Peer, login, password string) (Identity, error) {
	s.asked++
	if s.err != nil {
		return Identity{}, s.err
	}
	want, ok := s.users[login]
	switch {
	case !ok:
		return Identity{}, &Failure{Kind: NoSuchUser, Store: "fake"}
	case password != want:
		return Identity{}, &Failure{Kind: BadPassword, Store: "fake"}
	}
	return Identity{User: strings.ToLower(login), Store: "fake"}, nil
}

func tlsPeer() *Peer {
	return &Peer{Remote: netip.MustParseAddrPort("192.0.2.1:50000"), TLS: &tls.ConnectionState{Version: tls.VersionTLS13}}
}

func TestLocalOffersNothingOnClearText(t *testing.T) {
	clear := tlsPeer()
	clear.TLS = nil
	l := Local{Passwords: &fakeStore{}}
	if got := l.Mechanisms(clear); len(got) != 0 {
		t.Errorf("offers %v on clear text", got)
	}
	if _, err := l.Start(t.Context(), clear, "PLAIN"); !errors.Is(err, ErrMechanism) {
		t.Errorf("PLAIN on clear text: %v", err)
	}
}

func TestLocalOffersWhatItsStoresServe(t *testing.T) {
	if got := (Local{}).Mechanisms(tlsPeer()); len(got) != 0 {
		t.Errorf("without stores: %v", got)
	}
	got := Local{Passwords: &fakeStore{}}.Mechanisms(tlsPeer())
	if want := []string{"PLAIN", "LOGIN"}; !slices.Equal(got, want) {
		t.Errorf("offers %v, want %v", got, want)
	}
	for _, mech := range []string{"CRAM-MD5", "plain", ""} {
		if _, err := (Local{Passwords: &fakeStore{}}).Start(t.Context(), tlsPeer(), mech); !errors.Is(err, ErrMechanism) {
			t.Errorf("%q: %v, want ErrMechanism", mech, err)
		}
	}
}

// converse sends the client's responses; "<nil>" is a missing initial response. It returns
// the challenges, and the exchange after its end.
func converse(t *testing.T, l Local, mech string, responses ...string) (challenges []string, x Exchange, err error) {
	t.Helper()
	x, err = l.Start(t.Context(), tlsPeer(), mech)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close() })
	for i, r := range responses {
		response := []byte(r)
		if r == "<nil>" {
			response = nil
		}
		challenge, done, err := x.Next(t.Context(), response)
		if err != nil {
			return challenges, x, err
		}
		if done {
			if i != len(responses)-1 {
				t.Fatalf("done after %d of %d responses", i+1, len(responses))
			}
			return challenges, x, nil
		}
		challenges = append(challenges, string(challenge))
	}
	return challenges, x, errNotDone
}

var errNotDone = errors.New("the exchange is not done")

type conversation struct {
	name, mech string
	responses  []string
	challenges []string
	user       string
	err        error // ErrMalformed, errNotDone
	fail       string
}

// longPassword is the longest that fits in a line of 12,288 octets in base64, CRLF
// included.
func longPassword() string { return strings.Repeat("x", 9213-len("\x00Alice\x00")) }

func TestPlainConversations(t *testing.T) {
	long, tooLong := strings.Repeat("x", maxName+1), strings.Repeat("x", maxResponse+1)
	checkConversations(t, []conversation{
		{"initial response", "PLAIN", []string{"\x00Alice\x00secret"}, nil, "alice", nil, ""},
		{"prompted", "PLAIN", []string{"<nil>", "\x00Alice\x00secret"}, []string{""}, "alice", nil, ""},
		{"authzid is the login", "PLAIN", []string{"Alice\x00Alice\x00secret"}, nil, "alice", nil, ""},
		{"authzid is the canonical name", "PLAIN", []string{"alice\x00Alice\x00secret"}, nil, "alice", nil, ""},
		{"authzid of another user", "PLAIN", []string{"bob\x00Alice\x00secret"}, nil, "", nil, "auth: not allowed (fake): wanted to act as bob"},
		{"authzid of another user and wrong password", "PLAIN", []string{"bob\x00Alice\x00no"}, nil, "", nil, "auth: wrong password (fake)"},
		{"wrong password", "PLAIN", []string{"\x00Alice\x00no"}, nil, "", nil, "auth: wrong password (fake)"},
		{"unknown user", "PLAIN", []string{"\x00eve\x00secret"}, nil, "", nil, "auth: no such user (fake)"},
		{"empty password", "PLAIN", []string{"\x00Alice\x00"}, nil, "", nil, "auth: wrong password: empty password"},
		{"line feed in the name", "PLAIN", []string{"\x00a\nb\x00secret"}, nil, "", nil, "auth: no such user: control character in the name"},
		{"tab in the name", "PLAIN", []string{"\x00a\tlocal\x00secret"}, nil, "", nil, "auth: no such user: control character in the name"},
		{"no NUL", "PLAIN", []string{"Alice secret"}, nil, "", ErrMalformed, ""},
		{"one NUL", "PLAIN", []string{"Alice\x00secret"}, nil, "", ErrMalformed, ""},
		{"three NULs", "PLAIN", []string{"\x00Alice\x00secret\x00"}, nil, "", ErrMalformed, ""},
		{"empty", "PLAIN", []string{""}, nil, "", ErrMalformed, ""},
		{"empty name", "PLAIN", []string{"\x00\x00secret"}, nil, "", ErrMalformed, ""},
		{"password in Latin-1", "PLAIN", []string{"\x00bob\x00caf\xe9"}, nil, "bob", nil, ""},
		{"wrong password of any bytes", "PLAIN", []string{"\x00Alice\x00\xff\xfe"}, nil, "", nil, "auth: wrong password (fake)"},
		{"name not UTF-8", "PLAIN", []string{"\x00\xff\xfe\x00secret"}, nil, "", nil, "auth: no such user: the name is not UTF-8"},
		{"authzid not UTF-8", "PLAIN", []string{"\xff\x00Alice\x00secret"}, nil, "", nil, "auth: no such user: the authorization identity is not UTF-8"},
		{"long name", "PLAIN", []string{"\x00" + long + "\x00secret"}, nil, "", nil, "auth: no such user: the name is longer than 512 octets"},
		{"longest name", "PLAIN", []string{"\x00" + long[1:] + "\x00secret"}, nil, "", nil, "auth: no such user (fake)"},
		{"long authzid", "PLAIN", []string{long + "\x00Alice\x00secret"}, nil, "", nil, "auth: no such user: the authorization identity is longer than 512 octets"},
		{"long password", "PLAIN", []string{"\x00Alice\x00" + longPassword()}, nil, "", nil, "auth: wrong password (fake)"},
		{"longest right password", "PLAIN", []string{"\x00carol\x00" + longPassword()}, nil, "carol", nil, ""},
		{"longer than a line", "PLAIN", []string{"\x00Alice\x00" + tooLong}, nil, "", ErrMalformed, ""},
		{"only NULs", "PLAIN", []string{strings.Repeat("\x00", maxResponse)}, nil, "", ErrMalformed, ""},
		{"no response twice", "PLAIN", []string{"<nil>", "<nil>"}, []string{""}, "", ErrMalformed, ""},
	})
}

func TestLoginConversations(t *testing.T) {
	long, tooLong := strings.Repeat("x", maxName+1), strings.Repeat("x", maxResponse+1)
	checkConversations(t, []conversation{
		{"prompts", "LOGIN", []string{"<nil>", "Alice", "secret"}, []string{"Username:", "Password:"}, "alice", nil, ""},
		{"initial response", "LOGIN", []string{"Alice", "secret"}, []string{"Password:"}, "alice", nil, ""},
		{"empty initial response", "LOGIN", []string{"", "Alice", "secret"}, []string{"Username:", "Password:"}, "alice", nil, ""},
		{"wrong password", "LOGIN", []string{"Alice", "no"}, []string{"Password:"}, "", nil, "auth: wrong password (fake)"},
		{"empty password", "LOGIN", []string{"Alice", ""}, []string{"Password:"}, "", nil, "auth: wrong password: empty password"},
		{"password in Latin-1", "LOGIN", []string{"bob", "caf\xe9"}, []string{"Password:"}, "bob", nil, ""},
		{"empty name", "LOGIN", []string{"<nil>", ""}, []string{"Username:"}, "", ErrMalformed, ""},
		{"wrong password of any bytes", "LOGIN", []string{"Alice", "\xff\xfe"}, []string{"Password:"}, "", nil, "auth: wrong password (fake)"},
		{"name not UTF-8", "LOGIN", []string{"\xff\xfe"}, nil, "", nil, "auth: no such user: the name is not UTF-8"},
		{"NUL in the name", "LOGIN", []string{"Al\x00ice"}, nil, "", ErrMalformed, ""},
		{"NUL in the password", "LOGIN", []string{"Alice", "sec\x00ret"}, []string{"Password:"}, "", ErrMalformed, ""},
		{"long name", "LOGIN", []string{long}, nil, "", nil, "auth: no such user: the name is longer than 512 octets"},
		{"longest name", "LOGIN", []string{long[1:], "secret"}, []string{"Password:"}, "", nil, "auth: no such user (fake)"},
		{"name longer than a line", "LOGIN", []string{tooLong}, nil, "", ErrMalformed, ""},
		{"long password", "LOGIN", []string{"Alice", longPassword()}, []string{"Password:"}, "", nil, "auth: wrong password (fake)"},
		{"longest right password", "LOGIN", []string{"carol", longPassword()}, []string{"Password:"}, "carol", nil, ""},
		{"longer than a line", "LOGIN", []string{"Alice", tooLong}, []string{"Password:"}, "", ErrMalformed, ""},
		{"abandoned", "LOGIN", []string{"Alice"}, []string{"Password:"}, "", errNotDone, ""},
	})
}

func checkConversations(t *testing.T, tests []conversation) {
	t.Helper()
	for _, tt := range tests {
		t.Run(tt.mech+" "+tt.name, func(t *testing.T) {
			store := &fakeStore{users: map[string]string{"Alice": "secret", "bob": "caf\xe9", "carol": longPassword()}}
			challenges, x, err := converse(t, Local{Passwords: store}, tt.mech, tt.responses...)
			if !slices.Equal(challenges, tt.challenges) {
				t.Errorf("challenges %q, want %q", challenges, tt.challenges)
			}
			f, failed := errors.AsType[*Failure](err)
			switch {
			case tt.user != "":
				want := Identity{User: tt.user, As: tt.user, Mechanism: tt.mech, Store: "fake"}
				if err != nil || x.Identity() != want {
					t.Errorf("identity %+v, error %v; want %+v", x.Identity(), err, want)
				}
				return
			case tt.err != nil && !errors.Is(err, tt.err):
				t.Errorf("error %v, want %v", err, tt.err)
			case tt.fail != "" && (!failed || f.Error() != tt.fail || f.Login == ""):
				t.Errorf("error %v, want %s", err, tt.fail)
			}
			if x.Identity() != (Identity{}) {
				t.Errorf("an identity without success: %+v", x.Identity())
			}
			if tt.fail != "" && !strings.Contains(tt.fail, "(fake)") && store.asked != 0 {
				t.Error("the login reached the store")
			}
		})
	}
}

func TestExchangeEndsOnce(t *testing.T) {
	store := &fakeStore{users: map[string]string{"alice": "secret"}}
	good := map[string][]string{"PLAIN": {"\x00alice\x00secret"}, "LOGIN": {"alice", "secret"}}
	bad := map[string][]string{"PLAIN": {"\x00alice\x00no"}, "LOGIN": {"alice", "no"}}
	for _, conversation := range []map[string][]string{good, bad} {
		for mech, responses := range conversation {
			_, x, _ := converse(t, Local{Passwords: store}, mech, responses...)
			asked := store.asked
			for _, again := range [][]byte{nil, {}, []byte("\x00alice\x00secret"), []byte("secret")} {
				if _, done, err := x.Next(t.Context(), again); done || !errors.Is(err, ErrMalformed) {
					t.Errorf("%s continues with %q: done %v, %v", mech, again, done, err)
				}
			}
			if store.asked != asked {
				t.Errorf("%s asked the store again", mech)
			}
		}
	}
}

func TestFailureNamesTheLogin(t *testing.T) {
	shared := &Failure{Kind: BadPassword, Store: "fake"}
	store := &fakeStore{err: shared}
	_, _, err := converse(t, Local{Passwords: store}, "PLAIN", "\x00al\u202eice@example.org\x00no")
	f, ok := errors.AsType[*Failure](err)
	if !ok || f.Login != "al?ice@example.org" || f.Store != "fake" {
		t.Errorf("failure %+v", f)
	}
	if shared.Login != "" {
		t.Error("the store's value was changed")
	}
}

func TestBrokenStoreNeitherAcceptsNorRefuses(t *testing.T) {
	broken := errors.New("disk failure")
	for _, err := range []error{broken, &Unavailable{Store: "fake", Err: broken}} {
		_, x, got := converse(t, Local{Passwords: &fakeStore{err: err}}, "LOGIN", "alice", "secret")
		u, ok := errors.AsType[*Unavailable](got)
		if !ok || u.Login != "alice" || !errors.Is(got, broken) {
			t.Errorf("%v became %#v", err, got)
		}
		if _, no := errors.AsType[*Failure](got); no || x.Identity().User != "" {
			t.Errorf("%v became an answer: %v", err, got)
		}
	}
}

func TestStoreThatNamesNoUserIsBroken(t *testing.T) {
	store := &fakeStore{users: map[string]string{" ": "secret"}}
	trim := verifierFunc(func(ctx context.Context, p *Peer, login, password string) (Identity, error) {
		id, err := store.VerifyPassword(ctx, p, login, password)
		id.User = strings.TrimSpace(id.User)
		return id, err
	})
	_, _, err := converse(t, Local{Passwords: trim}, "PLAIN", "\x00 \x00secret")
	if _, ok := errors.AsType[*Unavailable](err); !ok {
		t.Errorf("got %v, want Unavailable", err)
	}
}

type verifierFunc func(context.Context, *Peer, string, string) (Identity, error)

func (f verifierFunc) VerifyPassword(ctx context.Context, p *Peer, login, password string) (Identity, error) {
	return f(ctx, p, login, password)
}

// The context of a step ends a verification; that of Start does not.
func TestContextOfTheStepEndsAVerification(t *testing.T) {
	asked := make(chan struct{})
	slow := verifierFunc(func(ctx context.Context, _ *Peer, _, _ string) (Identity, error) {
		close(asked)
		<-ctx.Done()
		return Identity{}, context.Cause(ctx)
	})
	starting, started := context.WithCancel(t.Context())
	x, err := Local{Passwords: slow}.Start(starting, tlsPeer(), "PLAIN")
	if err != nil {
		t.Fatal(err)
	}
	started()
	defer x.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		<-asked
		cancel(errDown)
	}()
	_, done, err := x.Next(ctx, []byte("\x00alice\x00secret"))
	if done || !errors.Is(err, errDown) {
		t.Errorf("done %v, error %v; want the cause of the step's context", done, err)
	}
}

func TestLogName(t *testing.T) {
	tests := map[string]string{
		"alice@example.org":            "alice@example.org",
		"jürgen":                       "jürgen",
		"a\r\nb\x1b[2J\u2028":          "a??b?[2J?",
		"a\xffb":                       "a?b",
		strings.Repeat("a", 200):       strings.Repeat("a", 128) + "...",
		"x" + strings.Repeat("é", 100): "x" + strings.Repeat("é", 63) + "...",
	}
	for in, want := range tests {
		if got := logName(in); got != want {
			t.Errorf("logName(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzPlain(f *testing.F) {
	for _, seed := range []string{"\x00alice\x00secret", "a\x00alice\x00secret", "\x00\x00", "\x00alice\x00", "", "\x00a\x00b\x00", "\x00\xff\x00x"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, response []byte) {
		c, err := parsePlain(response)
		if err != nil {
			return
		}
		if again := c.authzid + "\x00" + c.login + "\x00" + c.password; again != string(response) {
			t.Errorf("%q was read as %+v", response, c)
		}
		if c.login == "" || strings.Contains(c.login+c.authzid+c.password, "\x00") {
			t.Errorf("%q was accepted as %+v", response, c)
		}
	})
}

func FuzzLogin(f *testing.F) {
	f.Add([]byte("alice"), []byte("secret"))
	f.Add([]byte(""), []byte(""))
	f.Add([]byte("a\x00"), []byte("\xff"))
	f.Fuzz(func(t *testing.T, name, password []byte) {
		echo := verifierFunc(func(_ context.Context, _ *Peer, login, pw string) (Identity, error) {
			if login != string(name) || pw != string(password) {
				t.Errorf("%q %q reached the store as %q %q", name, password, login, pw)
			}
			return Identity{User: login, Store: "echo"}, nil
		})
		x, err := Local{Passwords: echo}.Start(t.Context(), tlsPeer(), "LOGIN")
		if err != nil {
			t.Fatal(err)
		}
		defer x.Close()
		for _, response := range [][]byte{nil, name, password} {
			_, done, err := x.Next(t.Context(), response)
			if err != nil {
				return
			}
			if done && (len(password) == 0 || len(name) == 0) {
				t.Errorf("%q %q was accepted", name, password)
			}
		}
	})
}

func BenchmarkPlainExchange(b *testing.B) {
	l := Local{Passwords: Throttled(newThrottle(), WithPRECIS(&fakeStore{users: map[string]string{"alice": "secret"}}))}
	p, response := tlsPeer(), []byte("\x00alice\x00secret")
	b.ReportAllocs()
	for b.Loop() {
		x, err := l.Start(b.Context(), p, "PLAIN")
		if err != nil {
			b.Fatal(err)
		}
		if _, done, err := x.Next(b.Context(), response); !done || err != nil {
			b.Fatal(done, err)
		}
		x.Close()
	}
}

// newThrottle returns a throttle with the default settings.
func newThrottle() *throttle.Throttle {
	cfg := Defaults()
	return throttle.New(cfg.Throttle())
}

func TestLocalOffersScram(t *testing.T) {
	tls13, bare := tlsPeer(), tlsPeer()
	_, tls12 := handshake(t, tls.VersionTLS12)
	blind := *tls12
	blind.Certificate = nil
	bare.TLS = &tls.ConnectionState{Version: tls.VersionTLS12, HandshakeComplete: true}
	bare.Certificate = &x509.Certificate{SignatureAlgorithm: x509.ECDSAWithSHA256}
	both := Local{Passwords: &fakeStore{}, Keys: users(), Scram: NewScram(newThrottle(), nil)}
	with := func(change func(*Local)) Local {
		l := both
		change(&l)
		return l
	}
	tests := []struct {
		name  string
		local Local
		peer  *Peer
		want  string
	}{
		{"TLS 1.3", both, tls13, "SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN"},
		{"TLS 1.2", both, tls12, "SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN"},
		{"TLS 1.2, certificate not known", both, &blind, "SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN"},
		{"TLS 1.2, no tls-unique", both, bare, "SCRAM-SHA-256 PLAIN LOGIN"},
		{"clear text", both, &Peer{}, ""},
		{"the defaults", with(func(l *Local) { l.Only = Defaults().Mechanisms }), tls13, "PLAIN LOGIN"},
		{"only PLUS", with(func(l *Local) { l.Only = []MechanismName{mechScramPlus} }), tls13, "SCRAM-SHA-256-PLUS"},
		{"no keys", with(func(l *Local) { l.Keys = nil }), tls13, "PLAIN LOGIN"},
		{"no passwords", with(func(l *Local) { l.Passwords = nil }), tls13, "SCRAM-SHA-256-PLUS SCRAM-SHA-256"},
		{"noplaintext", with(func(l *Local) { l.Security = SecurityOptions{NoPlaintext} }), tls13, "SCRAM-SHA-256-PLUS SCRAM-SHA-256"},
		{"mutual_auth", with(func(l *Local) { l.Security = SecurityOptions{MutualAuth} }), tls13, "SCRAM-SHA-256-PLUS SCRAM-SHA-256"},
		{"forward_secrecy", with(func(l *Local) { l.Security = SecurityOptions{ForwardSecrecy} }), tls13, ""},
	}
	for _, tt := range tests {
		got := tt.local.Mechanisms(tt.peer)
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: offers %v, want %s", tt.name, got, tt.want)
		}
		for _, m := range mechanisms {
			x, err := tt.local.Start(t.Context(), tt.peer, string(m.name))
			if slices.Contains(got, string(m.name)) != (err == nil) {
				t.Errorf("%s: %s: %v", tt.name, m.name, err)
			}
			if err == nil {
				x.Close()
			}
		}
	}
}

func TestLocalCheck(t *testing.T) {
	passwords := &fakeStore{}
	tests := []struct {
		name  string
		local Local
		why   string
	}{
		{"the defaults", Local{Passwords: passwords, Only: Defaults().Mechanisms, Security: Defaults().SecurityOptions}, ""},
		{"SCRAM with keys", Local{Passwords: passwords, Keys: users(), Scram: NewScram(newThrottle(), nil), Only: []MechanismName{mechScram, mechPlain}}, ""},
		{"SCRAM without keys", Local{Passwords: passwords, Only: []MechanismName{mechPlain, mechScram}}, "names SCRAM-SHA-256, but"},
		{"PLAIN without passwords", Local{Keys: users(), Scram: NewScram(newThrottle(), nil), Only: Defaults().Mechanisms}, "names PLAIN, but"},
		{"nothing left", Local{Passwords: passwords, Only: Defaults().Mechanisms, Security: SecurityOptions{NoPlaintext}}, "rule out every mechanism"},
	}
	for _, tt := range tests {
		err := tt.local.Check()
		if (err == nil) != (tt.why == "") || err != nil && !strings.Contains(err.Error(), tt.why) {
			t.Errorf("%s: %v, want ...%s...", tt.name, err, tt.why)
		}
	}
}
