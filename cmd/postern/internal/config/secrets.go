package config

import (
	"regexp"
	"strconv"
	"strings"
)

// Secrets must not reach a terminal or a log. No key takes one, but administrators try: in a
// key of another program (bindpw), in a key that takes the path of a file, in a URL, in the
// DSN of a database, or as a private key in PEM. The line that has the mistake is printed, and
// need not be TOML. So the rest of a line is hidden rather than a part of a secret shown.

var (
	secretName  = regexp.MustCompile(`(?i)[\w.-]*(?:pass|secret|token|credential|pwd|pw\b|api_?key)[\w.-]*`)
	afterName   = regexp.MustCompile(`^["']?\s*[=:]\s*`)
	afterFirst  = regexp.MustCompile(`^["']?\s+`) // of a name at the beginning of a line without "="
	fileName    = regexp.MustCompile(`(?i)(?:file|path|credentials)[\w-]*$`)
	absolute    = regexp.MustCompile(`^[\[{\s"']*/`)
	secretInURL = regexp.MustCompile(`://[^\s"'@]*?:(.+)@`)
	secretInDSN = regexp.MustCompile(`(?i)["'=\s][^\s"'/:@=]*:([^/\s"'].*)@(?:[a-z0-9]*\(|/)`) // user:password@tcp(host)/
	secretInKey = regexp.MustCompile(`(?i)^\s*["']?(?:dsn|data_?source|conn\w*)["']?\s*[=:][^:@]*:(.+)@`)
	secretInPEM = regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY-----\W*(\w.*)`)
)

// secretSpans returns the places of secrets in a line, which may overlap.
func secretSpans(line string) (found []span) {
	for at := 0; ; {
		m := secretName.FindStringIndex(line[at:])
		if m == nil {
			break
		}
		name := span{at + m[0], at + m[1]}
		at = name.end
		if s := secretAfter(line, name); !s.none() {
			found = append(found, s)
			break // it is the rest of the line
		}
	}
	for _, r := range []*regexp.Regexp{secretInURL, secretInDSN, secretInKey, secretInPEM} {
		for _, m := range r.FindAllStringSubmatchIndex(line, -1) {
			found = append(found, span{m[2], m[3]})
		}
	}
	return found
}

// secretAfter returns the value after a name that is like that of a secret. The absolute path of
// a file is none.
func secretAfter(line string, name span) span {
	rest := line[name.end:]
	equals := afterName.FindString(rest)
	if equals == "" && strings.Trim(line[:name.start], " \t\"'") == "" {
		equals = afterFirst.FindString(rest)
	}
	if equals == "" {
		return span{}
	}
	value := rest[len(equals):]
	if fileName.MatchString(name.of(line)) && absolute.MatchString(value) {
		return span{}
	}
	trimmed := strings.TrimLeft(value, "\"'[{ \t")
	start := len(line) - len(trimmed)
	end := start + len(strings.TrimRight(trimmed, "\"']} \t"))
	if end <= start {
		return span{}
	}
	return span{start, end}
}

func hasSecrets(line string) bool { return len(secretSpans(line)) > 0 }

// hide writes stars for the secrets in a line. Its length in bytes is kept.
func hide(line string) string {
	hidden := []byte(line)
	for _, s := range secretSpans(line) {
		copy(hidden[s.start:s.end], strings.Repeat("*", s.end-s.start))
	}
	return string(hidden)
}

// secretsIn returns a replacer for texts about a line, which may quote secrets of it.
func secretsIn(line string) *strings.Replacer {
	var pairs []string
	for _, s := range secretSpans(line) {
		raw := s.of(line)
		for _, form := range []string{raw, unescaped(raw)} {
			quoted := strconv.Quote(form)
			for _, secret := range []string{form, quoted[1 : len(quoted)-1]} {
				pairs = append(pairs, secret, strings.Repeat("*", len(raw)))
			}
		}
	}
	return strings.NewReplacer(pairs...)
}

// unescaped returns what raw is in a basic string of TOML.
func unescaped(raw string) string {
	if s, ok := parsed(`"` + raw + `"`).(string); ok && s != `"`+raw+`"` {
		return s
	}
	return raw
}
