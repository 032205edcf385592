package config

import (
	"encoding"
	"fmt"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// maxCorrect is the longest correction that is shown, in bytes.
const maxCorrect = 200

// correct returns raw, the value of a key in the file, as it has to be written for type t:
// ["PLAIN", "LOGIN"] for the text "PLAIN LOGIN", "300s" for the number 300. It returns ""
// if that cannot be known.
func correct(t reflect.Type, key string, raw any) string {
	switch list, ok := raw.([]any); {
	case isList(t):
		return correctList(t.Elem(), key, raw)
	case ok && len(list) == 1:
		return correct(t, key, list[0])
	case ok:
		return ""
	case t == reflect.TypeFor[time.Duration]():
		return quoteUnlessEmpty(correctDuration(fmt.Sprint(raw)))
	case takesText(t):
		return quoteUnlessEmpty(correctText(t, raw))
	case t.Kind() == reflect.String:
		return correctString(key, raw)
	case t.Kind() == reflect.Bool:
		_, value, _ := strings.Cut(boolHint(fmt.Sprint(raw)), "write ")
		value, _, _ = strings.Cut(value, ",")
		if value == "true" || value == "false" {
			return value
		}
	case t.Kind() >= reflect.Int && t.Kind() <= reflect.Uint64:
		return correctInt(raw)
	}
	return ""
}

// correctList makes a list of a single value, and corrects the elements.
func correctList(element reflect.Type, key string, raw any) string {
	var values []any
	switch raw := raw.(type) {
	case []any:
		values = raw
	case string:
		for _, word := range strings.FieldsFunc(raw, func(r rune) bool { return strings.ContainsRune(", \t\r\n", r) }) {
			values = append(values, word)
		}
	default:
		values = []any{raw}
	}
	var written []string
	for _, v := range values {
		one := correct(element, key, v)
		if one == "" {
			return ""
		}
		written = append(written, one)
	}
	if written == nil {
		return ""
	}
	return "[" + strings.Join(written, ", ") + "]"
}

func quoteUnlessEmpty(s string) string {
	if s == "" {
		return ""
	}
	return strconv.Quote(s)
}

func correctString(key string, raw any) string {
	switch raw := raw.(type) {
	case string:
		return strconv.Quote(raw)
	case int64:
		if key == "address" { // of a listener
			return strconv.Quote(":" + strconv.FormatInt(raw, 10))
		}
		return strconv.Quote(strconv.FormatInt(raw, 10))
	}
	return ""
}

func correctInt(raw any) string {
	switch raw := raw.(type) {
	case string:
		digits := strings.NewReplacer(",", "", "_", "", " ", "", "'", "").Replace(raw)
		if n, err := strconv.ParseInt(digits, 10, 64); err == nil {
			return strconv.FormatInt(n, 10)
		}
	case int64:
		return strconv.FormatInt(raw, 10)
	case float64:
		if raw == math.Trunc(raw) && math.Abs(raw) < 1<<53 {
			return strconv.FormatInt(int64(raw), 10)
		}
	}
	return ""
}

var wordyDuration = regexp.MustCompile(`(?i)^(\d+)\s*([a-z]*)\.?$`)

// correctDuration understands the units of Postfix's time parameters, in which a number
// alone is seconds in most cases, and whole words.
func correctDuration(s string) string {
	if d, err := time.ParseDuration(strings.ReplaceAll(s, " ", "")); err == nil && d != 0 {
		return strings.ReplaceAll(s, " ", "")
	}
	m := wordyDuration.FindStringSubmatch(strings.TrimSpace(s))
	if m == nil {
		return ""
	}
	n, err := strconv.Atoi(m[1])
	if err != nil || n > 1_000_000_000 {
		return ""
	}
	for _, unit := range []struct {
		names  string
		factor int
		short  string
	}{
		{" s sec secs second seconds ", 1, "s"},
		{" m min mins minute minutes ", 1, "m"},
		{" h hr hrs hour hours ", 1, "h"},
		{" d day days ", 24, "h"},
		{" w week weeks ", 7 * 24, "h"},
	} {
		if name := strings.ToLower(m[2]); name == "" && unit.short == "s" || name != "" && strings.Contains(unit.names, " "+name+" ") {
			return strconv.Itoa(n*unit.factor) + unit.short
		}
	}
	return ""
}

var sizeUnit = regexp.MustCompile(`(?i)^(\d+)\s*([kmg])\w*$`)

// correctText returns the first near form of raw that the type accepts.
func correctText(t reflect.Type, raw any) string {
	text := strings.TrimSpace(fmt.Sprint(raw))
	near := []string{text, strings.ToLower(text), strings.ToUpper(text), text + "/32", text + "/128"}
	if m := sizeUnit.FindStringSubmatch(text); m != nil {
		near = append(near, m[1]+strings.ToUpper(m[2])+"iB")
	}
	i := slices.IndexFunc(near, func(s string) bool {
		return reflect.New(t).Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(s)) == nil
	})
	if i < 0 {
		return ""
	}
	return near[i]
}

// typeOf returns the type of a key from its plain path, such as server.limits.recipients. It
// returns nil for a key that does not exist.
func typeOf(path string) reflect.Type {
	if rest, ok := strings.CutPrefix(strings.TrimPrefix(path, "listener."), "auth.stores."); ok {
		for _, k := range storeKinds() {
			s := newStore(k.name)
			if f, ok := s.fields()[rest]; ok {
				return f.Type()
			}
		}
		return nil
	}
	t := reflect.TypeFor[Config]()
	for _, key := range strings.Split(path, ".") {
		for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
			t = t.Elem()
		}
		if t.Kind() != reflect.Struct || isLeaf(t) {
			return nil
		}
		f, ok := fieldsOf(reflect.New(t).Elem())[key]
		if !ok {
			return nil
		}
		t = f.Type()
	}
	return t
}

// parsed returns text as a value of the file, or the text itself if it is not TOML.
func parsed(text string) any {
	var t struct{ V any }
	if _, err := toml.Decode("V = "+text, &t); err != nil || t.V == nil {
		return text
	}
	return t.V
}
