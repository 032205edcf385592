package userfile

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"postern/server/auth"
	"postern/server/auth/hash"
)

func TestByteOrderMark(t *testing.T) {
	openText(t, "\ufeffalice:"+secret+"\n").expect("alice", "secret", "accepted")
}

func TestBadLinesAreSkippedAndLogged(t *testing.T) {
	f := openText(t, strings.Join([]string{
		"alice:" + secret,
		"no colon here",
		":" + secret,
		"bad:plainpassword",
		"alice:" + other,
		"long:" + strings.Repeat("x", maxLine),
		"\xff\xfe:" + secret,
		"a\x07b:" + secret,
		" blank:" + secret,
		"costly:$2y$31$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2",
		"bob:" + other,
	}, "\n"))
	f.expect("alice", "secret", "accepted")
	f.expect("bob", "other", "accepted")
	f.expect("bad", "plainpassword", "temporary")
	f.expect("costly", "secret", "temporary")
	log := f.log.String()
	for line, why := range map[int]string{
		2: "no colon", 3: "the name is empty", 4: "unknown password scheme", 5: "occurs twice", 6: "longer than",
		7: "not UTF-8", 8: "control character", 9: "blank", 10: "bcrypt cost 31",
	} {
		found := false
		for entry := range strings.Lines(log) {
			if strings.Contains(entry, fmt.Sprintf(" line=%d ", line)) && strings.Contains(entry, why) {
				found = true
			}
		}
		if !found {
			t.Errorf("line %d: no event with %q in\n%s", line, why, log)
		}
	}
	for _, content := range []string{"plainpassword", "here", "costly", "xxx", secret, "abcdefgh"} {
		if strings.Contains(log, content) {
			t.Errorf("the log repeats %q:\n%s", content, log)
		}
	}
	if err := f.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "1 user gets 454 (line 4): unknown password scheme") {
		t.Errorf("Check: %v", err)
	}
}

// Mistakes of editors and exports that leave the form of a line as it is.
func TestLinesThatMeanSomethingElse(t *testing.T) {
	for _, tt := range []struct {
		name, text, answer, check, remark string // of alice with the password "secret"
	}{
		{"line ends of a carriage return", "alice:{PLAIN}secret\rbob:{PLAIN}x\r", "no such user", "a carriage return within", ""},
		{"two carriage returns at the end", "alice:{PLAIN}secret\r\r\n", "accepted", "", ""},
		{"a colon too many", "alice::" + secret, "temporary", "there is no hash between", ""},
		{"locked", "alice::1000", "wrong password", "", ""},
		{"a password with a colon", "alice:{PLAIN}secret:more", "accepted", "", "the password in clear text ends at \":\""},
		{"a password with a bar", "alice|{plain}secret|more", "accepted", "", "the password in clear text ends at \"|\""},
		{"fields of Dovecot", "alice:{PLAIN}secret:1000:1000::/home/alice::userdb_quota=1G", "accepted", "", ""},
		{"a number", "alice:{PLAIN}secret:1000", "accepted", "", ""},
		{"an extra field", "alice|{PLAIN}secret|userdb_quota=1G", "accepted", "", ""},
		{"nologin", "alice:{PLAIN}secret:nologin", "wrong password", "", ""},
		{"encoded", "alice:{PLAIN.B64}c2VjcmV0:more", "accepted", "", ""},
		{"a hash", "alice:" + secret + ":more", "accepted", "", ""},
	} {
		f := openText(t, tt.text)
		f.expect("alice", "secret", tt.answer)
		if err := f.Check(t.Context()); (err == nil) != (tt.check == "") || err != nil && !strings.Contains(err.Error(), tt.check) {
			t.Errorf("%s: check: %v", tt.name, err)
		}
		if r := fmt.Sprint(f.Remarks()); strings.Contains(r, "ends at") != (tt.remark != "") || !strings.Contains(r, tt.remark) {
			t.Errorf("%s: remarks %s", tt.name, r)
		}
	}
	for _, text := range []string{"\xff\xfea\x00:\x00x\x00\n\x00", "\x00a\x00:\x00x\x00\n", "a\x00:\x00"} {
		path := filepath.Join(t.TempDir(), "users")
		write(t, path, text)
		if _, err := open(t, path); err == nil || !strings.Contains(err.Error(), "convert it to UTF-8") {
			t.Errorf("%q: %v", text, err)
		}
		if err := SetPassword(path, "alice", secret, nil); err == nil || !strings.Contains(err.Error(), "convert it to UTF-8") {
			t.Errorf("%q: SetPassword: %v", text, err)
		}
	}
}

func TestSkippedLinesAreBounded(t *testing.T) {
	f := openText(t, strings.Repeat("nonsense\n", 1000))
	if n := strings.Count(f.log.String(), "\n"); n > maxReported+2 {
		t.Errorf("%d lines in the log", n)
	}
	if !strings.Contains(f.log.String(), "lines=980") {
		t.Errorf("the rest is not counted:\n%s", f.log.String())
	}
}

// The decoy is of the kind of most users in the file, in any order, unless the configuration names
// one. Of two kinds that are as common it is always the same.
func TestDecoyIsOfMostCommonKind(t *testing.T) {
	tests := map[string]hash.Kind{
		"": hash.DefaultKind,
		"a:" + secret + "\nb:" + slow + "\nc:" + slow + "\n":       "bcrypt 10",
		"a:" + slow + "\nb:" + secret + "\nc:" + other + "\n":      "sha",
		"a:!\nb:!\nc:" + secret + "\nd:nonsense\ne:nonsense again": "sha",
		"a:" + secret + "\nb:" + slow + "\n":                       "bcrypt 10",
		"a:" + slow + "\nb:" + secret + "\n":                       "bcrypt 10",
	}
	for text, want := range tests {
		for fixed, want := range map[hash.Kind]hash.Kind{"": want, "apr1": "apr1"} {
			f := openText(t, text)
			f.decoys = fixed
			for _, login := range []string{"nobody", "Nobody"} {
				var computed []hash.Kind
				ctx := hash.WithTrace(t.Context(), func(k hash.Kind) { computed = append(computed, k) })
				if _, err := f.VerifyPassword(ctx, &auth.Peer{}, login, "x"); err == nil || !slices.Equal(computed, []hash.Kind{want}) {
					t.Errorf("%q, %q: computed %q, %v; want %q", text, fixed, computed, err, want)
				}
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("# users\n\nalice:" + secret + "\r\nbob:" + slow + ":1000:1000::/home/bob\n"))
	f.Add([]byte("alice:!\nalice:*\n:\n::\nx"))
	f.Add([]byte("\ufeffa:{CRYPT}$6$saltstring$\x00\nb:{}\n"))
	f.Add([]byte("a|" + secret + "\r\nb|{PLAIN}x |nologin\nc|d:" + secret + "\ne|"))
	f.Add([]byte("A:" + secret + "\na:" + other + "\n\u00c4:!\na\u0308:{ROT13}x\nA:\n"))
	f.Add([]byte("a:" + strings.Repeat("x", maxLine)))
	f.Add([]byte("a:" + strings.Repeat("x", maxLine-2))) // the line end that is added does not count
	f.Fuzz(func(t *testing.T, text []byte) {
		users, skipped, err := parse(text, auth.FoldLower)
		if err != nil {
			return
		}
		lines := bytes.Count(text, []byte("\n")) + 1
		if len(users.accounts) > lines || len(skipped) > lines {
			t.Errorf("%d users and %d problems in %d lines", len(users.accounts), len(skipped), lines)
		}
		for key, a := range users.accounts {
			if err := checkName(a.name); err != nil {
				t.Errorf("user %q: %v", a.name, err)
			}
			if _, err := hash.Parse(a.stored); err != nil || a.stored != "" && a.broken != nil {
				t.Errorf("user %q: %v, %v", a.name, err, a.broken)
			}
			if auth.FoldLower.Login(a.name) != key {
				t.Errorf("user %q is found as %q", a.name, key)
			}
		}
		// The written line can be parsed, and other users are not changed.
		written, err := withHash(text, "new user", other)
		if err != nil {
			t.Fatal(err)
		}
		again, _, err := parse(written, auth.FoldLower)
		if err != nil || again.accounts["new user"] == nil || again.accounts["new user"].stored != other {
			t.Fatalf("%q became %q: %v", text, written, err)
		}
		for key, a := range users.accounts {
			if key != "new user" && again.accounts[key].stored != a.stored {
				t.Errorf("user %q changed in %q", a.name, written)
			}
		}
	})
}

func BenchmarkParse100kUsers(b *testing.B) {
	var text bytes.Buffer
	for i := range 100_000 {
		fmt.Fprintf(&text, "user%d@example.org:%s\n", i, slow)
	}
	b.SetBytes(int64(text.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if users, skipped, err := parse(text.Bytes(), auth.FoldLower); err != nil || len(users.accounts) != 100_000 || len(skipped) != 0 {
			b.Fatal(len(users.accounts), skipped, err)
		}
	}
}

// Extra fields of a Dovecot passwd-file may lock an account.
func TestDovecotExtraFields(t *testing.T) {
	const hash = "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g="
	for _, tt := range []struct {
		rest   string
		locked bool
		why    string
	}{
		{"", false, ""},
		{":1000:1000:Alice Nologin:/home/alice:/sbin/nologin", false, ""},
		{":1000:1000::/home/alice::userdb_quota=1G", false, ""},
		{":::::: nologin", true, ""},
		{":1000:1000::/home/alice::userdb_quota=1G nologin=y", true, ""},
		{"::::::nologin=yes", true, ""},
		{"::::::allow_nets=192.0.2.0/24", true, "allow_nets"},
		{"::::::nodelay=y allow_real_nets=2001:db8::/32", true, "allow_real_nets"},
	} {
		users, skipped, err := parse([]byte("alice:"+hash+tt.rest+"\n"), auth.FoldLower)
		if err != nil {
			t.Fatal(err)
		}
		a := users.accounts["alice"]
		if a == nil || a.broken != nil || (a.stored == "") != tt.locked {
			t.Errorf("%q: %+v", tt.rest, a)
		}
		if !strings.Contains(skipped.summary(), tt.why) {
			t.Errorf("%q: %q", tt.rest, skipped.summary())
		}
	}
}
