package config

import (
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func readExample(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../../../config.toml.example")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// An administrator may copy the example and change nothing.
func TestExampleIsTheDefaults(t *testing.T) {
	got, err := Parse("config.toml.example", readExample(t))
	if err != nil {
		t.Fatal(err)
	}
	example, defaults := fieldsOf(reflect.ValueOf(*got)), fieldsOf(reflect.ValueOf(*Default()))
	for section, value := range example {
		got, want := value.Interface(), defaults[section].Interface()
		if !reflect.DeepEqual(got, want) {
			t.Errorf("[%s] is %+v in the example, and %+v by default", section, got, want)
		}
	}
}

var exampleSetting = regexp.MustCompile(`(?m)^#(\[|[a-z_.]+ = )`)

// wholeExample returns the example with the settings that are commented out.
func wholeExample(t *testing.T) string {
	return exampleSetting.ReplaceAllString(readExample(t), "$1")
}

func TestExampleHoldsEveryKey(t *testing.T) {
	text := wholeExample(t)
	if _, err := Parse("config.toml.example", text); err != nil {
		t.Fatalf("with the settings that are commented out:\n%v", err)
	}
	found := make(map[string]bool)
	for path := range locate(text) {
		found[elementNumber.ReplaceAllString(path, "[]")] = true
	}
	// These are described at the shared section.
	elsewhere := strings.NewReplacer("listener[].limits.", "server.limits.", "listener[].tls.", "tls.", "listener[].auth.", "auth.",
		"listener[].policy.", "policy.", "listener[].relay.", "relay.")
	for _, key := range allKeys() {
		if !found[key] && !found[elsewhere.Replace(key)] {
			t.Errorf("%s is missing", key)
		}
	}
}

func TestPostfixOptionsHaveKeys(t *testing.T) {
	known, seen := allKeys(), make(map[string]bool)
	for _, o := range postfixOptions {
		if seen[o.name] {
			t.Errorf("%s has two rows", o.name)
		}
		seen[o.name] = true
		if (len(o.keys) == 0) == (o.note == "") {
			t.Errorf("%s must have either keys or a note", o.name)
		}
		for _, key := range o.keys {
			if !slices.Contains(known, key) {
				t.Errorf("%s has %s, which is not a key", o.name, key)
			}
		}
	}
}

// rowOf returns the row of an option.
func rowOf(name string) (postfixOption, bool) {
	i := slices.IndexFunc(postfixOptions, func(o postfixOption) bool { return o.name == name })
	if i < 0 {
		return postfixOption{}, false
	}
	return postfixOptions[i], true
}

// A word that looks like an option of Postfix: it has an underscore, or is one of those
// without.
var optionWord = regexp.MustCompile(`\b[a-z0-9]+(?:_[A-Za-z0-9]+)+\b|\b(?:myhostname|myorigin|mydestination|mynetworks|relayhost|maxproc)\b`)

// covers reports whether key is at path, or in the section at path. What a listener
// replaces counts as the shared key.
func covers(path, key string) bool {
	return key == path || strings.HasPrefix(key, path+".") || strings.HasPrefix(key, path+"[]") ||
		strings.HasPrefix("listener[]."+key, path+".")
}

// Each "Postfix:" comment of config.toml.example names the options that its row has for
// the key below, and each row is in a comment at each of its keys.
func TestPostfixOptionsInExample(t *testing.T) {
	text := wholeExample(t)
	paths := make(map[int]string) // keys and sections by their line
	for path, e := range locate(text) {
		line := strings.Count(text[:e.key.start], "\n")
		if at := elementNumber.ReplaceAllString(path, "[]"); !e.key.none() && len(at) > len(paths[line]) {
			paths[line] = at // the header [[listener]] has the places of listener and of listener[0]
		}
	}
	found := make(map[[2]string]bool)
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		_, comment, ok := strings.Cut(lines[i], "Postfix:")
		if !ok || !strings.HasPrefix(lines[i], "#") {
			continue
		}
		at := i
		for at++; at < len(lines) && paths[at] == ""; at++ {
			if more, ok := strings.CutPrefix(lines[at], "#"); ok && !strings.Contains(more, "Postfix:") {
				comment += more
			}
		}
		for _, option := range optionWord.FindAllString(comment, -1) {
			row, ok := rowOf(option)
			if !ok {
				if strings.HasPrefix(option, "smtp") {
					t.Errorf("line %d: %s has no row", i+1, option)
				}
				continue
			}
			for _, key := range row.keys {
				if covers(paths[at], key) {
					found[[2]string{option, key}] = true
				}
			}
			if len(row.keys) > 0 && !slices.ContainsFunc(row.keys, func(key string) bool { return covers(paths[at], key) }) {
				t.Errorf("line %d: %s is at %s, but its row has %q", i+1, option, paths[at], row.keys)
			}
		}
	}
	for _, o := range postfixOptions {
		for _, key := range o.keys {
			if !found[[2]string{o.name, key}] {
				t.Errorf("config.toml.example does not name %s at %s", o.name, key)
			}
		}
	}
}

var (
	code       = regexp.MustCompile("`([^`]+)`")
	keyInCode  = regexp.MustCompile(`^([a-z_]+(?:\.[a-z_]+)*)(?: = .*)?$`)
	dottedKey  = regexp.MustCompile("`((?:server|listener|tls|auth|policy|relay|log)\\.[a-z_.]+)(?: = [^`]*)?`")
	headerCode = regexp.MustCompile(`^\[\[?([a-z_.]+)\]\]?$`)
	fileNames  = regexp.MustCompile(`\.(?:go|md|toml|service|socket)$`)
)

// Each document names keys that exist, and in tables that have a Postfix option in the
// first column and keys in the second, the keys of its row.
func TestPostfixOptionsInDocs(t *testing.T) {
	const root = "../../../.."
	tables := 0
	err := filepath.WalkDir(filepath.Join(root, "docs"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".md") {
			return err
		}
		text, err := os.ReadFile(path)
		name, _ := filepath.Rel(root, path)
		for i, line := range strings.Split(string(text), "\n") {
			for _, m := range dottedKey.FindAllStringSubmatch(line, -1) {
				if !fileNames.MatchString(m[1]) && !slices.ContainsFunc(allKeys(), func(key string) bool { return isKey(m[1], key) }) {
					t.Errorf("%s:%d: %s is not a key", name, i+1, m[1])
				}
			}
			if cells := strings.Split(strings.ReplaceAll(line, `\|`, " "), "|"); strings.HasPrefix(line, "|") && len(cells) >= 4 {
				tables += checkRow(t, name, i+1, cells[1], cells[2])
			}
		}
		return err
	})
	if err != nil || tables < 50 {
		t.Fatalf("%d rows with an option and a key: %v", tables, err)
	}
}

// isKey reports whether key is what a document calls name: the key, one of its sections,
// or its end.
func isKey(name, key string) bool {
	key = plain(key)
	return key == name || strings.HasPrefix(key, name+".") || strings.HasSuffix(key, "."+name)
}

// checkRow checks one row of a table, and returns 1 if it has an option and a key.
func checkRow(t *testing.T, file string, line int, options, keys string) int {
	t.Helper()
	var named []string // keys and sections in the second column
	for _, m := range code.FindAllStringSubmatch(keys, -1) {
		word := m[1]
		if header := headerCode.FindStringSubmatch(word); header != nil {
			named = append(named, header[1])
		} else if key := keyInCode.FindStringSubmatch(word); key != nil {
			if slices.ContainsFunc(allKeys(), func(k string) bool { return isKey(key[1], k) }) {
				named = append(named, key[1])
			}
		}
	}
	if len(named) == 0 {
		return 0
	}
	agree := func(key string) bool {
		return slices.ContainsFunc(named, func(name string) bool { return isKey(name, key) })
	}
	complete := filepath.Base(file) == "options.md" // has each option with its key; in other pages one of a row is enough
	agreed, wrong := 0, ""
	for _, m := range code.FindAllStringSubmatch(options, -1) {
		option := optionWord.FindString(m[1])
		row, ok := rowOf(option)
		switch {
		case !ok && complete && strings.HasPrefix(m[1], option) && option != "" && !notOption(option):
			t.Errorf("%s:%d: %s has no row in postfixOptions", file, line, option)
		case !ok:
		case slices.ContainsFunc(row.keys, agree):
			agreed = 1
		default:
			wrong = option
		}
	}
	if wrong != "" && (complete || agreed == 0) {
		t.Errorf("%s:%d: the keys of %s are not %q, see postfixOptions", file, line, wrong, named)
	}
	return agreed
}

// notOption reports whether a name in the first column of the table of options is a
// restriction, or belongs to another program.
func notOption(name string) bool { return strings.HasPrefix(name, "check_") || name == "mech_list" }
