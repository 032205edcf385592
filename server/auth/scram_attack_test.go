package auth

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postern/server/auth/throttle"
	"postern/test/kit"
)

// A rawClient knows a password and can send any message.
type rawClient struct {
	x           Exchange
	bare        string // client-first-message-bare
	serverFirst string
}

func startRaw(t *testing.T, x Exchange, header, login string) *rawClient {
	t.Helper()
	t.Cleanup(func() { x.Close() })
	l := &rawClient{x: x, bare: "n=" + login + ",r=rOprNGfwEbeRWgbNEkqO"}
	answer, done, err := x.Next(t.Context(), []byte(header+l.bare))
	if done || err != nil {
		t.Fatal(done, err)
	}
	l.serverFirst = string(answer)
	return l
}

// offer returns the nonce, the salt and the iterations that the server has sent.
func (l *rawClient) offer() (nonce string, salt []byte, iterations int) {
	fields := strings.Split(l.serverFirst, ",")
	salt, _ = base64.StdEncoding.DecodeString(fields[1][2:])
	iterations, _ = strconv.Atoi(fields[2][2:])
	return fields[0][2:], salt, iterations
}

// final is a client-final-message whose proof is right for its text.
func (l *rawClient) final(withoutProof, password string) string {
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

// A scramFinal makes the client's final message from the nonce of the server.
type scramFinal struct {
	name    string
	message func(l *rawClient, nonce string) string
	want    string
}

func scramFinals() []scramFinal {
	malformed := ErrMalformed.Error()
	const yes, refused = "yes", "refused (keeper)"
	return []scramFinal{
		{"honest", func(l *rawClient, nonce string) string { return l.final("c=biws,r="+nonce, "secret") }, yes},
		{"with an extension", func(l *rawClient, nonce string) string { return l.final("c=biws,r="+nonce+",x=y", "secret") }, yes},
		{"channel binding of a p flag", func(l *rawClient, nonce string) string {
			return l.final("c=cD10bHMtZXhwb3J0ZXIsLA==,r="+nonce, "secret")
		}, refused},
		{"channel binding of a y flag", func(l *rawClient, nonce string) string { return l.final("c=eSws,r="+nonce, "secret") }, refused},
		{"channel binding with an authzid", func(l *rawClient, nonce string) string { return l.final("c=bixhPWJvYiw=,r="+nonce, "secret") }, refused},
		{"channel binding with a tail", func(l *rawClient, nonce string) string { return l.final("c=biwsAA==,r="+nonce, "secret") }, refused},
		{"no channel binding", func(l *rawClient, nonce string) string { return l.final("c=,r="+nonce, "secret") }, refused},
		{"only the client's nonce", func(l *rawClient, nonce string) string { return l.final("c=biws,r=rOprNGfwEbeRWgbNEkqO", "secret") }, refused},
		{"another server nonce", func(l *rawClient, nonce string) string {
			return l.final("c=biws,r="+nonce[:len(nonce)-1]+"#", "secret")
		}, refused},
		{"longer nonce", func(l *rawClient, nonce string) string { return l.final("c=biws,r="+nonce+"x", "secret") }, refused},
		{"empty nonce", func(l *rawClient, nonce string) string { return l.final("c=biws,r=", "secret") }, refused},
		{"sloppy base64 in c", func(l *rawClient, nonce string) string { return l.final("c=biwt=,r="+nonce, "secret") }, malformed},
		{"unpadded base64 in c", func(l *rawClient, nonce string) string { return l.final("c=biwsAA,r="+nonce, "secret") }, malformed},
		{"line end in base64", func(l *rawClient, nonce string) string { return l.final("c=bi\r\nws,r="+nonce, "secret") }, malformed},
		{"bits after the proof", func(l *rawClient, nonce string) string { return spoilLastBits(l.final("c=biws,r="+nonce, "secret")) }, malformed},
		{"short proof", func(l *rawClient, nonce string) string { return "c=biws,r=" + nonce + ",p=AAAA" }, malformed},
		{"empty proof", func(l *rawClient, nonce string) string { return "c=biws,r=" + nonce + ",p=" }, malformed},
		{"zero proof", func(l *rawClient, nonce string) string {
			return "c=biws,r=" + nonce + ",p=" + strings.Repeat("A", 43) + "="
		}, "wrong password (keeper)"},
		{"no proof", func(l *rawClient, nonce string) string { return "c=biws,r=" + nonce }, malformed},
		{"text after the proof", func(l *rawClient, nonce string) string { return l.final("c=biws,r="+nonce, "secret") + ",x=y" }, malformed},
		{"wrong order", func(l *rawClient, nonce string) string { return l.final("r="+nonce+",c=biws", "secret") }, malformed},
		{"empty", func(l *rawClient, nonce string) string { return "" }, malformed},
		{"long", func(l *rawClient, nonce string) string {
			return l.final("c=biws,r="+nonce+",x="+strings.Repeat("x", maxScram), "secret")
		}, malformed},
	}
}

func TestScramFinalMessages(t *testing.T) {
	for _, tt := range scramFinals() {
		t.Run(tt.name, func(t *testing.T) {
			x := start(t, scramLocal(users()), tlsPeer(), "SCRAM-SHA-256")
			l := startRaw(t, x, "n,,", "Alice")
			nonce, _, _ := l.offer()
			answer, done, err := x.Next(t.Context(), []byte(tt.message(l, nonce)))
			if done || x.Identity() != (Identity{}) {
				t.Error("done before the client has accepted the proof")
			}
			switch {
			case tt.want == "yes" && (err != nil || !strings.HasPrefix(string(answer), "v=")):
				t.Errorf("%s, %v", answer, err)
			case tt.want != "yes" && result(Identity{}, err) != tt.want:
				t.Errorf("got %s, want %s", result(Identity{}, err), tt.want)
			case tt.want != "yes":
				if answer, done, err := x.Next(t.Context(), []byte{}); done || !errors.Is(err, ErrMalformed) {
					t.Errorf("continues: %s, %v, %v", answer, done, err)
				}
			}
		})
	}
}

// spoilLastBits sets bits of the last character before the padding that decoders ignore.
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

// A recorded exchange is refused on another connection, and on the same one.
func TestScramReplay(t *testing.T) {
	local := scramLocal(users())
	x := start(t, local, tlsPeer(), "SCRAM-SHA-256")
	l := startRaw(t, x, "n,,", "Alice")
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
	startRaw(t, again, "n,,", "Alice")
	if _, done, err := again.Next(t.Context(), recorded); done || asFailure(err) == nil {
		t.Errorf("in another exchange: done %v, %v", done, err)
	}
}

func TestScramNoncesAreFreshAndLong(t *testing.T) {
	seen := make(map[string]bool)
	for range 100 {
		l := startRaw(t, start(t, scramLocal(users()), tlsPeer(), "SCRAM-SHA-256"), "n,,", "Alice")
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

func TestScramWaitsForTheClientToAcceptTheProof(t *testing.T) {
	x := start(t, scramLocal(users()), tlsPeer(), "SCRAM-SHA-256")
	l := startRaw(t, x, "n,,", "Alice")
	nonce, _, _ := l.offer()
	if _, _, err := x.Next(t.Context(), []byte(l.final("c=biws,r="+nonce, "secret"))); err != nil {
		t.Fatal(err)
	}
	if _, done, err := x.Next(t.Context(), []byte("no")); done || !errors.Is(err, ErrMalformed) || x.Identity() != (Identity{}) {
		t.Errorf("done %v, %v, %+v", done, err, x.Identity())
	}
}

// Responses for an unknown user, for a user without keys and for a user with keys are
// indistinguishable if the proof is wrong.
func TestScramDoesNotRevealUsers(t *testing.T) {
	synctest.Test(t, testScramDoesNotRevealUsers) // so that penalties take no time
}

func testScramDoesNotRevealUsers(t *testing.T) {
	local := scramLocal(users())
	type response struct {
		salt       string
		iterations int
		final      string
	}
	ask := func(local Local, login string) response {
		x := start(t, local, tlsPeer(), "SCRAM-SHA-256")
		l := startRaw(t, x, "n,,", login)
		nonce, salt, iterations := l.offer()
		_, done, err := x.Next(t.Context(), []byte(l.final("c=biws,r="+nonce, "guess")))
		if done || asFailure(err) == nil {
			t.Errorf("%s: done %v, %v", login, done, err)
		}
		return response{string(salt), iterations, fmt.Sprintf("%T", err)}
	}
	salts := make(map[string]string)
	for _, login := range []string{"Alice", "bob", "eve", "mallory"} {
		h := ask(local, login)
		if len(h.salt) != 16 || h.iterations != testIterations {
			t.Errorf("%s: salt of %d bytes, %d iterations", login, len(h.salt), h.iterations)
		}
		if again := ask(local, login); again != h {
			t.Errorf("%s: the second time %+v instead of %+v", login, again, h)
		}
		if other, ok := salts[h.salt]; ok {
			t.Errorf("%s has the salt of %s", login, other)
		}
		salts[h.salt] = login
	}
	if ask(local, "Eve") != ask(local, "eve") {
		t.Error("two spellings of one login reveal that it does not exist")
	}
	if ask(scramLocal(users()), "eve") == ask(local, "eve") {
		t.Error("the secret is the same in every process")
	}
}

// A client that proves the password of fake keys is refused all the same.
func TestScramFakeKeysAcceptNoPassword(t *testing.T) {
	x := start(t, scramLocal(users()), tlsPeer(), "SCRAM-SHA-256").(*scramExchange)
	l := startRaw(t, x, "n,,", "eve")
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

func TestScramBrokenStoreNeitherAcceptsNorRefuses(t *testing.T) {
	x := start(t, scramLocal(&fakeKeeper{err: errDown}), tlsPeer(), "SCRAM-SHA-256")
	defer x.Close()
	_, done, err := x.Next(t.Context(), []byte("n,,n=Alice,r=abc"))
	u, ok := errors.AsType[*Unavailable](err)
	if done || !ok || u.Login != "Alice" || !errors.Is(err, errDown) {
		t.Errorf("done %v, %v", done, err)
	}
	if _, done, err := x.Next(t.Context(), []byte("c=biws,r=abc,p=AAAA")); done || !errors.Is(err, ErrMalformed) {
		t.Errorf("continues: %v, %v", done, err)
	}
}

func TestScramIsThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		local := scramLocal(users())
		try := func(login, password string) (time.Duration, error) {
			x := start(t, local, tlsPeer(), "SCRAM-SHA-256")
			defer x.Close()
			l := startRaw(t, x, "n,,", login)
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
func TestScramHoldsNoSlotWhileTheClientComputes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := newThrottle()
		local := Local{Keys: users(), Scram: NewScram(slow, nil)}
		guess := answering(BadPassword)
		if _, err := Throttled(slow, guess).VerifyPassword(t.Context(), tlsPeer(), "eve", "guess"); err == nil {
			t.Fatal("a wrong password was accepted")
		}
		for range 10 {
			startRaw(t, start(t, local, tlsPeer(), "SCRAM-SHA-256"), "n,,", "Alice")
		}
		a, err := slow.Acquire(t.Context(), tlsPeer().Remote.Addr(), "bob")
		if err != nil {
			t.Fatal(err)
		}
		a.Yield()
	})
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

// FuzzScram looks for an exchange that succeeds without the password. The client is exempt
// from penalties, which would only take time.
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
	local := Local{Keys: users(), Scram: NewScram(throttle.New(config.Throttle()), nil)}
	f.Fuzz(func(t *testing.T, first, final, last []byte) {
		x, err := local.Start(t.Context(), tlsPeer(), "SCRAM-SHA-256")
		if err != nil {
			t.Fatal(err)
		}
		defer x.Close()
		answer, done, err := x.Next(t.Context(), first)
		if done {
			t.Fatalf("%q was accepted", first)
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
			t.Fatalf("%q, %q, %q: was accepted", first, message, last)
		}
	})
}
