package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/BurntSushi/toml"

	"postern/internal/text"
)

// A container often gets its settings from the environment. The variables below replace keys
// of the shared sections; a listener that sets the same key for itself keeps its own. A change
// needs a restart, because a process cannot be given a new environment. The value of a
// variable can be seen by everybody who may inspect the container, so none takes a secret:
// those for files take the path, under their own name or with _FILE after it.

// A setting is a variable of the environment and the key that it replaces.
type setting struct {
	name  string
	key   string // path in the file; an element of a list of tables replaces the whole list
	list  bool   // the value is a list, separated by commas or blanks
	plain string // what an administrator might put there in place of a path; empty if it is no path
}

// settings is the table of all variables. docs/containers.md has the same table.
func settings() []setting {
	return []setting{
		{name: "POSTERN_HOSTNAME", key: "server.hostname"},
		{name: "POSTERN_ORIGIN", key: "server.origin"},
		{name: "POSTERN_NEXT_HOPS", key: "relay.next_hops", list: true},
		{name: "POSTERN_USERS", key: "auth.stores[0].path", plain: "users and their hashes"},
		{name: "POSTERN_TLS_CERT", key: "tls.certificates[0].cert", plain: "a certificate"},
		{name: "POSTERN_TLS_KEY", key: "tls.certificates[0].key", plain: "a private key"},
		{name: "POSTERN_PROXY_TRUSTED", key: "server.proxy_trusted", list: true},
		{name: "POSTERN_MESSAGE_SIZE_LIMIT", key: "server.message_size_limit"},
		{name: "POSTERN_SPOOL", key: "relay.spool"},
		{name: "POSTERN_LOG_LEVEL", key: "log.level"},
	}
}

// A Variable is a variable of the environment that has set a key.
type Variable struct{ Name, Key, Value string }

// environment is the variables that have set keys, in the order of the table.
type environment []Variable

// Environment returns the variables that have replaced keys of the file.
func (c *Config) Environment() []Variable { return c.environment }

// owner returns the variable that has set the key at path, or a list that contains it.
func (e environment) owner(path string) (Variable, bool) {
	for _, v := range e {
		if inside(path, v.Key) || strings.Contains(path, ".") && inside(v.Key, path) {
			return v, true
		}
	}
	return Variable{}, false
}

func inside(path, outer string) bool {
	rest, ok := strings.CutPrefix(path, outer)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

// mark attributes problems with keys that the environment has set to their variables.
func (e environment) mark(problems []problem) []problem {
	for i := range problems {
		if v, ok := e.owner(problems[i].path); ok {
			problems[i].variable = fmt.Sprintf("%s=%q", v.Name, v.Value)
			problems[i].hint = strings.Replace(problems[i].hint, "in quotes and ", "", 1) // a variable needs none
		}
	}
	return problems
}

// readEnvironment selects the variables of the table from NAME=value strings, as os.Environ
// returns them. A problem has no value, which might be a secret. An empty value means that the
// variable is not set, as in compose files with ${NAME:-}.
func readEnvironment(environ []string) (set environment, problems []problem) {
	given := make(map[string]Variable)
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(name, "POSTERN_") || value == "" || strings.HasPrefix(name, testPrefix) || fromKubernetes(name, value) {
			continue
		}
		s, ok := findSetting(name)
		if !ok {
			problems = append(problems, unknownVariable(name))
			continue
		}
		if s.plain != "" && isContent(value) {
			problems = append(problems, problem{variable: name, why: fmt.Sprintf("takes the path of a file, not %s: everybody who may inspect "+
				"the container can read its environment", s.plain), hint: fmt.Sprintf("write it to a file, mount that, and set %s to its path in the container", name)})
			continue
		}
		if why, hint := unusableValue(s, value); why != "" {
			problems = append(problems, problem{variable: name, why: why, hint: hint})
			continue
		}
		if other, twice := given[s.name]; twice {
			problems = append(problems, problem{variable: name, why: "sets the same key as " + other.Name, hint: "keep one of the two"})
			continue
		}
		given[s.name] = Variable{name, s.key, value}
	}
	for one, other := range map[string]string{"POSTERN_TLS_CERT": "POSTERN_TLS_KEY", "POSTERN_TLS_KEY": "POSTERN_TLS_CERT"} {
		if v, ok := given[one]; ok && given[other].Name == "" && len(problems) == 0 {
			problems = append(problems, problem{variable: v.Name, why: "is set, but " + other + " is not, and a certificate needs its key",
				hint: "set both, or write both into [[tls.certificates]] of the configuration file"})
		}
	}
	slices.SortFunc(problems, func(a, b problem) int { return strings.Compare(a.variable, b.variable) })
	for _, s := range settings() {
		if v, ok := given[s.name]; ok {
			set = append(set, v)
		}
	}
	return set, problems
}

// unusableValue refuses a value without a repetition of it. A path that is not absolute may be
// a secret, such as a key without its lines BEGIN and END.
func unusableValue(s setting, value string) (why, hint string) {
	switch {
	case s.plain != "" && value[0] != '/':
		return "takes an absolute path, since a container need not start in a known folder", "write the path from / on"
	case !s.list && strings.ContainsFunc(value, unicode.IsControl):
		return "contains a line break or another control character", "write its value on one line"
	}
	return "", ""
}

// isContent reports whether a value is the content of a file rather than its path.
func isContent(value string) bool {
	return strings.Contains(value, "-----BEGIN") || strings.Contains(value, "\n") || value[0] != '/' && strings.ContainsAny(value, ":|{")
}

// findSetting finds a variable by its name. NAME_FILE is the convention of Docker's secrets
// for the path of a file; for a setting that is a path it means the same as NAME.
func findSetting(name string) (setting, bool) {
	for _, s := range settings() {
		if name == s.name || s.plain != "" && name == s.name+"_FILE" {
			return s, true
		}
	}
	return setting{}, false
}

// testPrefix begins the variables of this repository's own tests.
const testPrefix = "POSTERN_TEST_"

// Kubernetes sets variables for each service of the namespace, and those of services that are
// called postern or postern-NAME begin like settings. A NAME_PORT has a URL as its value there,
// unlike one that an administrator sets to a number.
var (
	serviceName = regexp.MustCompile(`^POSTERN(_[A-Z0-9_]+)?_SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)$`)
	servicePart = regexp.MustCompile(`^POSTERN(_[A-Z0-9_]+)?_PORT_\d+_(TCP|UDP|SCTP)_(PROTO|PORT|ADDR)$`)
	serviceURL  = regexp.MustCompile(`^POSTERN(_[A-Z0-9_]+)?_PORT(_\d+_(TCP|UDP|SCTP))?$`)
	portURL     = regexp.MustCompile(`^(tcp|udp|sctp)://`)
)

func fromKubernetes(name, value string) bool {
	return serviceName.MatchString(name) || servicePart.MatchString(name) || serviceURL.MatchString(name) && portURL.MatchString(value)
}

var secretVariable = regexp.MustCompile(`PASS|SECRET|TOKEN|CREDENTIAL|DSN|_KEY`)

// unknownVariable refuses a variable, since a setting that is ignored is not noticed.
func unknownVariable(name string) problem {
	p := problem{variable: name, why: "there is no such setting"}
	var known, short []string
	for _, s := range settings() {
		known = append(known, s.name)
		short = append(short, strings.ToLower(strings.TrimPrefix(s.name, "POSTERN_")))
	}
	switch near := text.Nearest(strings.TrimPrefix(name, "POSTERN_"), short); {
	case secretVariable.MatchString(name) && !strings.HasSuffix(name, "_FILE") && near == "":
		p.why = "secrets are not read from the environment, where everybody who may inspect the container can read them"
		p.hint = "write it to a file, mount that, and name its path in the configuration file (auth.stores, relay.credentials, POSTERN_TLS_KEY_FILE)"
	case near != "":
		p.hint = "did you mean POSTERN_" + strings.ToUpper(near) + "?"
	default:
		p.hint = "write other keys into the configuration file; the environment takes " + strings.Join(known, ", ")
	}
	return p
}

// apply decodes the variables over the shared sections of c, as if they were in its file.
func (e environment) apply(c *Config) []problem {
	if len(e) == 0 {
		return nil
	}
	c.environment = e
	var t table
	meta, err := toml.Decode(e.toml(), &t)
	if err != nil {
		return []problem{{variable: e[0].Name, why: err.Error()}}
	}
	d := &decoder{meta: meta}
	d.table("", t, fieldsOf(reflect.ValueOf(c).Elem()))
	return e.mark(d.problems)
}

// toml writes the variables as a configuration file. Strings of JSON are strings of TOML.
func (e environment) toml() string {
	var b strings.Builder
	pair := make(map[string]string)
	for _, v := range e {
		s, _ := findSetting(v.Name)
		switch {
		case s.list:
			fmt.Fprintf(&b, "%s = %s\n", s.key, quote(strings.FieldsFunc(v.Value, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\t' })))
		case s.name == "POSTERN_USERS":
			fmt.Fprintf(&b, "auth.stores = [{ kind = \"userfile\", path = %s }]\n", quote(v.Value))
		case strings.HasPrefix(s.key, "tls.certificates"):
			_, key := cutLast(s.key)
			pair[key] = quote(v.Value)
		default:
			fmt.Fprintf(&b, "%s = %s\n", s.key, quote(v.Value))
		}
	}
	if len(pair) > 0 {
		var parts []string
		for _, key := range slices.Sorted(maps.Keys(pair)) {
			parts = append(parts, key+" = "+pair[key])
		}
		fmt.Fprintf(&b, "tls.certificates = [{ %s }]\n", strings.Join(parts, ", "))
	}
	return b.String()
}

func quote(v any) string {
	text, _ := json.Marshal(v) // cannot fail for strings
	return string(text)
}
