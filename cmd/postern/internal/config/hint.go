package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"postern/internal/text"
)

// hintForKey suggests what an unknown key may mean: an option of Postfix, a key of
// the same section, or a key of another section.
func hintForKey(path, key string, known []string) string {
	if hint := postfixHint(key); hint != "" {
		return hint
	}
	if i := slices.IndexFunc(known, func(k string) bool { return slices.Contains(otherNames()[k], key) }); i >= 0 {
		if known[i] == "address" {
			return `write the port into address, as in address = [":587"]`
		}
		return fmt.Sprintf("write %s instead", known[i])
	}
	if near := text.Nearest(key, known); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	var homes []string
	all := allKeys()
	for _, other := range all {
		shared, own := strings.CutPrefix(other, "listener[].")
		at, last := cutLast(other)
		switch {
		case last != key:
		case own && plain(path) == "listener" && !strings.Contains(shared, "["):
			return fmt.Sprintf("write %s for this listener, or %s in %s for all", shared, key, section(strings.TrimPrefix(at, "listener[].")))
		case path != "" && section(at) == section(path): // of another kind
		case !own || !slices.Contains(all, shared):
			homes = append(homes, section(at))
		}
	}
	if near := slices.DeleteFunc(slices.Clone(homes), func(home string) bool {
		return path == "" || !strings.HasPrefix(strings.Trim(home, "["), plain(path)+".")
	}); len(near) > 0 {
		homes = near
	}
	if len(homes) > 0 {
		return fmt.Sprintf("%q belongs in %s", key, strings.Join(homes, " or "))
	}
	where := "the file"
	if path != "" {
		where = section(path)
	}
	return fmt.Sprintf("%s takes %s", where, strings.Join(known, ", "))
}

// otherNames are names that keys have in other servers and libraries.
func otherNames() map[string][]string {
	return map[string][]string{
		"address":            {"port", "ports", "listen", "bind", "addresses"},
		"cert":               {"certificate", "cert_file", "certificate_file", "cert_path", "fullchain"},
		"key":                {"key_file", "private_key", "key_path", "privkey"},
		"path":               {"file", "socket", "filename"},
		"server_host":        {"url", "urls", "uri", "uris", "host", "hosts", "server"},
		"search_base":        {"base", "base_dn"},
		"query_filter":       {"filter", "user_filter", "pass_filter"},
		"bind_password_file": {"bind_pw", "bind_password", "bindpw", "dnpass"},
		"bind_dn":            {"binddn", "dn"},
	}
}

// allKeys returns the path of every key that a file can have. Arrays of tables have
// [] after their names.
func allKeys() []string {
	keys := slices.DeleteFunc(keysOf("", reflect.TypeFor[Config]()), func(key string) bool { return processWide()[plain(key)] })
	slices.Sort(keys)
	return keys
}

func keysOf(path string, t reflect.Type) (keys []string) {
	if self, ok := reflect.New(t).Interface().(selfDecoder); ok {
		return self.keys(path)
	}
	switch {
	case isLeaf(t):
		return []string{path}
	case t.Kind() == reflect.Pointer:
		return keysOf(path, t.Elem())
	case t.Kind() == reflect.Slice:
		return keysOf(path+"[]", t.Elem())
	}
	for key, f := range fieldsOf(reflect.New(t).Elem()) {
		keys = append(keys, keysOf(join(path, key), f.Type())...)
	}
	return keys
}

func cutLast(path string) (before, last string) {
	i := strings.LastIndexByte(path, '.')
	return path[:max(i, 0)], path[i+1:]
}
