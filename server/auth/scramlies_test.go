package auth

import (
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postern/server/auth/throttle"
	"postern/test/kit"
)

// A liar is a client that knows a password and can send any message.
type liar struct {
	x           Exchange
	bare        string // client-first-message-bare
	serverFirst string
}

func lieTo(t *testing.T, x Exchange, header, login string) *liar {
	t.Helper()
	t.Cleanup(func() { x.Close() })
	l := &liar{x: x, bare: "n=" + login + ",r=rOprNGfwEbeRWgbNEkqO"}
	answer, done, err := x.Next(t.Context(), []byte(header+l.bare))
	if done || err != nil {
		t.Fatal(done, err)
	}
	l.serverFirst = string(answer)
	return l
}

// offer returns the nonce, the salt and the iterations that the server has sent.
func (l *liar) offer() (nonce string, salt []byte, iterations int) {
	fields := strings.Split(l.serverFirst, ",")
	salt, _ = base64.StdEncoding.DecodeString(fields[1][2:])
	iterations, _ = strconv.Atoi(fields[2][2:])
	return fields[0][2:], salt, iterations
}

// final is a client-final-message whose proof is right for its text.
func (l *liar) final(withoutProof, password string) string {
	_, salt, iterations := l.offer()
	salted, err := pbkdf2.Key(sha256.New, password, salt, iterations, 32)
	if err != nil {
		panic(err)
	}
	clientKey := mac(salted, "Client Key")
	storedKey := sha256.Sum256(clientKey)
	proof := mac(storedKey[:], l.bare+","+l.serverFirst+","+withoutProof)
	for i := range proof {
		proof[i] ^= clientKey[i]
	}
	return withoutProof + ",p=" + base64.StdEncoding.EncodeToString(proof)
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

func TestScramFinalMessages(t *testing.T) {
	malformed := ErrMalformed.Error()
	const yes, refused = "yes", "refused (keeper)"
	tests := []struct {
		name string
		lie  func(l *liar, nonce string) string
		want string
	}{
		{"honest", func(l *liar, nonce string) string { return l.final("c=biws,r="+nonce, "secret") }, yes},
		{"with an extension", func(l *liar, nonce string) string { return l.final("c=biws,r="+nonce+",x=y", "secret") }, yes},
		{"channel binding of a p flag", func(l *liar, nonce string) string { return l.final("c=cD10bHMtZXhwb3J0ZXIsLA==,r="+nonce, "secret") }, refused},
		{"channel binding of a y flag", func(l *liar, nonce string) string { return l.final("c=eSws,r="+nonce, "secret") }, refused},
		{"channel binding with an authzid", func(l *liar, nonce string) string { return l.final("c=bixhPWJvYiw=,r="+nonce, "secret") }, refused},
		{"channel binding with a tail", func(l *liar, nonce string) string { return l.final("c=biwsAA==,r="+nonce, "secret") }, refused},
		{"no channel binding", func(l *liar, nonce string) string { return l.final("c=,r="+nonce, "secret") }, refused},
		{"only the client's nonce", func(l *liar, nonce string) string { return l.final("c=biws,r=rOprNGfwEbeRWgbNEkqO", "secret") }, refused},
		{"another server nonce", func(l *liar, nonce string) string { return l.final("c=biws,r="+nonce[:len(nonce)-1]+"#", "secret") }, refused},
		{"longer nonce", func(l *liar, nonce string) string { return l.final("c=biws,r="+nonce+"x", "secret") }, refused},
		{"empty nonce", func(l *liar, nonce string) string { return l.final("c=biws,r=", "secret") }, refused},
		{"sloppy base64 in c", func(l *liar, nonce string) string { return l.final("c=biwt=,r="+nonce, "secret") }, malformed},
		{"unpadded base64 in c", func(l *liar, nonce string) string { return l.final("c=biwsAA,r="+nonce, "secret") }, malformed},
		{"line end in base64", func(l *liar, nonce string) string { return l.final("c=bi\r\nws,r="+nonce, "secret") }, malformed},
		{"bits behind the proof", func(l *liar, nonce string) string { return spoilLastBits(l.final("c=biws,r="+nonce, "secret")) }, malformed},
		{"short proof", func(l *liar, nonce string) string { return "c=biws,r=" + nonce + ",p=AAAA" }, malformed},
		{"empty proof", func(l *liar, nonce string) string { return "c=biws,r=" + nonce + ",p=" }, malformed},
		{"zero proof", func(l *liar, nonce string) string { return "c=biws,r=" + nonce + ",p=" + strings.Repeat("A", 43) + "=" }, "wrong password (keeper)"},
		{"no proof", func(l *liar, nonce string) string { return "c=biws,r=" + nonce }, malformed},
		{"text after the proof", func(l *liar, nonce string) string { return l.final("c=biws,r="+nonce, "secret") + ",x=y" }, malformed},
		{"wrong order", func(l *liar, nonce string) string { return l.final("r="+nonce+",c=biws", "secret") }, malformed},
		{"empty", func(l *liar, nonce string) string { return "" }, malformed},
		{"long", func(l *liar, nonce string) string {
			return l.final("c=biws,r="+nonce+",x="+strings.Repeat("x", maxScram), "secret")
		}, malformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x := start(t, scramLocal(users()), tlsPeer(), "SCRAM-SHA-256")
			l := lieTo(t, x, "n,,", "Alice")
			nonce, _, _ := l.offer()
			answer, done, err := x.Next(t.Context(), []byte(tt.lie(l, nonce)))
			if done || x.Identity() != (Identity{}) {
				t.Error("done before the client has agreed")
			}
			switch {
			case tt.want == yes && (err != nil || !strings.HasPrefix(string(answer), "v=")):
				t.Errorf("%s, %v", answer, err)
			case tt.want != yes && result(Identity{}, err) != tt.want:
				t.Errorf("got %s, want %s", result(Identity{}, err), tt.want)
			case tt.want != yes:
				if answer, done, err := x.Next(t.Context(), []byte{}); done || !errors.Is(err, ErrMalformed) {
					t.Errorf("goes on: %s, %v, %v", answer, done, err)
				}
			}
		})
	}
}

// spoilLastBits sets bits of the last character before the padding that decode to
// nothing.
func spoilLastBits(final string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	last := len(final) - 2
	i := strings.IndexByte(alphabet, final[last])
	return final[:last] + string(alphabet[i|1]) + "="
}

func TestScramFirstMessages(t *testing.T) {
	tests := []struct{ name, message string }{
		{"empty", ""},
		{"no nonce", "n,,n=Alice"},
		{"empty nonce", "n,,n=Alice,r="},
		{"nonce of NULs", "n,,n=Alice,r=\x00\x00\x00\x00"},
		{"nonce with a blank", "n,,n=Alice,r=a b"},
		{"nonce that is not ASCII", "n,,n=Alice,r=é"},
		{"long nonce", "n,,n=Alice,r=" + strings.Repeat("x", maxNonce+1)},
		{"mandatory extension", "n,,m=x,n=Alice,r=abc"},
		{"no header", "n=Alice,r=abc"},
		{"wrong order", "n,,r=abc,n=Alice"},
		{"authzid without a name", "n,bob,n=Alice,r=abc"},
		{"bare equals sign in the name", "n,,n=Al=ice,r=abc"},
		{"escape in lower case", "n,,n=Al=2cice,r=abc"},
		{"equals sign in the authzid", "n,a=b=b,n=Alice,r=abc"},
		{"empty name", "n,,n=,r=abc"},
		{"line feed in the name", "n,,n=a\nb,r=abc"},
		{"not UTF-8", "n,,n=\xff,r=abc"},
		{"long", "n,,n=Alice,r=abc,x=" + strings.Repeat("x", maxScram)},
	}
	for _, tt := range tests {
		keeper := users()
		x := start(t, scramLocal(keeper), tlsPeer(), "SCRAM-SHA-256")
		answer, done, err := x.Next(t.Context(), []byte(tt.message))
		if answer != nil || done || !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %s, %v, %v", tt.name, answer, done, err)
		}
		if len(keeper.asked) > 0 {
			t.Errorf("%s: the store was asked about %q", tt.name, keeper.asked)
		}
		x.Close()
	}
}

// A recorded exchange is worth nothing: neither on another connection nor on the
// same one again.
func TestScramReplay(t *testing.T) {
	local := scramLocal(users())
	x := start(t, local, tlsPeer(), "SCRAM-SHA-256")
	l := lieTo(t, x, "n,,", "Alice")
	nonce, _, _ := l.offer()
	recorded := []byte(l.final("c=biws,r="+nonce, "secret"))
	if _, _, err := x.Next(t.Context(), recorded); err != nil {
		t.Fatal(err)
	}
	if _, done, err := x.Next(t.Context(), recorded); done || !errors.Is(err, ErrMalformed) {
		t.Errorf("twice: done %v, %v", done, err)
	}
	if _, done, err := x.Next(t.Context(), []byte{}); done || !errors.Is(err, ErrMalformed) || x.Identity() != (Identity{}) {
		t.Errorf("after that: done %v, %v", done, err)
	}
	again := start(t, local, tlsPeer(), "SCRAM-SHA-256")
	lieTo(t, again, "n,,", "Alice")
	if _, done, err := again.Next(t.Context(), recorded); done || asFailure(err) == nil {
		t.Errorf("in another exchange: done %v, %v", done, err)
	}
}

func TestScramNoncesAreFreshAndLong(t *testing.T) {
	seen := make(map[string]bool)
	for range 100 {
		l := lieTo(t, start(t, scramLocal(users()), tlsPeer(), "SCRAM-SHA-256"), "n,,", "Alice")
		nonce, _, _ := l.offer()
		ours, ok := strings.CutPrefix(nonce, "rOprNGfwEbeRWgbNEkqO")
		raw, err := base64.StdEncoding.DecodeString(ours)
		if !ok || err != nil || len(raw) < 16 || seen[ours] {
			t.Fatalf("nonce %q, %v, seen %v", nonce, err, seen[ours])
		}
		seen[ours] = true
	}
}

func TestScramAsksForTheInitialResponse(t *testing.T) {
	x := start(t, scramLocal(users()), tlsPeer(), "SCRAM-SHA-256")
	defer x.Close()
	challenge, done, err := x.Next(t.Context(), nil)
	if challenge == nil || len(challenge) != 0 || done || err != nil {
		t.Fatalf("%q, %v, %v", challenge, done, err)
	}
	if answer, _, err := x.Next(t.Context(), []byte("n,,n=Alice,r=abc")); err != nil || !strings.HasPrefix(string(answer), "r=abc") {
		t.Errorf("%s, %v", answer, err)
	}
	for _, response := range [][]byte{nil, {}} {
		x := start(t, scramLocal(users()), tlsPeer(), "SCRAM-SHA-256")
		_, _, _ = x.Next(t.Context(), nil)
		if _, done, err := x.Next(t.Context(), response); done || !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v, %v", response, done, err)
		}
		x.Close()
	}
}

func TestScramWaitsForTheClientToAgree(t *testing.T) {
	x := start(t, scramLocal(users()), tlsPeer(), "SCRAM-SHA-256")
	l := lieTo(t, x, "n,,", "Alice")
	nonce, _, _ := l.offer()
	if _, _, err := x.Next(t.Context(), []byte(l.final("c=biws,r="+nonce, "secret"))); err != nil {
		t.Fatal(err)
	}
	if _, done, err := x.Next(t.Context(), []byte("no")); done || !errors.Is(err, ErrMalformed) || x.Identity() != (Identity{}) {
		t.Errorf("done %v, %v, %+v", done, err, x.Identity())
	}
}

// What an unknown user hears is what a user without keys hears, and what a user
// with keys hears who has no proof.
func TestScramTellsNobodyWhoExists(t *testing.T) {
	synctest.Test(t, tellsNobodyWhoExists) // so that penalties take no time
}

func tellsNobodyWhoExists(t *testing.T) {
	local := scramLocal(users())
	type heard struct {
		salt       string
		iterations int
		final      string
	}
	listen := func(local Local, login string) heard {
		x := start(t, local, tlsPeer(), "SCRAM-SHA-256")
		l := lieTo(t, x, "n,,", login)
		nonce, salt, iterations := l.offer()
		_, done, err := x.Next(t.Context(), []byte(l.final("c=biws,r="+nonce, "guess")))
		if done || asFailure(err) == nil {
			t.Errorf("%s: done %v, %v", login, done, err)
		}
		return heard{string(salt), iterations, fmt.Sprintf("%T", err)}
	}
	salts := make(map[string]string)
	for _, login := range []string{"Alice", "bob", "eve", "mallory"} {
		h := listen(local, login)
		if len(h.salt) != 16 || h.iterations != testIterations {
			t.Errorf("%s: salt of %d bytes, %d iterations", login, len(h.salt), h.iterations)
		}
		if again := listen(local, login); again != h {
			t.Errorf("%s: at the second time %+v instead of %+v", login, again, h)
		}
		if other, ok := salts[h.salt]; ok {
			t.Errorf("%s has the salt of %s", login, other)
		}
		salts[h.salt] = login
	}
	if listen(local, "Eve") != listen(local, "eve") {
		t.Error("two spellings of one login tell that it does not exist")
	}
	if listen(scramLocal(users()), "eve") == listen(local, "eve") {
		t.Error("the secret is the same in every process")
	}
}

// The password of the fake keys, once found, logs no user in.
func TestScramFakeKeysLetNobodyIn(t *testing.T) {
	x := start(t, scramLocal(users()), tlsPeer(), "SCRAM-SHA-256").(*scramExchange)
	l := lieTo(t, x, "n,,", "eve")
	nonce, salt, iterations := l.offer()
	salted, err := pbkdf2.Key(sha256.New, "secret", salt, iterations, 32)
	if err != nil {
		t.Fatal(err)
	}
	stored := sha256.Sum256(mac(salted, "Client Key"))
	copy(x.account.StoredKey, stored[:]) // the slice that the conversation holds
	_, done, err := x.Next(t.Context(), []byte(l.final("c=biws,r="+nonce, "secret")))
	if f := asFailure(err); done || f == nil || f.Kind != NoSuchUser {
		t.Errorf("done %v, %v", done, err)
	}
	if !x.conversation.Valid() {
		t.Error("the proof was not right, so nothing was tested")
	}
}

func TestScramBrokenStoreIsNeitherYesNorNo(t *testing.T) {
	x := start(t, scramLocal(&fakeKeeper{err: errDown}), tlsPeer(), "SCRAM-SHA-256")
	defer x.Close()
	_, done, err := x.Next(t.Context(), []byte("n,,n=Alice,r=abc"))
	u, ok := errors.AsType[*Unavailable](err)
	if done || !ok || u.Login != "Alice" || !errors.Is(err, errDown) {
		t.Errorf("done %v, %v", done, err)
	}
	if _, done, err := x.Next(t.Context(), []byte("c=biws,r=abc,p=AAAA")); done || !errors.Is(err, ErrMalformed) {
		t.Errorf("goes on: %v, %v", done, err)
	}
}

func TestScramIsThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		local := scramLocal(users())
		try := func(login, password string) (time.Duration, error) {
			x := start(t, local, tlsPeer(), "SCRAM-SHA-256")
			defer x.Close()
			l := lieTo(t, x, "n,,", login)
			nonce, _, _ := l.offer()
			begun := time.Now()
			_, _, err := x.Next(t.Context(), []byte(l.final("c=biws,r="+nonce, password)))
			return time.Since(begun), err
		}
		steps := []struct {
			login, password string
			wait            time.Duration
		}{
			{"Alice", "guess 1", 0},
			{"eve", "guess 1", 2 * time.Second},
			{"bob", "guess 1", 4 * time.Second},
			{"Alice", "secret", 8 * time.Second},
			{"Alice", "secret", 0}, // known by now
		}
		for i, step := range steps {
			took, err := try(step.login, step.password)
			if took != step.wait || (err == nil) != (step.password == "secret") {
				t.Errorf("step %d: after %v: %v; want after %v", i, took, err, step.wait)
			}
		}
	})
}

// An exchange whose client is silent does not delay other logins.
func TestScramHoldsNoTurnWhileTheClientThinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := newThrottle()
		local := Local{Keys: users(), Scram: NewScram(slow)}
		guess := says(BadPassword)
		if _, err := Throttled(slow, guess).VerifyPassword(t.Context(), tlsPeer(), "eve", "guess"); err == nil {
			t.Fatal("a guess was right")
		}
		for range 10 {
			lieTo(t, start(t, local, tlsPeer(), "SCRAM-SHA-256"), "n,,", "Alice")
		}
		a, err := slow.Acquire(t.Context(), tlsPeer().Remote.Addr(), "bob")
		if err != nil {
			t.Fatal(err)
		}
		a.Yield()
	})
}

func TestContextOfTheStepEndsALookupOfKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := start(t, scramLocal(hangingKeeper{users()}), tlsPeer(), "SCRAM-SHA-256")
		defer x.Close()
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			synctest.Wait()
			cancel()
		}()
		if _, done, err := x.Next(ctx, []byte("n,,n=Alice,r=abc")); done || !errors.Is(err, context.Canceled) {
			t.Errorf("done %v, %v", done, err)
		}
	})
}

type hangingKeeper struct{ *fakeKeeper }

func (hangingKeeper) ScramKeys(ctx context.Context, _ string) (ScramKeys, error) {
	<-ctx.Done()
	return ScramKeys{}, ctx.Err()
}

func TestLocalOffersScram(t *testing.T) {
	tls13, bare := tlsPeer(), tlsPeer()
	_, tls12 := handshake(t, tls.VersionTLS12)
	blind := *tls12
	blind.Certificate = nil
	bare.TLS = &tls.ConnectionState{Version: tls.VersionTLS12, HandshakeComplete: true}
	bare.Certificate = &x509.Certificate{SignatureAlgorithm: x509.ECDSAWithSHA256}
	both := Local{Passwords: &fakeStore{}, Keys: users(), Scram: NewScram(newThrottle())}
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
		{"SCRAM with keys", Local{Passwords: passwords, Keys: users(), Scram: NewScram(newThrottle()), Only: []MechanismName{mechScram, mechPlain}}, ""},
		{"SCRAM without keys", Local{Passwords: passwords, Only: []MechanismName{mechPlain, mechScram}}, "names SCRAM-SHA-256, but"},
		{"PLAIN without passwords", Local{Keys: users(), Scram: NewScram(newThrottle()), Only: Defaults().Mechanisms}, "names PLAIN, but"},
		{"nothing left", Local{Passwords: passwords, Only: Defaults().Mechanisms, Security: SecurityOptions{NoPlaintext}}, "rule out every mechanism"},
	}
	for _, tt := range tests {
		err := tt.local.Check()
		if (err == nil) != (tt.why == "") || err != nil && !strings.Contains(err.Error(), tt.why) {
			t.Errorf("%s: %v, want ...%s...", tt.name, err, tt.why)
		}
	}
}

// RFC 5929, section 4.1 has no hash for a signature that uses none.
func TestEndPointOfEd25519IsRefused(t *testing.T) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := tlsPeer()
	p.Certificate = kit.Certificate{Key: private}.SelfSigned(t).Leaf
	if _, err := bindingOf(p, "tls-server-end-point"); err == nil {
		t.Error("there is a binding")
	}
	if p.TLS = (&tls.ConnectionState{Version: tls.VersionTLS12}); canBind(p) {
		t.Error("there is a binding in TLS 1.2")
	}
}

// A chain as KeyStore: who keeps no keys is not passed over.
func TestChainKeys(t *testing.T) {
	keeper := func(name string, k KeyStore, change ...func(*StoreSpec)) *Store {
		return newTestStore(name, struct {
			verifierFunc
			KeyStore
		}{says(NoSuchUser), k}, change...)
	}
	pam := newTestStore("pam", says(Unknowable))
	if (Chain{}).Keys() != nil || (Chain{pam, keeper("file", users())}).Keys() != nil {
		t.Error("a chain that begins without keys has some")
	}
	realm := func(s *StoreSpec) { s.Realm = "example.org" }
	carol := &fakeKeeper{users: map[string]string{"carol@example.org": "secret"}}
	tests := []struct {
		name, login string
		chain       Chain
		want        string
	}{
		{"the first", "Alice", Chain{keeper("file", users()), keeper("sql", carol)}, "alice (file)"},
		{"the second", "carol", Chain{keeper("file", users()), keeper("sql", carol, realm)}, "carol@example.org (sql)"},
		{"one without keys ends the search", "bob", Chain{keeper("file", users()), keeper("sql", &fakeKeeper{users: map[string]string{"bob": "x"}})}, "wrong password (file)"},
		{"behind one without keys", "carol", Chain{keeper("file", users()), pam, keeper("sql", carol, realm)}, "no such user (file)"},
		{"down, and known to another", "carol", Chain{keeper("file", &fakeKeeper{err: errDown}), keeper("sql", carol, realm)}, "carol@example.org (sql)"},
		{"down", "eve", Chain{keeper("file", &fakeKeeper{err: errDown}), keeper("sql", carol, realm)}, "later (file), while no such user (sql)"},
		{"panics", "eve", Chain{keeper("file", nil)}, "later (file)"},
	}
	for _, tt := range tests {
		keys, err := tt.chain.Keys().ScramKeys(t.Context(), tt.login)
		got := fmt.Sprintf("%s (%s)", keys.User, keys.Store)
		if err != nil {
			got = result(Identity{}, err)
		}
		if got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
	// Unknown users are keyed by the login that the store sees.
	c := Chain{keeper("file", users(), realm)}.Keys()
	if c.ScramDecoy("Eve") != c.ScramDecoy("eve@example.org") {
		t.Error("two spellings of one login have two decoys")
	}
}

// FuzzScram looks for a way in without the password. Its peer is exempt from
// penalties, which would only take time.
func FuzzScram(f *testing.F) {
	f.Add([]byte("n,,n=Alice,r=rOprNGfwEbeRWgbNEkqO"), []byte("c=biws,r=%s,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="), []byte{})
	f.Add([]byte("y,a=bob,n=eve,r=x"), []byte("c=eSws,r=%s,p="), []byte("x"))
	f.Add([]byte("p=tls-exporter,,n=a=2Cb,r=x,x=y"), []byte("c=,r=,p="), []byte{})
	f.Add([]byte(",,,"), []byte(",,"), []byte{})
	config := Defaults()
	var here Network
	if err := here.UnmarshalText([]byte("192.0.2.1")); err != nil {
		f.Fatal(err)
	}
	config.PenaltyExempt = []Network{here}
	local := Local{Keys: users(), Scram: NewScram(throttle.New(config.Throttle()))}
	f.Fuzz(func(t *testing.T, first, final, last []byte) {
		x, err := local.Start(t.Context(), tlsPeer(), "SCRAM-SHA-256")
		if err != nil {
			t.Fatal(err)
		}
		defer x.Close()
		answer, done, err := x.Next(t.Context(), first)
		if done {
			t.Fatalf("%q got in", first)
		}
		if err != nil {
			return
		}
		nonce, _, _ := strings.Cut(strings.TrimPrefix(string(answer), "r="), ",")
		message := strings.ReplaceAll(string(final), "%s", nonce)
		if answer, done, err := x.Next(t.Context(), []byte(message)); done || err == nil {
			t.Fatalf("%q and %q without the password: %s", first, message, answer)
		}
		if _, done, err := x.Next(t.Context(), last); done || err == nil || x.Identity() != (Identity{}) {
			t.Fatalf("%q, %q, %q: got in", first, message, last)
		}
	})
}
