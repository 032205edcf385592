package userfile

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/xdg-go/scram"

	"postern/server/auth"
	"postern/server/auth/hash"
	"postern/server/auth/throttle"
)

// Keys of "correct horse", made by doveadm.
const (
	dovecots = "{SCRAM-SHA-256}4096,YK+1dPj8bZkC8xGGSYJxxg==,0UyNb/aUgNz9cMVocRpmC26+qybBm4s3VJbO56Pg2P0=,sNiopwTgYuTa9FZLshbHbI6ZgFrYvikeHMIF4xQXVi4="
	fewer    = "{SCRAM-SHA-256}8192,YK+1dPj8bZk=,0UyNb/aUgNz9cMVocRpmC26+qybBm4s3VJbO56Pg2P0=,sNiopwTgYuTa9FZLshbHbI6ZgFrYvikeHMIF4xQXVi4="
)

func TestScramKeys(t *testing.T) {
	f := openText(t, "alice:"+dovecots+"\nbob:"+secret+"\ncarol:!"+dovecots+"\ndave:\n")
	tests := map[string]string{
		"alice": "4096 iterations, 16 bytes of salt",
		"bob":   "auth: wrong password (userfile): the hash is of another scheme, without SCRAM keys; set the password again with --scheme scram-sha-256",
		"carol": "auth: wrong password (userfile): the account has no password",
		"dave":  "auth: wrong password (userfile): the account has no password",
		"eve":   "auth: no such user (userfile)",
		"Alice": "auth: no such user (userfile)", // auth.Store has not folded it
	}
	for login, want := range tests {
		keys, err := f.ScramKeys(t.Context(), new(auth.Peer), login)
		got := fmt.Sprintf("%d iterations, %d bytes of salt", keys.Iterations, len(keys.Salt))
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %s, want %s", login, got, want)
		}
		if err == nil && (keys.User != login || keys.Store != Kind) {
			t.Errorf("%s: user %q of %q", login, keys.User, keys.Store)
		}
	}
	if err := os.Remove(f.path); err != nil {
		t.Fatal(err)
	}
	f.clock = f.clock.Add(2 * checkInterval)
	if _, err := f.ScramKeys(t.Context(), new(auth.Peer), "alice"); !isUnavailable(err) {
		t.Errorf("without its file: %v", err)
	}
}

func isUnavailable(err error) bool {
	_, ok := errors.AsType[*auth.Unavailable](err)
	return ok
}

func TestScramDecoyIsLikeMost(t *testing.T) {
	const costly = "{SCRAM-SHA-256}65537,YK+1dPj8bZkC8xGGSYJxxg==,0UyNb/aUgNz9cMVocRpmC26+qybBm4s3VJbO56Pg2P0=,sNiopwTgYuTa9FZLshbHbI6ZgFrYvikeHMIF4xQXVi4="
	many := hash.ScramShape{Iterations: 65537, SaltLength: 16}
	made, own := hash.DefaultScramShape(), hash.ScramShape{Iterations: 4096, SaltLength: 16}
	tests := []struct {
		name, text string
		want       hash.ScramShape
		without    []string
		tooMany    []string
	}{
		{"no keys", "a:" + secret + "\nb:" + slow + "\nc:!\n", made, []string{"a", "b"}, nil},
		{"all alike", "a:" + dovecots + "\nb:" + dovecots + "\n", own, nil, nil},
		{"most", "a:" + dovecots + "\nb:" + fewer + "\nc:" + dovecots + "\nd:" + secret + "\n", own, []string{"d"}, nil},
		{"as many of each", "a:" + fewer + "\nb:" + dovecots + "\n", own, nil, nil},
		{"too many", "a:" + costly + "\nb:" + dovecots + "\nc:" + costly + "\nd:!" + costly + "\n", many, nil, []string{"a", "c"}},
	}
	for _, tt := range tests {
		f := openText(t, tt.text)
		if got := f.ScramDecoy("eve"); got != (auth.ScramDecoy{Login: "eve", ScramShape: tt.want}) {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
		if got := f.WithoutScramKeys(); !slices.Equal(got, tt.without) {
			t.Errorf("%s: %q without, want %q", tt.name, got, tt.without)
		}
		if got := f.WithTooManyIterations(); !slices.Equal(got, tt.tooMany) {
			t.Errorf("%s: %q have too many iterations, want %q", tt.name, got, tt.tooMany)
		}
	}
}

// PLAIN and SCRAM accept the same line of the file.
func TestScramAndPlain(t *testing.T) {
	made, err := hash.New("scram-sha-256", "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	f := openText(t, "alice@example.org:"+dovecots+"\nbob@example.org:"+made+"\ncarol@example.org:"+secret+"\n")
	store := auth.NewStore(auth.StoreSpec{
		Kind: Kind, Config: auth.StoreDefaults(), Realm: "example.org", Backend: f.Store, Events: auth.NewLog(slog.New(slog.DiscardHandler)),
	})
	slow := throttle.New(throttle.Config{MaxWait: 30 * time.Second})
	chain := auth.Chain{store}
	local := auth.Local{
		Passwords: auth.Throttled(slow, auth.WithPRECIS(chain.Passwords())),
		Keys:      chain.Keys(),
		Scram:     auth.NewScram(slow, nil),
	}
	peer := &auth.Peer{TLS: new(tls.ConnectionState)}
	for _, login := range []string{"alice", "bob@example.org"} {
		x, err := local.Start(t.Context(), peer, "PLAIN")
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := x.Next(t.Context(), []byte("\x00"+login+"\x00correct horse")); err != nil {
			t.Errorf("PLAIN %s: %v", login, err)
		}
		x.Close()
		if id, err := byScram(t, local, peer, login, "correct horse"); err != nil || !strings.HasPrefix(id.User, login) || !strings.HasSuffix(id.User, "@example.org") {
			t.Errorf("SCRAM %s: %+v, %v", login, id, err)
		}
	}
	if _, err := byScram(t, local, peer, "carol", "secret"); err == nil {
		t.Error("carol is accepted without keys")
	}
}

func byScram(t *testing.T, local auth.Local, peer *auth.Peer, login, password string) (auth.Identity, error) {
	t.Helper()
	x, err := local.Start(context.Background(), peer, "SCRAM-SHA-256")
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	client, err := scram.SHA256.NewClient(login, password, "")
	if err != nil {
		t.Fatal(err)
	}
	conversation := client.NewConversation()
	challenge := ""
	for {
		response, err := conversation.Step(challenge)
		if err != nil {
			return auth.Identity{}, err
		}
		answer, done, err := x.Next(t.Context(), []byte(response))
		if err != nil || done {
			return x.Identity(), err
		}
		challenge = string(answer)
	}
}

// All spellings of a login are one user for SCRAM as well: they have the same salt, whether there is
// such a user or not.
func TestScramIgnoresCase(t *testing.T) {
	f := openText(t, "Alice@example.org:"+dovecots+"\nMary Ann:"+dovecots+"\n")
	cfg := auth.StoreDefaults()
	cfg.Fold = auth.FoldLower
	store := auth.NewStore(auth.StoreSpec{Kind: Kind, Config: cfg, Backend: f.Store, Events: f.events})
	free := throttle.New(throttle.Config{MaxWait: time.Minute})
	local := auth.NewLocal(auth.Chain{store}, free, auth.NewScram(free, nil), auth.Config{Mechanisms: []auth.MechanismName{"SCRAM-SHA-256"}})
	salts := make(map[string][]string)
	for i, login := range []string{
		"Alice@example.org", "ALICE@EXAMPLE.ORG", "\uff21lice@example.org", "nobody@example.org", "NoBody@Example.ORG", "Mary Ann", "mary ann",
	} {
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, byte(i), 1}), 1) // no penalty of the others
		id, err := byScram(t, local, &auth.Peer{TLS: new(tls.ConnectionState), Remote: at}, login, "correct horse")
		exists := strings.Contains(strings.ToLower(login), "lice@") || login == "Mary Ann"
		if (err == nil) != exists {
			t.Errorf("%+q: %v", login, err)
		}
		if want := map[bool]string{true: "Alice@example.org", false: "Mary Ann"}[strings.Contains(login, "@")]; exists && id.User != want {
			t.Errorf("%+q is the user %q", login, id.User)
		}
		key := auth.FoldLower.Login(login)
		salts[key] = append(salts[key], store.ScramDecoy(login).Login)
	}
	for key, decoys := range salts {
		if len(slices.Compact(decoys)) != 1 {
			t.Errorf("%q has the decoys %q", key, decoys)
		}
	}
}
