package test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"postern/test/kit"
)

// certificateFixtures make certificates, keys and what people have instead of them, with
// the openssl of the system.
var certificateFixtures = map[string]fixture{
	// openssl ARGS: in the folder of the set-up
	"openssl": func(t *testing.T, s *setup, args []string) { s.openssl(t, args...) },
	// issue NAME ISSUER KEY START END EXTENSIONS: NAME.pem and NAME.key. The issuer is "root"
	// or "inter", which are made when they are needed, or "self". KEY is as for openssl genpkey:
	// EC:P-256, RSA:2048, ED25519. START and END are days from now. Extensions are lines of
	// openssl's configuration, separated by semicolons; "md=sha1" sets the digest.
	"issue": func(t *testing.T, s *setup, args []string) {
		s.issue(t, args[0], args[1], args[2], args[3], args[4], strings.Join(args[5:], " "))
	},
	// join FILE PARTS
	"join": func(t *testing.T, s *setup, args []string) { s.write(t, args[0], s.joined(t, args[1:], "")) },
	// glue FILE PARTS: as join, without the line ends at the ends of the parts
	"glue": func(t *testing.T, s *setup, args []string) { s.write(t, args[0], s.joined(t, args[1:], "\n")) },
	// mark FILE: with a byte order mark
	"mark": func(t *testing.T, s *setup, args []string) {
		s.write(t, args[0], "\ufeff"+s.joined(t, args, ""))
	},
	// utf16 FILE: as text editors of Windows save it
	"utf16": func(t *testing.T, s *setup, args []string) {
		var b bytes.Buffer
		kit.Must(t, binary.Write(&b, binary.LittleEndian, utf16.Encode([]rune("\ufeff"+s.joined(t, args, "")))))
		s.write(t, args[0], b.String())
	},
	// truncate FILE: half of it is lost
	"truncate": func(t *testing.T, s *setup, args []string) {
		text := s.joined(t, args, "")
		s.write(t, args[0], text[:len(text)/2])
	},
	// opensshkey FILE
	"opensshkey": func(t *testing.T, s *setup, args []string) {
		s.run(t, "ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", s.file(args[0]))
		kit.Own(t, s.file(args[0]))
	},
}

func (s *setup) joined(t *testing.T, files []string, trim string) string {
	t.Helper()
	var all strings.Builder
	for _, f := range files {
		text, err := os.ReadFile(s.file(f))
		kit.Must(t, err)
		all.WriteString(strings.TrimSuffix(string(text), trim))
	}
	return all.String()
}

func (s *setup) run(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = s.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// openssl runs openssl. The file after -out belongs to the user of postern afterwards.
func (s *setup) openssl(t *testing.T, args ...string) {
	t.Helper()
	s.run(t, "openssl", args...)
	for i, a := range args {
		if a == "-out" {
			kit.Own(t, s.file(args[i+1]))
		}
	}
}

const caConfig = `[ca]
default_ca = own
[own]
database = index
new_certs_dir = .
rand_serial = yes
unique_subject = no
policy = names
[names]
commonName = supplied
`

// issue makes a key and a certificate with openssl ca, which can set both times.
func (s *setup) issue(t *testing.T, name, issuer, key, start, end, extensions string) {
	t.Helper()
	subject := map[string]string{"root": "Own Root", "inter": "Own Intermediate", "acme": "Acme Root"}[name]
	if subject == "" {
		subject = "mail.example.org"
	}
	s.write(t, "ca.cnf", caConfig)
	s.write(t, "index", "")
	digest := "sha256"
	var lines []string
	for l := range strings.SplitSeq(extensions, ";") {
		if md, ok := strings.CutPrefix(strings.TrimSpace(l), "md="); ok {
			digest = md
		} else {
			lines = append(lines, l)
		}
	}
	s.write(t, "extensions", strings.Join(lines, "\n")+"\n")
	algorithm, option, _ := strings.Cut(key, ":")
	genpkey := []string{"genpkey", "-algorithm", algorithm, "-out", name + ".key"}
	switch algorithm {
	case "EC":
		genpkey = append(genpkey, "-pkeyopt", "ec_paramgen_curve:"+option)
	case "RSA":
		genpkey = append(genpkey, "-pkeyopt", "rsa_keygen_bits:"+option)
	}
	s.openssl(t, genpkey...)
	s.openssl(t, "req", "-new", "-key", name+".key", "-subj", "/CN="+subject, "-out", name+".csr")
	args := []string{"ca", "-batch", "-notext", "-config", "ca.cnf", "-in", name + ".csr", "-out", name + ".pem", "-md", digest,
		"-startdate", asn1Time(t, start), "-enddate", asn1Time(t, end), "-extfile", "extensions"}
	if issuer == "self" {
		args = append(args, "-selfsign", "-keyfile", name+".key")
	} else {
		if _, err := os.Stat(s.file(issuer + ".pem")); err != nil {
			const ca = "basicConstraints=critical,CA:TRUE;keyUsage=critical,keyCertSign;subjectKeyIdentifier=hash"
			s.issue(t, issuer, map[string]string{"root": "self", "acme": "self", "inter": "root"}[issuer], "EC:P-256", "-100", "1000", ca)
			s.write(t, "extensions", strings.Join(lines, "\n")+"\n")
		}
		args = append(args, "-cert", issuer+".pem", "-keyfile", issuer+".key")
	}
	s.openssl(t, args...)
}

// asn1Time returns the time so many days from now.
func asn1Time(t *testing.T, days string) string {
	t.Helper()
	n, err := strconv.Atoi(days)
	kit.Must(t, err)
	return fmt.Sprintf("%sZ", time.Now().UTC().Add(time.Duration(n)*24*time.Hour).Format("20060102150405"))
}
