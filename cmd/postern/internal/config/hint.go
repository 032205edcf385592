package config

import (
	"fmt"
	"reflect"
	"regexp"
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
		case !own || !slices.Contains(all, shared):
			homes = append(homes, section(at))
		}
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

var (
	bareText   = regexp.MustCompile(`^\s*[\w."-]+\s*=\s*([A-Za-z/][^"#]*)`)
	bareBool   = regexp.MustCompile(`(?i)=\s*(yes|no|on|off|true|false)\s*(#|$)`)
	colonPair  = regexp.MustCompile(`^\s*[\w.-]+\s*:`)
	openTable  = regexp.MustCompile(`^\s*\[[^\]]*$`)
	iniComment = regexp.MustCompile(`^\s*;`)
	noEquals   = regexp.MustCompile(`^[^=#]*$`)
)

// hintForSyntax recognises common mistakes in a line that is not TOML.
func hintForSyntax(line string) string {
	switch {
	case iniComment.MatchString(line):
		return "begin a comment with #"
	case colonPair.MatchString(line):
		return "separate a key from its value with =, not with a colon"
	case openTable.MatchString(line):
		return "end the name of a section with ]"
	case bareBool.MatchString(line):
		return "write true or false"
	case bareText.MatchString(line):
		return `write text in quotes, as in key = "value"`
	case strings.Count(line, `"`)%2 == 1:
		return `a quote (") is missing, or there is one too many`
	case noEquals.MatchString(line):
		return `write key = value, or [section]`
	}
	return ""
}
