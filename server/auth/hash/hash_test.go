package hash

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
)

const password = "correct horse"

// vectors reads testdata/vectors.txt: hashes made by other programs, and their kinds.
func vectors(t testing.TB) map[string]string {
	t.Helper()
	text, err := os.ReadFile("testdata/vectors.txt")
	if err != nil {
		t.Fatal(err)
	}
	kinds := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		stored, kind, ok := strings.Cut(strings.TrimSpace(line), "\t")
		if !ok {
			t.Fatalf("no kind in %q", line)
		}
		kinds[stored] = kind
	}
	return kinds
}

func TestHashesOfOtherPrograms(t *testing.T) {
	for stored, kind := range vectors(t) {
		t.Run(stored[:16], func(t *testing.T) {
			h, err := Parse(stored)
			if err != nil {
				t.Fatal(err)
			}
			if string(h.Kind()) != kind || h.Locked() {
				t.Errorf("kind %q, locked %v; want %q", h.Kind(), h.Locked(), kind)
			}
			for _, tt := range []struct {
				password string
				want     bool
			}{{password, true}, {"correct horsf", false}} {
				if got, err := h.Matches(tt.password); err != nil || got != tt.want {
					t.Errorf("%q: %v, %v", tt.password, got, err)
				}
			}
		})
	}
}

func TestPasswordsThatAreNotASCII(t *testing.T) {
	tests := []struct {
		stored string
		want   bool
	}{
		{"$2y$05$abcdefghijklmnopqrstuuQNr.NUko7cjRuTOhPz.WP0eA4f4.Xuq", true},
		{"$6$saltstring$CoxdaS6Tm7cKJz.0a7sfzA1BgPrkxcckeT9l5tpg6fYMO1ZCS2yugTAnv7yXZAoWpDhDjauR6rdy1PhJ/807W.", true},
		// Made with the old bug, which the library does not have: no match.
		{"$2x$05$abcdefghijklmnopqrstuu4B.w5xLC4Wlfo6gSnyKvAU0AoWf1N0e", false},
	}
	for _, tt := range tests {
		h, err := Parse(tt.stored)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := h.Matches("päss"); got != tt.want || err != nil {
			t.Errorf("%s: %v, %v", tt.stored[:8], got, err)
		}
	}
}

func TestBcryptComparesSeventyTwoBytes(t *testing.T) {
	// Made by crypt(3) from 100 times "x".
	h, err := Parse("$2b$05$abcdefghijklmnopqrstuujf8SX2ahXLwp9w/B.Y5XdysS6yR576q")
	if err != nil {
		t.Fatal(err)
	}
	for n, want := range map[int]bool{100: true, 72: true, 71: false} {
		if got, err := h.Matches(strings.Repeat("x", n)); got != want || err != nil {
			t.Errorf("%d characters: %v, %v", n, got, err)
		}
	}
}

func TestNoPasswordMatchesALockedHash(t *testing.T) {
	locked := []string{
		"", "x", "NP", "!", "!!", "*", "*LK*", "{CRYPT}!", "{CRYPT}*", "{BLF-CRYPT}", "{SSHA512}", "{SSHA512}!", "{PBKDF2}*",
		"{PLAIN}", "{CLEAR.B64}", "{MD5}!", "{sha256.hex}*LK*", "!{SSHA512}AAAA", "*{PLAIN}correct horse", "!{ROT13}pbeerpg ubefr",
		"!$2y$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2",
	}
	for _, stored := range locked {
		h, err := Parse(stored)
		if err != nil || !h.Locked() {
			t.Errorf("%q: locked %v, %v", stored, h.Locked(), err)
		}
		for _, pw := range []string{"", stored, password} {
			if ok, err := h.Matches(pw); ok || err != nil {
				t.Errorf("%q matches %q, %v", stored, pw, err)
			}
		}
	}
}

// A refusal is a stored hash that Parse refuses with an error that contains why.
type refusal struct{ name, stored, why string }

func TestParseRefuses(t *testing.T) {
	bcryptTail := "$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2"
	shaTail := "$saltsalt$zoVzFxtD/FUIWmi1BdjqRCHLUq8RVIwaCrFcb2X8/B9"
	argonTail := "$fGlmwAAfnP3N58vylReYxQ$/RzM327Y5DGIZqBsUW1+g+7gORNkMmfkTCSN2lyp0xo"
	yesTail := "$abcdefghijkl$mgJuY4gMXijl7wcJZVq47c5gOPi/i3xTgQt/6zXaLs/"
	checkRefusals(t, []refusal{
		{"bcrypt cost 31", "$2y$31" + bcryptTail, "cost 31"},
		{"bcrypt cost 3", "$2y$03" + bcryptTail, "cost 3"},
		{"bcrypt cut short", "$2y$05$abcdefghijklmnop", "malformed bcrypt"},
		{"bcrypt with a tail", "$2y$05" + bcryptTail + "x", "malformed bcrypt"},
		{"bcrypt-sha256 of version 1", "$bcrypt-sha256$2b,12$DpxfB1WJx0j.D8xOn3rPX.$onT.rjc2I66bqjILrnAnKlxnGzF9hpW", "version 2"},
		{"bcrypt-sha256 cost 31", "$bcrypt-sha256$v=2,t=2b,r=31$DpxfB1WJx0j.D8xOn3rPX.$onT.rjc2I66bqjILrnAnKlxnGzF9hpW", "cost 31"},
		{"a billion rounds", "$5$rounds=999999999" + shaTail, "999999999 rounds"},
		{"more digits than a number has", "$5$rounds=99999999999999999999" + shaTail, "malformed"},
		{"too few rounds", "$5$rounds=10" + shaTail, "10 rounds"},
		{"rounds that are none", "$5$rounds=many" + shaTail, "malformed sha256"},
		{"long salt", "$5$abcdefghijklmnopq$zoVzFxtD/FUIWmi1BdjqRCHLUq8RVIwaCrFcb2X8/B9", "malformed sha256"},
		{"no key", "$6$saltsalt$", "malformed sha512"},
		{"key of the other SHA-crypt", "$6" + shaTail, "malformed sha512"},
		{"argon2 with a TiB", "$argon2id$v=19$m=1073741824,t=1,p=1" + argonTail, "1073741824 KiB"},
		{"argon2 with many passes", "$argon2id$v=19$m=1048576,t=999999999999,p=1" + argonTail, "too long"},
		{"argon2 with many lanes", "$argon2id$v=19$m=65536,t=1,p=16777215" + argonTail, "lanes"},
		{"argon2 with memory for no lane", "$argon2id$v=19$m=8,t=1,p=2" + argonTail, "lanes"},
		{"argon2 of no pass", "$argon2id$v=19$m=65536,t=0,p=1" + argonTail, "malformed"},
		{"argon2 of version 16", "$argon2id$v=16$m=65536,t=1,p=1" + argonTail, "version 19"},
		{"argon2 without a key", "$argon2id$v=19$m=65536,t=1,p=1$fGlmwAAfnP3N58vylReYxQ$", "malformed"},
		{"argon2 in bad base64", "$argon2id$v=19$m=65536,t=1,p=1$fGlmwAAfnP3N58vylReYx$/RzM327Y5DGIZqBsUW1+g+7gORNkMmfkTCSN2lyp0x", "malformed"},
		{"yescrypt with too much memory", "$y$jzT" + yesTail, "yescrypt with a cost"},
		{"yescrypt with unknown flags", "$y$.9T" + yesTail, "yescrypt"},
		{"yescrypt with a bad salt", "$y$j9T$a$mgJuY4gMXijl7wcJZVq47c5gOPi/i3xTgQt/6zXaLs/", "yescrypt"},
		{"apr1 cut short", "$apr1$abcdefgh$sIQm", "malformed apr1"},
		{"SHA in bad base64", "{SHA}?***", "malformed SHA hash: it is not base64"},
		{"SHA of another length", "{SHA}AAAA", "malformed sha"},
		{"SSHA of another length", "{SSHA}AAAA", "malformed ssha"},
		{"Dovecot's name for another scheme", "{SHA512-CRYPT}$5" + shaTail, "{SCHEME}"},
		{"name in a name", "{CRYPT}{SHA}L55TUjtiq8FBorTWAZ0jy6g129A=", "{SCHEME}"},
		{"clear text", "secret", "unknown"},
		{"DES", "abhfCpXqd4GrI", "unknown"},
		{"DES by name", "{CRYPT}abhfCpXqd4GrI", "unknown"},
		{"gost-yescrypt", "$gy$j9T" + yesTail, "unknown"},
		{"hexadecimal without a scheme", "2f9e53523b62abc141a2b4d6019d23cba835dbd0", "neither"},
		{"long", "$6$" + strings.Repeat("x", maxStored), "longer than"},
	})
}

func TestParseRefusesScram(t *testing.T) {
	checkRefusals(t, []refusal{
		{"SCRAM with few iterations", scramLine("4095", salt16), "4095 iterations"},
		{"SCRAM with a billion iterations", scramLine("1000000000", salt16), "1000000000 iterations"},
		{"SCRAM with iterations that are none", scramLine("0x1000", salt16), "malformed scram"},
		{"SCRAM with a short salt", scramLine("4096", "AAAAAAAAAA=="), "salt of 7 bytes"},
		{"SCRAM with a long salt", scramLine("4096", strings.Repeat("AAAA", 22)), "salt of 66 bytes"},
		{"SCRAM in sloppy base64", scramLine("4096", "YK+1dPj8bZkC8xGGSYJxxh=="), "malformed scram"},
		{"SCRAM without the last key", strings.TrimSuffix(scramLine("4096", salt16), scramKey), "malformed scram"},
		{"SCRAM with one key more", scramLine("4096", salt16) + "," + scramKey, "malformed scram"},
		{"SCRAM by another name", "{SCRAM-SHA-1}" + strings.TrimPrefix(scramLine("4096", salt16), scramName), "unknown"},
	})
}

func checkRefusals(t *testing.T, tests []refusal) {
	t.Helper()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h, err := Parse(tt.stored)
			if err == nil || !strings.Contains(err.Error(), tt.why) {
				t.Fatalf("got %v, want ...%s...", err, tt.why)
			}
			if !h.Locked() {
				t.Error("what was refused can match")
			}
			if len(tt.stored) > 8 && strings.Contains(err.Error(), tt.stored[len(tt.stored)-8:]) {
				t.Errorf("%q repeats the hash", err)
			}
		})
	}
}

func TestNewMakesWhatParseReads(t *testing.T) {
	for _, scheme := range Schemes() {
		stored, err := New(scheme, password)
		if err != nil {
			t.Fatal(err)
		}
		h, err := Parse(stored)
		if err != nil {
			t.Fatalf("%s: %v", scheme, err)
		}
		if !strings.HasPrefix(string(h.Kind()), scheme+" ") {
			t.Errorf("%s became %s", scheme, h.Kind())
		}
		if ok, err := h.Matches(password); !ok || err != nil {
			t.Errorf("%s: %v, %v", scheme, ok, err)
		}
		if other, _ := New(scheme, password); other == stored {
			t.Errorf("%s: no salt", scheme)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	tests := []struct{ scheme, password, why string }{
		{"bcrypt", "", "empty"},
		{"bcrypt", "a\x00b", "NUL"},
		{"bcrypt", strings.Repeat("x", 73), "73 octets, and bcrypt accepts at most 72; choose a shorter password, or one of the schemes sha512-crypt, argon2id, scram-sha-256"},
		{"sha512-crypt", strings.Repeat("x", 513), "accepts at most 512; choose a shorter password, or one of the schemes argon2id, scram-sha-256"},
		{"argon2id", strings.Repeat("x", MaxPassword+1), "accepts at most 4096; choose a shorter password"},
		{"scram-sha-256", strings.Repeat("x", MaxPassword+1), "accepts at most 4096; choose a shorter password"},
		{"md5", password, "known ones are bcrypt, sha512-crypt, argon2id"},
	}
	for _, tt := range tests {
		if _, err := New(tt.scheme, tt.password); err == nil || !strings.Contains(err.Error(), tt.why) {
			t.Errorf("%s %.10q: %v, want ...%s...", tt.scheme, tt.password, err, tt.why)
		}
	}
}

// A hash of the longest password that New accepts matches that password, and no longer one
// with the same beginning.
func TestLongestPassword(t *testing.T) {
	for _, m := range makers {
		longest := strings.Repeat("x", m.longest)
		stored, err := New(m.scheme, longest)
		if err != nil {
			t.Fatalf("%s: %v", m.scheme, err)
		}
		h, err := Parse(stored)
		if err != nil {
			t.Fatalf("%s: %v", m.scheme, err)
		}
		for name, tt := range map[string]struct {
			password string
			want     bool
		}{
			"longest":  {longest, true},
			"too long": {strings.Repeat("x", h.longest+1), false},
		} {
			if got, err := h.Matches(tt.password); got != tt.want || err != nil {
				t.Errorf("%s, %s: %v, %v", m.scheme, name, got, err)
			}
		}
	}
}

// A password that is too long for its scheme costs one comparison with the substitute, and
// does not match even a hash of the substitute.
func TestTooLongPassword(t *testing.T) {
	for stored := range vectors(t) {
		h, err := Parse(stored)
		if err != nil {
			t.Fatal(err)
		}
		if h.longest < 512 || h.longest > MaxPassword {
			t.Errorf("%s accepts passwords of %d octets", h.Kind(), h.longest)
		}
		for octets, hashed := range map[int]int{
			h.longest - 1: h.longest - 1, h.longest: h.longest,
			h.longest + 1: len(substitute), 9213: len(substitute), 1 << 20: len(substitute),
		} {
			var compared []int
			counting := h
			counting.match = func(password string) (bool, error) {
				compared = append(compared, len(password))
				return true, nil
			}
			ok, err := counting.Matches(strings.Repeat("x", octets))
			if ok != (octets <= h.longest) || err != nil || !slices.Equal(compared, []int{hashed}) {
				t.Errorf("%s, %d octets: %v, %v, compared with passwords of %d octets", h.Kind(), octets, ok, err, compared)
			}
		}
	}
}

func TestDefaultDecoyIsAHash(t *testing.T) {
	h, err := Parse(DefaultDecoy)
	if err != nil || h.Kind() != "bcrypt 10" {
		t.Errorf("%s, %v", h.Kind(), err)
	}
}

func FuzzParse(f *testing.F) {
	for stored := range vectors(f) {
		f.Add(stored)
	}
	for _, seed := range []string{"", "!", "{}", "{CRYPT}", "{PLAIN}x", "{PLAIN-MD5.B64}AAAA", "{SSHA512.HEX}00", "{PBKDF2}$1$a$1$", "{CLEAR.HEX}ff00", "{ROT13}x", "{.HEX}", "{SCRAM-SHA-256}4096,,,", "$", "$y$j..$$", "$5$rounds=1000$$", "$argon2id$v=19$m=8,t=1,p=1$$"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, stored string) {
		h, err := Parse(stored)
		if err != nil {
			if !h.Locked() {
				t.Errorf("%q is refused and can match", stored)
			}
			if len(stored) > 20 && strings.Contains(err.Error(), stored[10:]) && !errors.Is(err, ErrUnknown) {
				t.Errorf("%q is repeated in %q", stored, err)
			}
			return
		}
		if cheap(h) {
			if _, err := h.Matches("x"); err != nil {
				t.Errorf("%q: %v", stored, err)
			}
		}
	})
}

// cheap reports whether a fuzzer may compute the hash.
func cheap(h Hash) bool {
	switch h.scheme {
	case "sha", "ssha", "sha256", "ssha256", "sha512", "ssha512", "md5", "cram-md5", "smd5", "clear", "apr1", "md5-crypt":
		return true
	case "pbkdf2":
		return len(h.cost) < 5
	case "scram-sha-256":
		return h.cost == "4096"
	case "bcrypt":
		return (h.cost == "4" || h.cost == "5")
	}
	return false
}

// What is not known is named, and nothing else of it is repeated.
func TestUnknownSchemesAreNamed(t *testing.T) {
	for stored, want := range map[string]string{
		"{ROT13}pbeerpg":                      "scheme {ROT13};",
		"{DES-CRYPT}EsZpsPhiT5R7Y":            "scheme {DES-CRYPT};",
		"{CRYPT}EsZpsPhiT5R7Y":                "DES crypt;",
		"{DIGEST-MD5}21290a0124e7f7c3":        "scheme {DIGEST-MD5};",
		"{digest-md5.hex}21290a0124e7":        "scheme {DIGEST-MD5.HEX};",
		"{SSHA512.ROT}c2VjcmV0":               "scheme {SSHA512.ROT};",
		"{SCRAM-SHA-1}4096,c2FsdA==":          "scheme {SCRAM-SHA-1};",
		"{CRYPT}$gy$j9T$secret":               "scheme $gy$;",
		"$7$C6..../....secret":                "scheme $7$;",
		"$pbkdf2-sha512$25000$secret":         "scheme $pbkdf2-sha512$;",
		"{Sommer}secret":                      "in braces before the hash;",
		"{SHA-THAT-IS-LONGER-THAN-THE-NAMES}": "in braces before the hash;",
		"{}secret":                            "in braces before the hash;",
		"secret":                              "put the scheme before it",
		"$ecret$":                             "put the scheme before it",
		"5ebe2294ecd0e0f08eab7690d2a6ee69":    "put the scheme before it",
		"$$6$$postern$$secret":                "write each of them once",
		`\$6\$postern\$secret`:                "remove the backslashes",
		`"$6$postern$secret"`:                 "remove the marks",
		"e1NTSEF9c2VjcmV0":                    "base64 -d",
	} {
		_, err := Parse(stored)
		if !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want ...%s...", stored, err, want)
		}
		for _, part := range []string{"secret", "ommer", "pbeerpg", "EsZps", "2129", "ecret"} {
			if err != nil && strings.Contains(err.Error(), part) {
				t.Errorf("%q repeats %q", err, part)
			}
		}
	}
}

// Dovecot refuses the same.
func TestParseRefusesDigests(t *testing.T) {
	checkRefusals(t, []refusal{
		{"no salt", "{SSHA}6UJOfiqIYKDTGYp5TpQiLXoQg9I=", "malformed ssha"},
		{"no salt in hexadecimal", "{SSHA256.HEX}3de9273e88d1153033fccc7574cc168a51022a55738bff6727ae581e8c19380f", "malformed ssha256"},
		{"a salt of 65 bytes", "{SMD5.HEX}" + strings.Repeat("00", 16+65), "malformed smd5"},
		{"a digest of another length", "{SHA512}PeknPojRFTAz/Mx1dMwWilECKlVzi/9nJ65YHowZOA8=", "malformed sha512"},
		{"base64 without its end", "{SHA256}PeknPojRFTAz/Mx1dMwWilECKlVzi/9nJ65YHowZOA8", "not base64"},
		{"bits beyond the end", "{PLAIN-MD5.B64}iy/uSM0lX93ummYrVdpP1B==", "not base64"},
		{"hexadecimal with a letter", "{PLAIN-MD5}8b2fee48cd255fddee9a662b55da4fdg", "not hexadecimal"},
		{"an odd digit", "{SHA.HEX}8b2", "not hexadecimal"},
		{"PBKDF2 of another version", "{PBKDF2}$2$salt$5000$527e497260dc6df3f253990587826455dbf03371", "malformed pbkdf2"},
		{"PBKDF2 without iterations", "{PBKDF2}$1$salt$0$527e497260dc6df3f253990587826455dbf03371", "malformed pbkdf2"},
		{"PBKDF2 with a billion iterations", "{PBKDF2}$1$salt$1000000000$527e497260dc6df3f253990587826455dbf03371", "1000000000 iterations"},
		{"PBKDF2 cut short", "{PBKDF2}$1$salt$5000$527e49", "malformed pbkdf2"},
		{"a digest by the name of crypt", "{CRYPT}{SSHA}AAAA", "{SCHEME}"},
	})
}

// Passwords in clear text are compared as they are: with marks of locked accounts, blanks and
// braces.
func TestClearText(t *testing.T) {
	for stored, password := range map[string]string{
		"{PLAIN}!": "!", "{PLAIN}*LK*": "*LK*", "{CLEAR}x": "x", "{cleartext} a b ": " a b ", "{PLAIN}{SHA}x": "{SHA}x",
		"{CLEAR.B64}IQ==": "!", "{PLAIN.HEX}20": " ", "{PLAIN}$2y$05$": "$2y$05$",
	} {
		h, err := Parse(stored)
		if err != nil || h.Locked() {
			t.Fatalf("%q: locked %v, %v", stored, h.Locked(), err)
		}
		for _, p := range []string{password, password + " ", "y", ""} {
			if ok, err := h.Matches(p); ok != (p == password) || err != nil {
				t.Errorf("%q, %q: %v, %v", stored, p, ok, err)
			}
		}
	}
	for _, never := range []string{"{PLAIN}a\x00b", "{PLAIN.HEX}00"} {
		h, err := Parse(never)
		if err != nil {
			t.Fatal(err)
		}
		if ok, _ := h.Matches("a\x00b"); ok {
			t.Errorf("%q matches", never)
		}
	}
}

func TestTrim(t *testing.T) {
	for stored, want := range map[string]string{
		"":                  "",
		"   ":               "",
		" $2y$05$x \r\n":    "$2y$05$x",
		"{SSHA}eA==     ":   "{SSHA}eA==",
		"\t{SHA} eA== ":     "{SHA} eA==",
		"{PLAIN} a ":        "{PLAIN} a ",
		" {clear}a  ":       "{clear}a  ",
		"{CLEARTEXT}a ":     "{CLEARTEXT}a ",
		"{PLAIN.B64}eA==  ": "{PLAIN.B64}eA==",
		"!  ":               "!",
	} {
		if got := Trim(stored); got != want {
			t.Errorf("%q: %q, want %q", stored, got, want)
		}
	}
}

func TestWeakness(t *testing.T) {
	for kind, weak := range map[Kind]bool{
		"bcrypt 10": false, "sha512-crypt 5000": false, "argon2id 19456,2,1": false, "yescrypt j9T": false, "pbkdf2 5000": false, "pbkdf2 999": true, "cram-md5": true,
		"scram-sha-256 4096": false, "clear": true, "md5": true, "sha512": true, "ssha": true, "ssha512": true, "smd5": true, "md5-crypt": true, "apr1": true,
	} {
		if got := mustParse(t, kind).Weakness(); (got != "") != weak {
			t.Errorf("%s: %q", kind, got)
		}
	}
}
