package test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	passwords "postern/server/auth/hash"
	"postern/test/kit"
)

// newDoveadm returns a function that runs "doveadm pw" with an empty configuration.
func newDoveadm(t *testing.T) func(args ...string) (string, error) {
	t.Helper()
	peer(t, "doveadm")
	conf := filepath.Join(t.TempDir(), "dovecot.conf")
	write(t, conf, "stats_writer_socket_path =\nauth_verbose = no\n")
	return func(args ...string) (string, error) {
		out, err := exec.Command("doveadm", append([]string{"-c", conf, "pw"}, args...)...).CombinedOutput()
		return strings.TrimRight(string(out), "\n"), err
	}
}

// Dovecot's hashes of every scheme that both know match, in every encoding, and no others do.
func TestHashesOfDoveadm(t *testing.T) {
	t.Parallel()
	doveadm := newDoveadm(t)
	schemes := []string{
		"PLAIN", "CLEAR", "CLEARTEXT", "SHA", "SHA1", "SHA256", "SHA512", "SSHA", "SSHA256", "SSHA512",
		"PLAIN-MD5", "LDAP-MD5", "SMD5", "MD5", "MD5-CRYPT", "SHA256-CRYPT", "SHA512-CRYPT", "BLF-CRYPT", "CRYPT",
		"CRAM-MD5", "HMAC-MD5", "PBKDF2", "ARGON2I", "ARGON2ID", "SCRAM-SHA-256",
	}
	const password = "p:ä}$ {x"
	for _, scheme := range schemes {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			for _, suffix := range []string{"", ".HEX", ".B64", ".BASE64", ".hex"} {
				made, err := doveadm("-s", scheme+suffix, "-p", password)
				if err != nil {
					t.Fatalf("%s%s: %v: %s", scheme, suffix, err, made)
				}
				h, err := passwords.Parse(made)
				if err != nil || h.Locked() {
					t.Errorf("%s: locked %v, %v", made, h.Locked(), err)
					continue
				}
				for _, p := range []string{password, "p:ä}$ {y", password + " "} {
					if ok, err := h.Matches(p); ok != (p == password) || err != nil {
						t.Errorf("%s, %q: %v, %v", made, p, ok, err)
					}
				}
			}
		})
	}
	// A scheme that Dovecot gets and postern lacks is a decision, not an accident.
	list, err := doveadm("-l")
	kit.Must(t, err)
	known := strings.Join(schemes, " ") + " DES-CRYPT DIGEST-MD5 PLAIN-MD4 PLAIN-TRUNC OTP SKEY RPA LANMAN NTLM SCRAM-SHA-1 "
	for _, scheme := range strings.Fields(list) {
		if !strings.Contains(" "+known+" ", " "+scheme+" ") {
			t.Errorf("Dovecot has the scheme %s, which postern neither knows nor leaves out", scheme)
		}
	}
}

// Of what people write by hand, postern accepts a password exactly if Dovecot does.
func TestDigestsAsDovecotReadsThem(t *testing.T) {
	t.Parallel()
	doveadm := newDoveadm(t)
	const (
		md5Hex, md5Base64       = "8b2fee48cd255fddee9a662b55da4fd4", "iy/uSM0lX93ummYrVdpP1A=="
		sha1Hex, sha1Base64     = "e9424e7e2a886080d3198a794e94222d7a1083d2", "6UJOfiqIYKDTGYp5TpQiLXoQg9I="
		sha256Hex, sha256Base64 = "3de9273e88d1153033fccc7574cc168a51022a55738bff6727ae581e8c19380f", "PeknPojRFTAz/Mx1dMwWilECKlVzi/9nJ65YHowZOA8="
		pbkdf2                  = "OPAd2R1vak4tsEaF$5000$527e497260dc6df3f253990587826455dbf03371"
	)
	var stored []string
	for _, name := range []string{"MD5", "PLAIN-MD5", "LDAP-MD5", "SMD5", "CRAM-MD5", "SHA", "SHA1", "SSHA", "SHA256", "SSHA256", "SHA512", "plain-md5", "Sha256"} {
		for _, suffix := range []string{"", ".HEX", ".B64", ".b64", ".BASE64", ".ROT"} {
			for _, data := range []string{md5Hex, md5Base64, sha1Hex, sha1Base64, sha256Hex, sha256Base64, strings.ToUpper(md5Hex), strings.TrimRight(md5Base64, "=")} {
				stored = append(stored, fmt.Sprintf("{%s%s}%s", name, suffix, data))
			}
		}
	}
	stored = append(stored, "{PBKDF2}$1$"+pbkdf2, "{PBKDF2}$2$"+pbkdf2, "{PBKDF2}$1$"+pbkdf2[1:], "{PBKDF2}"+pbkdf2,
		"{PLAIN}secret12", "{PLAIN}secret12 ", "{PLAIN} secret12", "{CLEAR.B64}c2VjcmV0MTI=", "{CLEAR.HEX}7365637265743132", "{PLAIN}", "{FOO}secret12")
	verified := 0
	for _, s := range stored {
		out, err := doveadm("-t", s, "-p", "secret12")
		dovecot := err == nil && strings.Contains(out, "(verified)")
		ours := false
		if h, err := passwords.Parse(s); err == nil {
			ours, err = h.Matches("secret12")
			kit.Must(t, err)
		}
		if ours != dovecot {
			t.Errorf("%s: accepted %v, by Dovecot %v: %s", s, ours, dovecot, out)
		}
		if ours {
			verified++
		}
	}
	if verified < 30 {
		t.Errorf("%d of %d forms match", verified, len(stored))
	}
}

// A user file as Dovecot has it, over SMTP: every scheme, any case, locked accounts, and 454 for what
// cannot be checked.
func TestLoginsWithDovecotsHashes(t *testing.T) {
	t.Parallel()
	doveadm := newDoveadm(t)
	p := newPostern(t, posternOptions{NextHop: "smtp://" + startSink(t).Addr})
	var lines []string
	schemes := []string{"SSHA512", "SSHA256", "SHA512", "SHA256.HEX", "PBKDF2", "PLAIN-MD5", "LDAP-MD5.B64", "SMD5", "CLEAR", "PLAIN", "BLF-CRYPT", "SCRAM-SHA-256"}
	for _, scheme := range schemes {
		made, err := doveadm("-s", scheme, "-p", kit.Password)
		kit.Must(t, err)
		lines = append(lines, scheme+"@Example.org:"+made)
	}
	lines = append(lines, "bang:!"+lines[0][len("SSHA512@Example.org:"):], "star:*LK*", "empty:", "foreign:{ROT13}pbeerpg-ubefr", "bare:"+kit.Password,
		"Twin:{PLAIN}"+kit.Password, "twin:{PLAIN}"+kit.Password, "dms|{PLAIN}"+kit.Password)
	write(t, p.file("users"), strings.Join(lines, "\n")+"\n")
	p.own(t)
	p.run(t)
	for i, tt := range []struct {
		login, password string
		code            int
	}{
		{"dms", kit.Password, 235},
		{"DMS", kit.Password, 235},
		{"bang", kit.Password, 535},
		{"star", "*LK*", 535},
		{"empty", kit.Password, 535},
		{"nobody", kit.Password, 535},
		{"foreign", kit.Password, 454},
		{"bare", kit.Password, 454},
		{"twin", kit.Password, 454},
		{"TWIN", "wrong", 454},
	} {
		p.wantLogin(t, loopbackClient(i), tt.login, tt.password, tt.code)
	}
	for i, scheme := range schemes {
		p.wantLogin(t, loopbackClient(100+i), strings.ToLower(scheme)+"@EXAMPLE.ORG", kit.Password, 235)
		p.wantLogin(t, loopbackClient(200+i), scheme+"@example.org", "wrong", 535)
		if user := "user=" + scheme + "@Example.org"; !strings.Contains(p.log(), user) {
			t.Errorf("the log has no %s", user)
		}
	}
}
