package auth

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/xdg-go/scram"

	"postern/server/auth/hash"
	"postern/test/kit"
)

// fakeKeeper is a backend with the keys of users whose password is the value.
type fakeKeeper struct {
	users map[string]string
	asked []string
	err   error
}

const testIterations = 4096

func (k *fakeKeeper) ScramKeys(_ context.Context, _ *Peer, login string) (ScramKeys, error) {
	k.asked = append(k.asked, login)
	if k.err != nil {
		return ScramKeys{}, k.err
	}
	password, ok := k.users[login]
	switch {
	case !ok:
		return ScramKeys{}, &Failure{Kind: NoSuchUser, Store: "keeper"}
	case password == "bcrypt":
		return ScramKeys{}, &Failure{Kind: BadPassword, Store: "keeper", Reason: "no keys"}
	}
	return keysOf(strings.ToLower(login), password), nil
}

func (k *fakeKeeper) ScramDecoy(login string) ScramDecoy {
	return ScramDecoy{Login: strings.ToLower(login), ScramShape: hash.ScramShape{Iterations: testIterations, SaltLength: 16}}
}

// keysOf derives keys as a client does, with a salt for each user.
func keysOf(user, password string) ScramKeys {
	salt := sha256.Sum256([]byte("salt of " + user))
	client, err := scram.SHA256.NewClient(user, password, "")
	if err != nil {
		panic(err)
	}
	c, err := client.GetStoredCredentialsWithError(scram.KeyFactors{Salt: string(salt[:16]), Iters: testIterations})
	if err != nil {
		panic(err)
	}
	return ScramKeys{User: user, Store: "keeper", ScramKeys: hash.ScramKeys{
		Salt: []byte(c.Salt), Iterations: c.Iters, StoredKey: c.StoredKey, ServerKey: c.ServerKey,
	}}
}

// handshake makes a real connection, as channel bindings need one. It returns the state of
// the client and the peer of the server.
func handshake(t *testing.T, version uint16) (client tls.ConnectionState, p *Peer) {
	t.Helper()
	return connect(t, &tls.Config{Certificates: []tls.Certificate{kit.Certificate{}.SelfSigned(t)}, MaxVersion: version, SessionTicketsDisabled: true},
		&tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version})
}

// resume is handshake for a connection with TLS 1.2 that resumes the session of an earlier
// one.
func resume(t *testing.T) (client tls.ConnectionState, p *Peer) {
	t.Helper()
	server := &tls.Config{Certificates: []tls.Certificate{kit.Certificate{}.SelfSigned(t)}, MaxVersion: tls.VersionTLS12}
	config := &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	connect(t, server, config)
	client, p = connect(t, server, config)
	if !client.DidResume || !p.TLS.DidResume {
		t.Fatal("the session was not resumed")
	}
	return client, p
}

func connect(t *testing.T, serverConfig, clientConfig *tls.Config) (client tls.ConnectionState, p *Peer) {
	t.Helper()
	near, far := net.Pipe()
	server, c := tls.Server(far, serverConfig), tls.Client(near, clientConfig)
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	if err := errors.Join(c.Handshake(), <-done); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	state := server.ConnectionState()
	p = tlsPeer()
	p.TLS, p.Certificate = &state, serverConfig.Certificates[0].Leaf
	return c.ConnectionState(), p
}

func scramLocal(k KeyStore) Local {
	return Local{Keys: k, Scram: NewScram(newThrottle(), nil)}
}

func users() *fakeKeeper {
	return &fakeKeeper{users: map[string]string{"Alice": "secret", "bob": "bcrypt", "a=b,c": "secret", "élise": "caf\u00e9"}}
}

// talk runs an exchange with a client of the library. It returns the challenges.
func talk(t *testing.T, x Exchange, c *scram.ClientConversation) (challenges []string, err error) {
	t.Helper()
	t.Cleanup(func() { x.Close() })
	challenge := ""
	for {
		response, err := c.Step(challenge)
		if err != nil {
			return challenges, fmt.Errorf("the client gives up: %w", err)
		}
		answer, done, err := x.Next(t.Context(), []byte(response))
		if err != nil || done {
			return challenges, err
		}
		challenge = string(answer)
		challenges = append(challenges, challenge)
	}
}

func start(t *testing.T, l Local, p *Peer, mech string) Exchange {
	t.Helper()
	x, err := l.Start(t.Context(), p, mech)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func clientOf(t *testing.T, user, password, authzid string) *scram.Client {
	t.Helper()
	c, err := scram.SHA256.NewClientUnprepped(user, password, authzid)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestScramConversations(t *testing.T) {
	tests := []struct{ name, login, password, authzid, want string }{
		{"right", "Alice", "secret", "", "yes: alice (keeper)"},
		{"name to be escaped", "a=b,c", "secret", "", "yes: a=b,c (keeper)"},
		{"password that is not ASCII", "élise", "caf\u00e9", "", "yes: élise (keeper)"},
		{"authzid is the login", "Alice", "secret", "Alice", "yes: alice (keeper)"},
		{"authzid is the canonical name", "Alice", "secret", "alice", "yes: alice (keeper)"},
		{"authzid to be escaped", "a=b,c", "secret", "a=b,c", "yes: a=b,c (keeper)"},
		{"authzid of another user", "Alice", "secret", "bob", "not allowed (keeper)"},
		{"authzid of another user and wrong password", "Alice", "no", "bob", "wrong password (keeper)"},
		{"wrong password", "Alice", "Secret", "", "wrong password (keeper)"},
		{"empty password", "Alice", "", "", "wrong password (keeper)"},
		{"unknown user", "eve", "secret", "", "no such user (keeper)"},
		{"unknown user and authzid", "eve", "secret", "Alice", "no such user (keeper)"},
		{"hash of another scheme", "bob", "bcrypt", "", "wrong password (keeper)"},
		{"control character", "a\tb", "secret", "", ErrMalformed.Error()},
		{"long name", strings.Repeat("x", maxName+1), "secret", "", "no such user ()"},
		{"long authzid", "Alice", "secret", strings.Repeat("x", maxName+1), "no such user ()"},
		{"empty name", "", "secret", "", ErrMalformed.Error()},
		{"not UTF-8", "\xff", "secret", "", ErrMalformed.Error()},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x := start(t, scramLocal(users()), tlsPeer(), "SCRAM-SHA-256")
			challenges, err := talk(t, x, clientOf(t, tt.login, tt.password, tt.authzid).NewConversation())
			if got := result(x.Identity(), err); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			if err != nil && x.Identity() != (Identity{}) {
				t.Errorf("an identity without success: %+v", x.Identity())
			}
			if f := asFailure(err); f != nil && f.Login != logName(tt.login) {
				t.Errorf("names the login %q", f.Login)
			}
			if err == nil && x.Identity() != (Identity{User: x.Identity().User, As: x.Identity().User, Mechanism: "SCRAM-SHA-256", Store: "keeper"}) {
				t.Errorf("identity %+v", x.Identity())
			}
			if len(challenges) > 2 {
				t.Errorf("challenges %q", challenges)
			}
		})
	}
}

// RFC 7677, section 3.
func TestScramVectorOfRFC7677(t *testing.T) {
	const (
		first       = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
		serverFirst = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
		final       = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
		serverFinal = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
	)
	salt, err := base64.StdEncoding.DecodeString("W22ZaJ0SNY7soEsUEjb6gQ==")
	if err != nil {
		t.Fatal(err)
	}
	c, err := clientOf(t, "user", "pencil", "").GetStoredCredentialsWithError(scram.KeyFactors{Salt: string(salt), Iters: 4096})
	if err != nil {
		t.Fatal(err)
	}
	x := start(t, scramLocal(users()), tlsPeer(), "SCRAM-SHA-256").(*scramExchange)
	defer x.Close()
	// The exchange cannot be made to use a nonce, so the test replaces the conversation.
	server, err := scram.SHA256.NewServer(func(string) (scram.StoredCredentials, error) { return c, nil })
	if err != nil {
		t.Fatal(err)
	}
	server.WithNonceGenerator(func() string { return "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0" })
	x.conversation = server.NewConversation()
	x.login, x.account = "user", ScramKeys{User: "user", Store: "rfc"}
	if got, err := x.conversation.Step(first); got != serverFirst || err != nil {
		t.Fatalf("%s, %v", got, err)
	}
	x.next = (*scramExchange).clientFinal
	got, done, err := x.Next(t.Context(), []byte(final))
	if string(got) != serverFinal || done || err != nil {
		t.Fatalf("%s, done %v, %v", got, done, err)
	}
	if x.Identity() != (Identity{}) {
		t.Error("an identity before the client has accepted the server's proof")
	}
	if _, done, err := x.Next(t.Context(), []byte{}); !done || err != nil || x.Identity().User != "user" {
		t.Errorf("done %v, %v, %+v", done, err, x.Identity())
	}
}

func TestScramPlus(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		client, p := handshake(t, version)
		endpoint, err := scram.NewTLSServerEndpointBinding(&client)
		if err != nil {
			t.Fatal(err)
		}
		exporter, err := scram.NewTLSExporterBinding(&client)
		if err != nil {
			t.Fatal(err)
		}
		elsewhere, _ := handshake(t, version)
		otherEnd, _ := scram.NewTLSServerEndpointBinding(&elsewhere)
		otherKeys, _ := scram.NewTLSExporterBinding(&elsewhere)
		unique := uniqueOf(client)
		ofTLS13, ofTLS12 := "yes: alice (keeper)", "refused ()"
		if version == tls.VersionTLS12 {
			ofTLS13, ofTLS12 = ofTLS12, ofTLS13
		}
		tests := []struct {
			name     string
			binding  scram.ChannelBinding
			password string
			want     string
		}{
			{"end point", endpoint, "secret", "yes: alice (keeper)"},
			{"exporter", exporter, "secret", ofTLS13},
			{"tls-unique", unique, "secret", ofTLS12},
			{"end point, wrong password", endpoint, "no", "wrong password (keeper)"},
			{"another certificate", otherEnd, "secret", "refused (keeper)"},
			{"another connection, exporter", otherKeys, "secret", refusedWith(ofTLS13)},
			{"another connection, tls-unique", uniqueOf(elsewhere), "secret", refusedWith(ofTLS12)},
			{"made up, tls-unique", scram.NewTLSUniqueBinding(make([]byte, 12)), "secret", refusedWith(ofTLS12)},
			{"exporter's data as tls-unique", scram.NewTLSUniqueBinding(exporter.Data), "secret", refusedWith(ofTLS12)},
		}
		for _, tt := range tests {
			t.Run(tls.VersionName(version)+" "+tt.name, func(t *testing.T) {
				x := start(t, scramLocal(users()), p, "SCRAM-SHA-256-PLUS")
				_, err := talk(t, x, clientOf(t, "Alice", tt.password, "").NewConversationWithChannelBinding(tt.binding))
				if got := result(x.Identity(), err); got != tt.want {
					t.Errorf("got %s, want %s (%v)", got, tt.want, err)
				}
			})
		}
	}
}

// uniqueOf returns the client's tls-unique, or 12 other bytes if the connection has none.
func uniqueOf(client tls.ConnectionState) scram.ChannelBinding {
	if len(client.TLSUnique) == 0 {
		return scram.NewTLSUniqueBinding([]byte("finished ..."))
	}
	return scram.NewTLSUniqueBinding(client.TLSUnique)
}

// refusedWith returns the result for a wrong binding where a right one has the result
// right: if the connection has no such binding, no store is asked.
func refusedWith(right string) string {
	if right == "refused ()" {
		return right
	}
	return "refused (keeper)"
}

// With TLS 1.2, tls-unique also binds a connection that resumes a session, on which the
// server sends the first Finished message.
func TestScramPlusOnResumedConnection(t *testing.T) {
	first, _ := handshake(t, tls.VersionTLS12)
	client, p := resume(t)
	for name, tt := range map[string]struct {
		unique []byte
		want   string
	}{
		"own":              {client.TLSUnique, "yes: alice (keeper)"},
		"other connection": {first.TLSUnique, "refused (keeper)"},
	} {
		x := start(t, scramLocal(users()), p, "SCRAM-SHA-256-PLUS")
		binding := scram.NewTLSUniqueBinding(tt.unique)
		_, err := talk(t, x, clientOf(t, "Alice", "secret", "").NewConversationWithChannelBinding(binding))
		if got := result(x.Identity(), err); got != tt.want {
			t.Errorf("%s: got %s, want %s (%v)", name, got, tt.want, err)
		}
	}
}

// With TLS 1.2, -PLUS is offered only if there is a safe tls-unique. That it is not safe
// without the extended master secret is tested with GnuTLS (package test).
func TestCanBind(t *testing.T) {
	_, tls13 := handshake(t, tls.VersionTLS13)
	_, tls12 := handshake(t, tls.VersionTLS12)
	_, resumed := resume(t)
	without := func(p *Peer, change func(*tls.ConnectionState)) *Peer {
		changed, state := *p, *p.TLS
		change(&state)
		changed.TLS = &state
		return &changed
	}
	for name, tt := range map[string]struct {
		peer *Peer
		want bool
	}{
		"clear text":          {&Peer{}, false},
		"TLS 1.3":             {tls13, true},
		"TLS 1.2":             {tls12, true},
		"resumed":             {resumed, true},
		"no tls-unique":       {without(tls12, func(s *tls.ConnectionState) { s.TLSUnique = nil }), false},
		"in the handshake":    {without(tls12, func(s *tls.ConnectionState) { s.HandshakeComplete = false }), false},
		"an old version":      {without(tls12, func(s *tls.ConnectionState) { s.Version = tls.VersionTLS11 }), false},
		"tls-unique with 1.3": {without(tls13, func(s *tls.ConnectionState) { s.TLSUnique = make([]byte, 12) }), true},
	} {
		if got := canBind(tt.peer); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
		if tt.peer.TLS == nil {
			continue
		}
		_, err := bindingOf(tt.peer, "tls-unique")
		if (err == nil) != (tt.want && tt.peer.TLS.Version == tls.VersionTLS12) {
			t.Errorf("%s: tls-unique: %v", name, err)
		}
	}
}

func TestScramFlags(t *testing.T) {
	_, both := handshake(t, tls.VersionTLS13)
	_, old := handshake(t, tls.VersionTLS12)
	bare := *old
	state := *old.TLS
	bare.TLS, state.TLSUnique = &state, nil
	const rest = ",,n=Alice,r=0123456789abcdef"
	tests := []struct {
		name, mech string
		peer       *Peer
		only       []MechanismName
		flag, want string
	}{
		{"no binding", "SCRAM-SHA-256", both, nil, "n", "continues"},
		{"downgrade", "SCRAM-SHA-256", both, nil, "y", "refused ()"},
		{"not offered by the configuration", "SCRAM-SHA-256", both, []MechanismName{mechScram}, "y", "continues"},
		{"not offered for want of a binding", "SCRAM-SHA-256", &bare, nil, "y", "continues"},
		{"downgrade on TLS 1.2", "SCRAM-SHA-256", old, nil, "y", "refused ()"},
		{"tls-unique on TLS 1.2", "SCRAM-SHA-256-PLUS", old, nil, "p=tls-unique", "continues"},
		{"tls-unique on TLS 1.3", "SCRAM-SHA-256-PLUS", both, nil, "p=tls-unique", "refused ()"},
		{"exporter on TLS 1.2", "SCRAM-SHA-256-PLUS", old, nil, "p=tls-exporter", "refused ()"},
		{"binding without PLUS", "SCRAM-SHA-256", both, nil, "p=tls-exporter", ErrMalformed.Error()},
		{"binding without PLUS", "SCRAM-SHA-256", old, nil, "p=tls-exporter", ErrMalformed.Error()},
		{"PLUS without binding", "SCRAM-SHA-256-PLUS", both, nil, "n", ErrMalformed.Error()},
		{"PLUS without binding", "SCRAM-SHA-256-PLUS", both, nil, "y", ErrMalformed.Error()},
		{"empty name", "SCRAM-SHA-256-PLUS", both, nil, "p=", "refused ()"},
		{"unknown name", "SCRAM-SHA-256-PLUS", both, nil, "p=tls-nonsense", "refused ()"},
		{"exporter", "SCRAM-SHA-256-PLUS", both, nil, "p=tls-exporter", "continues"},
		{"no flag", "SCRAM-SHA-256", both, nil, "", ErrMalformed.Error()},
		{"another flag", "SCRAM-SHA-256", both, nil, "x", ErrMalformed.Error()},
	}
	for _, tt := range tests {
		l := scramLocal(users())
		l.Only = tt.only
		x := start(t, l, tt.peer, tt.mech)
		_, done, err := x.Next(t.Context(), []byte(tt.flag+rest))
		got := "continues"
		if err != nil || done {
			got = result(x.Identity(), err)
		}
		if got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
		x.Close()
	}
}

// The keys of unknown users stay the same after a restart with the same secret.
func TestFakeKeysDependOnTheSecret(t *testing.T) {
	salt := func(secret []byte) string {
		local := Local{Keys: users(), Scram: NewScram(newThrottle(), secret)}
		_, salt, _ := startRaw(t, start(t, local, tlsPeer(), "SCRAM-SHA-256"), "n,,", "eve").offer()
		return string(salt)
	}
	secret := []byte("of 32 bytes, from the state folder")
	before, after := salt(secret), salt(secret)
	if before != after {
		t.Error("another salt with the same secret")
	}
	one, other := salt(nil), salt(nil)
	if before == salt([]byte("another")) || one == other {
		t.Error("the same salt with another secret")
	}
}
