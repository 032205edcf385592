package config

import (
	"encoding"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"postern/internal/text"
)

// A decoder fills a Config from the parsed file.
//
// The TOML library stops at the first mistake, ignores case in keys, and reads a bare
// 30 as thirty nanoseconds. Therefore the decoder walks the tables itself, passes
// each single value to the library, and collects every mistake with its path.
type decoder struct {
	meta     toml.MetaData
	problems []problem
}

// A table has keys whose values are not decoded yet.
type table = map[string]toml.Primitive

// A selfDecoder decodes a part of the file whose keys depend on its values.
type selfDecoder interface {
	decode(d *decoder, path string, p toml.Primitive)
	keys(path string) []string // every key that is possible
}

func (d *decoder) bad(path, why, hint string) {
	d.problems = append(d.problems, problem{path: path, why: why, hint: hint})
}

// badValue is bad for a value that is not of type t.
func (d *decoder) badValue(path string, t reflect.Type, p toml.Primitive, why, hint string) {
	d.bad(path, why, hint)
	d.correctTo(len(d.problems)-1, path, t, p)
}

// correctTo adds the correct line to the problems from number first on, if it is known.
func (d *decoder) correctTo(first int, path string, t reflect.Type, p toml.Primitive) {
	_, key := cutLast(plain(path))
	if value := correct(t, key, d.raw(p)); value != "" {
		for i := range d.problems[first:] {
			d.problems[first+i].correct = key + " = " + value
		}
	}
}

// table decodes t into fields, which are named by their keys.
func (d *decoder) table(path string, t table, fields map[string]reflect.Value) {
	for _, key := range slices.Sorted(maps.Keys(t)) {
		at := join(path, key)
		f, ok := fields[key]
		if ok && processWide()[plain(at)] {
			shared := strings.TrimPrefix(plain(path), "listener.")
			d.problems = append(d.problems, problem{path: at, atKey: true,
				why: fmt.Sprintf("%q belongs to the whole process, not to one listener", key), hint: "write it in " + section(shared)})
			continue
		}
		if ok {
			d.value(at, t[key], f)
			continue
		}
		why := fmt.Sprintf("there is no key %q in %s", key, section(path))
		if path == "" {
			why = fmt.Sprintf("there is no key %q outside the sections", key)
		}
		isSection := describe(d.raw(t[key])) == "a section"
		if isSection {
			why = fmt.Sprintf("there is no section [%s]", plain(at))
		}
		known := slices.DeleteFunc(slices.Sorted(maps.Keys(fields)), func(key string) bool { return processWide()[plain(join(path, key))] })
		hint := hintForKey(path, key, known)
		if near := text.Nearest(key, known); isSection && near != "" {
			hint = "write " + header(join(path, near))
		}
		d.problems = append(d.problems, problem{path: at, atKey: true, why: why, hint: hint})
	}
}

func (d *decoder) value(path string, p toml.Primitive, v reflect.Value) {
	if self, ok := v.Addr().Interface().(selfDecoder); ok {
		self.decode(d, path, p)
		return
	}
	switch {
	case isLeaf(v.Type()):
		d.leaf(path, p, v)
	case v.Kind() == reflect.Pointer: // a section that may be absent
		v.Set(reflect.New(v.Type().Elem()))
		d.value(path, p, v.Elem())
	case v.Kind() == reflect.Struct:
		if t, ok := d.asTable(path, p); ok {
			d.table(path, t, fieldsOf(v))
		}
	default:
		d.tables(path, p, v)
	}
}

// tables decodes an array of tables. It replaces the default value.
func (d *decoder) tables(path string, p toml.Primitive, v reflect.Value) {
	ts, ok := d.asTables(path, p)
	if !ok {
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(ts), len(ts)))
	for i, t := range ts {
		d.table(fmt.Sprintf("%s[%d]", path, i), t, fieldsOf(v.Index(i)))
	}
}

func (d *decoder) asTable(path string, p toml.Primitive) (t table, ok bool) {
	switch d.raw(p).(type) {
	case map[string]any:
	case []map[string]any:
		d.bad(path, "is one section, not a list of sections", fmt.Sprintf("write [%s] with one bracket on each side, once", plain(path)))
		return nil, false
	default:
		d.bad(path, "is a section, not a value", fmt.Sprintf("write [%s] on a line by itself and its keys below", plain(path)))
		return nil, false
	}
	ok = d.into(path, p, &t)
	return t, ok
}

func (d *decoder) asTables(path string, p toml.Primitive) (ts []table, ok bool) {
	if why := notTables(d.raw(p)); why != "" {
		d.bad(path, why, fmt.Sprintf("write [[%s]] with two brackets on each side, once for each element", plain(path)))
		return nil, false
	}
	ok = d.into(path, p, &ts)
	return ts, ok
}

// notTables returns why raw is not an array of tables, or "".
func notTables(raw any) string {
	list, ok := raw.([]any)
	if _, tables := raw.([]map[string]any); !ok && !tables {
		return "is a list of sections, not " + describe(raw)
	}
	for _, one := range list {
		if _, ok := one.(map[string]any); !ok {
			return "is a list of sections, but contains " + describe(one)
		}
	}
	return ""
}

// leaf decodes a value that has no keys. The elements of a list are decoded one by
// one, so that each mistake has the place of its element.
func (d *decoder) leaf(path string, p toml.Primitive, v reflect.Value) {
	raw := d.raw(p)
	if _, ok := raw.([]any); ok && isList(v.Type()) {
		var elements []toml.Primitive
		if !d.into(path, p, &elements) {
			return
		}
		before := len(d.problems)
		v.SetZero() // never write into the array of the default value
		for i, e := range elements {
			v.Set(reflect.Append(v, reflect.Zero(v.Type().Elem())))
			d.leaf(fmt.Sprintf("%s[%d]", path, i), e, v.Index(i))
		}
		d.correctTo(before, path, v.Type(), p)
		return
	}
	if describe(raw) == "a section" && !takesTables(v.Type()) {
		above, key := cutLast(plain(path))
		d.bad(path, "is a key, not a section", fmt.Sprintf("write %s = and its value below %s, without a header", key, header(above)))
		return
	}
	if want, hint := expected(v.Type(), raw); want != "" {
		d.badValue(path, v.Type(), p, fmt.Sprintf("must be %s, not %s", want, describe(raw)), hint)
		return
	}
	d.into(path, p, v.Addr().Interface())
}

// into passes a value to the library, which checks ranges, parses durations and
// calls UnmarshalText.
func (d *decoder) into(path string, p toml.Primitive, v any) bool {
	err := d.meta.PrimitiveDecode(p, v)
	if err == nil {
		return true
	}
	why := err.Error()
	if pe := (toml.ParseError{}); errors.As(err, &pe) {
		why = pe.Message
	}
	d.badValue(path, reflect.TypeOf(v).Elem(), p, why, "")
	return false
}

// raw returns the value as the library has parsed it.
func (d *decoder) raw(p toml.Primitive) (raw any) {
	_ = d.meta.PrimitiveDecode(p, &raw) // cannot fail for an empty interface
	return raw
}

// isList reports whether t is decoded element by element.
func isList(t reflect.Type) bool {
	return t.Kind() == reflect.Slice && !takesText(t) && !takesTables(t)
}

func takesText(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

func takesTables(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[toml.Unmarshaler]())
}

// isLeaf reports whether a value of type t has no keys that this decoder checks.
func isLeaf(t reflect.Type) bool {
	if isList(t) || t.Kind() == reflect.Pointer {
		return isLeaf(t.Elem())
	}
	return t.Kind() != reflect.Struct || takesText(t) || takesTables(t)
}

// fieldsOf returns the fields of the struct v by their keys, and those of embedded
// structs as if they were its own.
func fieldsOf(v reflect.Value) map[string]reflect.Value {
	fields := make(map[string]reflect.Value)
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if key := f.Tag.Get("toml"); key != "" {
			fields[key] = v.Field(i)
		} else if f.Anonymous && f.Type.Kind() == reflect.Struct {
			maps.Copy(fields, fieldsOf(v.Field(i)))
		}
	}
	return fields
}

// section returns the header of the table at path.
func section(path string) string {
	if strings.HasSuffix(path, "]") {
		return "[[" + plain(path) + "]]"
	}
	return "[" + plain(path) + "]"
}

// header returns the header of the section at a plain path, which has two brackets on each
// side if the section can occur repeatedly.
func header(path string) string {
	if t := typeOf(path); t != nil && t.Kind() == reflect.Slice && !isLeaf(t) {
		return "[[" + path + "]]"
	}
	return "[" + path + "]"
}

// plain removes the numbers of elements from a path.
func plain(path string) string { return elementNumber.ReplaceAllString(path, "") }

var elementNumber = regexp.MustCompile(`\[\d*\]`)

// expected returns what a value of type t looks like in the file, and how to write
// raw in that form. want is empty if raw has the form.
func expected(t reflect.Type, raw any) (want, hint string) {
	text, isText := raw.(string)
	_, isNumber := raw.(int64)
	_, isBool := raw.(bool)
	ok := true
	switch {
	case takesTables(t):
	case t == reflect.TypeFor[time.Duration]():
		_, err := time.ParseDuration(text)
		ok, want, hint = err == nil, "a duration", `write it in quotes and with a unit, such as "30s", "5m" or "1h30m"`
	case t == reflect.TypeFor[netip.Prefix]():
		_, err := netip.ParsePrefix(text)
		ok, want, hint = err == nil, "a network", `write it in quotes and with its length, such as "192.0.2.0/24" or "2001:db8::/32"`
	case takesText(t):
		_, isFloat := raw.(float64)
		ok, want, hint = isText || isNumber || isBool || isFloat, "a single value", `write it in quotes, without brackets`
	case t.Kind() == reflect.String:
		ok, want, hint = isText, "text", "write it in quotes"
	case t.Kind() == reflect.Bool:
		ok, want, hint = isBool, "true or false", boolHint(text)
	case t.Kind() == reflect.Slice:
		example := "..."
		if isText && len(text) < 40 {
			example = strconv.Quote(text)
		}
		ok, want, hint = false, "a list", fmt.Sprintf("write it in brackets: [%s]", example)
	case t.Kind() >= reflect.Int && t.Kind() <= reflect.Uint64:
		hint = "write digits only, without quotes"
		if _, err := strconv.Atoi(text); err == nil {
			hint = "write " + text + ", without quotes"
		}
		ok, want = isNumber, "a whole number"
	}
	if ok {
		return "", ""
	}
	return want, hint
}

func boolHint(text string) string {
	switch strings.ToLower(text) {
	case "yes", "true", "on":
		return "write true, without quotes"
	case "no", "false", "off":
		return "write false, without quotes"
	}
	return "write true or false, without quotes"
}

// describe names a value of the file for an administrator.
func describe(raw any) string {
	switch raw := raw.(type) {
	case string:
		if len(raw) > 0 && len(raw) < 40 {
			return "the text " + strconv.Quote(raw)
		}
		return "text"
	case int64:
		return "a number"
	case float64:
		return "a number with a fraction"
	case bool:
		return strconv.FormatBool(raw)
	case time.Time:
		return "a date"
	case []any:
		return "a list"
	default:
		return "a section"
	}
}
