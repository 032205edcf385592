package userfile

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postern/server/auth"
	"postern/server/auth/hash"
)

// openFolded opens a store with the fold, whose logins are folded as auth.Store does.
func openFolded(t *testing.T, text string, fold auth.Fold) func(login, password string) string {
	t.Helper()
	f := openText(t, text)
	f.fold = fold
	f.state.sum = [32]byte{} // parse again
	if err := f.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	return func(login, password string) string {
		id, err := f.VerifyPassword(t.Context(), &auth.Peer{}, fold.Login(login), password)
		switch failure, ok := errors.AsType[*auth.Failure](err); {
		case err == nil:
			return id.User
		case ok:
			return failure.Kind.String()
		}
		return err.Error()
	}
}

// Both sides are folded, and the user is spelled as in the file. What PRECIS refuses is compared
// exactly.
func TestFold(t *testing.T) {
	const text = "alice@example.org:" + secret + "\nBob@Example.Org:" + secret + "\nJ\u00fcrgen:" + secret +
		"\nMary Ann:" + secret + "\nsmith\u00ad:" + secret + "\n"
	for _, tt := range []struct{ login, folded, exact string }{
		{"Alice@EXAMPLE.ORG", "alice@example.org", "no such user"},
		{"alice@example.org", "alice@example.org", "alice@example.org"},
		{"bob@example.org", "Bob@Example.Org", "no such user"},
		{"Bob@Example.Org", "Bob@Example.Org", "Bob@Example.Org"},
		{"ju\u0308RGEN", "J\u00fcrgen", "no such user"},
		{"\uff2a\u00fcrgen", "J\u00fcrgen", "no such user"},
		{"Mary Ann", "Mary Ann", "Mary Ann"},
		{"mary ann", "no such user", "no such user"},
		{"smith\u00ad", "smith\u00ad", "smith\u00ad"},
		{"Smith\u00ad", "no such user", "no such user"},
		{"smith", "no such user", "no such user"},
	} {
		if got := openFolded(t, text, auth.FoldLower)(tt.login, "secret"); got != tt.folded {
			t.Errorf("lower, %+q: %s, want %s", tt.login, got, tt.folded)
		}
		if got := openFolded(t, text, auth.FoldNone)(tt.login, "secret"); got != tt.exact {
			t.Errorf("none, %+q: %s, want %s", tt.login, got, tt.exact)
		}
	}
}

// Two spellings of one login are never two passwords of one account, and neither is used.
func TestSpellingsOfOneLogin(t *testing.T) {
	const text = "# users\nAlice:" + secret + "\nbob:" + secret + "\nalice:" + other + "\nALICE:!\nbob:" + other + "\n"
	ask := openFolded(t, text, auth.FoldLower)
	for _, login := range []string{"alice", "Alice", "ALICE", "aLICE"} {
		for _, password := range []string{"secret", "other", "wrong"} {
			if got := ask(login, password); !strings.Contains(got, "lines 2 and") {
				t.Errorf("%s, %s: %s", login, password, got)
			}
		}
	}
	for password, want := range map[string]string{"secret": "bob", "other": "wrong password"} {
		if got := ask("bob", password); got != want {
			t.Errorf("bob, %s: %s, want %s", password, got, want)
		}
	}
	f := openText(t, text)
	if err := f.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "lines 2 and 4, lines 2 and 5") || strings.Contains(err.Error(), "and 6") {
		t.Errorf("Check: %v", err)
	}
	if r := f.Remarks(); len(r) == 0 || !r[0].Warning || !strings.Contains(r[0].Text, "line 6 (first in line 3)") {
		t.Errorf("Remarks: %+v", r)
	}
	if _, err := f.ScramKeys(t.Context(), &auth.Peer{}, "alice"); err == nil || errors.As(err, new(*auth.Failure)) {
		t.Errorf("SCRAM: %v", err)
	}
	exact := openFolded(t, text, auth.FoldNone)
	for login, want := range map[string]string{"Alice": "Alice", "alice": "wrong password", "ALICE": "wrong password"} {
		if got := exact(login, "secret"); got != want {
			t.Errorf("none, %s: %s, want %s", login, got, want)
		}
	}
}

// A user whose hash cannot be checked is not unknown, and no next store decides.
func TestHashesThatCannotBeChecked(t *testing.T) {
	f := openText(t, "a:{ROT13}frperg\nb:secret\nc:{PBKDF2}$1$salt$999999999$527e497260dc6df3f253990587826455dbf03371\n"+
		"d:{SSHA512}AAAA\ne:{ROT13}frperg\nf:!{ROT13}frperg\n")
	for _, login := range []string{"a", "b", "c", "d", "e"} {
		f.expect(login, "secret", "temporary")
		if _, err := f.ScramKeys(t.Context(), &auth.Peer{}, login); err == nil || errors.As(err, new(*auth.Failure)) {
			t.Errorf("SCRAM of %s: %v", login, err)
		}
	}
	f.expect("f", "secret", "wrong password")
	f.expect("g", "secret", "no such user")
	_, err := f.VerifyPassword(t.Context(), &auth.Peer{}, "a", "secret")
	if !errors.Is(err, hash.ErrUnknown) || !strings.Contains(err.Error(), "line 1: unknown password scheme {ROT13}") {
		t.Errorf("a: %v", err)
	}
	err = f.Check(t.Context())
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || len(joined.Unwrap()) != 4 || !strings.Contains(err.Error(), "2 users get 454 (lines 1, 5): unknown password scheme {ROT13}") {
		t.Errorf("Check: %v", err)
	}
	if strings.Contains(err.Error(), "frperg") || strings.Contains(err.Error(), "secret") {
		t.Errorf("Check repeats a password: %v", err)
	}
}

// docker-mailserver separates with a vertical bar (postfix-accounts.cf).
func TestVerticalBars(t *testing.T) {
	f := openText(t, "# docker-mailserver\nalice@example.org|"+secret+"\nbob@example.org|{PLAIN}a b |userdb_mail=maildir:~/Maildir x=y\n"+
		"carol|!"+secret+"\ndave|\neve|{PLAIN}x|nologin\nfrank|secret\na|b:"+secret+"\n|"+secret+"\ngrace|{PLAIN}s:x\n")
	f.expect("alice@example.org", "secret", "accepted")
	f.expect("bob@example.org", "a b ", "accepted")
	f.expect("bob@example.org", "a b", "wrong password")
	f.expect("carol", "secret", "wrong password")
	f.expect("dave", "secret", "wrong password")
	f.expect("eve", "x", "wrong password")
	f.expect("frank", "secret", "temporary")
	f.expect("a|b", "secret", "accepted")
	f.expect("a", "secret", "no such user")
	f.expect("grace", "s:x", "accepted")
	if err := f.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "line 9: the name is empty") {
		t.Errorf("Check: %v", err)
	}
}

// A password in clear text keeps the blanks that it ends with.
func TestBlanksAtTheEnd(t *testing.T) {
	f := openText(t, "a:{PLAIN}secret \r\nb:"+secret+" \t\r\nc: "+secret+"\n \t\nd:  \n")
	f.expect("a", "secret ", "accepted")
	f.expect("a", "secret", "wrong password")
	f.expect("b", "secret", "accepted")
	f.expect("c", "secret", "accepted")
	f.expect("d", "secret", "wrong password")
	if err := f.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

// Weak hashes are counted, and prevent nothing.
func TestWeakHashesAreCounted(t *testing.T) {
	f := openText(t, "a:"+secret+"\nb:{PLAIN}x\nc:{CLEAR}y\nd:"+slow+"\ne:!{PLAIN}z\n")
	if err := f.Check(t.Context()); err != nil {
		t.Error(err)
	}
	r := f.Remarks()
	if len(r) != 1 || r[0].Warning || !strings.Contains(r[0].Text, "3 of 5 users") || !strings.Contains(r[0].Text, "2 clear text, 1 sha without a salt") {
		t.Errorf("%+v", r)
	}
	if r := openText(t, "a:"+slow+"\n").Remarks(); r != nil {
		t.Errorf("a strong hash: %+v", r)
	}
}

// SetPassword never makes a second spelling of a login, and keeps the form of the file.
func TestSetPasswordOfSpellings(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	for _, tt := range []struct{ before, user, after, why string }{
		{"Alice:" + other + "\n", "alice", "", `line 1 has the name "Alice"`},
		{"Alice:" + other + "\nalice:!\n", "alice", "Alice:" + other + "\nalice:" + secret + "\n", ""},
		{"Alice:" + other + "\n", "Alice", "Alice:" + secret + "\n", ""},
		{"a|" + other + "|x=y\n", "a", "a|" + secret + "|x=y\n", ""},
		{"# dms\na|" + other, "b", "# dms\na|" + other + "\nb|" + secret + "\n", ""},
		{"a:" + other + "\n", "b|c", "a:" + other + "\nb|c:" + secret + "\n", ""},
	} {
		write(t, path, tt.before)
		err := SetPassword(path, tt.user, secret, nil)
		after, readErr := os.ReadFile(path)
		if readErr != nil {
			t.Fatal(readErr)
		}
		switch {
		case tt.why != "" && (err == nil || !strings.Contains(err.Error(), tt.why) || string(after) != tt.before):
			t.Errorf("%q, %s: %v, %q", tt.before, tt.user, err, after)
		case tt.why == "" && (err != nil || string(after) != tt.after):
			t.Errorf("%q, %s: %v, %q", tt.before, tt.user, err, after)
		}
	}
	if err := SetPassword(path, "b|{c", secret, nil); err == nil {
		t.Error("a name that ends before a hash was written")
	}
}
