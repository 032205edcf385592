package main

import (
	"encoding"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// A decoder fills the Config from the parsed file.
//
// The library stops at the first mistake, takes a key in any spelling of upper
// and lower case, and a bare 30 for thirty nanoseconds. So the tables are
// walked here, each value is handed to the library by itself, and every
// mistake is collected with the path of its place.
type decoder struct {
	meta     toml.MetaData
	problems []problem
}

// A table is one whose values are not decoded yet.
type table = map[string]toml.Primitive

// A selfDecoder is a part of the file whose form depends on what it says.
type selfDecoder interface {
	decode(d *decoder, path string, p toml.Primitive)
	keys(path string) []string // all that there can be
}

func (d *decoder) bad(path, why, hint string) {
	d.problems = append(d.problems, problem{path: path, why: why, hint: hint})
}

// table decodes t into the struct v.
func (d *decoder) table(path string, t table, v reflect.Value) {
	d.fields(path, t, fieldsOf(v))
}

// fields decodes t into fields, which are the keys that it may have.
func (d *decoder) fields(path string, t table, fields map[string]reflect.Value) {
	for _, key := range slices.Sorted(maps.Keys(t)) {
		if f, ok := fields[key]; ok {
			d.value(join(path, key), t[key], f)
			continue
		}
		d.unknown(path, key, slices.Sorted(maps.Keys(fields)), d.raw(t[key]))
	}
}

func (d *decoder) unknown(path, key string, known []string, raw any) {
	why := fmt.Sprintf("there is no key %q in %s", key, section(path))
	if path == "" {
		why = fmt.Sprintf("there is no key %q outside of the sections", key)
	}
	if at := join(path, key); describe(raw) == "a section" {
		why = fmt.Sprintf("there is no section [%s]", plain(at))
	}
	d.problems = append(d.problems, problem{
		path:  join(path, key),
		atKey: true,
		why:   why,
		hint:  hintForKey(path, key, known),
	})
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
			d.table(path, t, v)
		}
	default:
		d.tables(path, p, v)
	}
}

// tables decodes an array of tables. It replaces what the default had.
func (d *decoder) tables(path string, p toml.Primitive, v reflect.Value) {
	ts, ok := d.asTables(path, p)
	if !ok {
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(ts), len(ts)))
	for i, t := range ts {
		v.Index(i).Set(newElement(v.Type().Elem()))
		d.table(fmt.Sprintf("%s[%d]", path, i), t, v.Index(i))
	}
}

func (d *decoder) asTable(path string, p toml.Primitive) (t table, ok bool) {
	if _, ok := d.raw(p).(map[string]any); !ok {
		d.bad(path, "is a section, not a value", fmt.Sprintf("write [%s] on a line by itself and its keys below", plain(path)))
		return nil, false
	}
	ok = d.into(path, p, &t)
	return t, ok
}

func (d *decoder) asTables(path string, p toml.Primitive) (ts []table, ok bool) {
	if why := wantTables(d.raw(p)); why != "" {
		d.bad(path, why, fmt.Sprintf("write [[%s]] with two brackets on each side, once for each", plain(path)))
		return nil, false
	}
	ok = d.into(path, p, &ts)
	return ts, ok
}

// wantTables says why raw is not an array of tables.
func wantTables(raw any) string {
	list, ok := raw.([]any)
	if _, tables := raw.([]map[string]any); !ok && !tables {
		return "is a list of sections, not " + describe(raw)
	}
	for _, one := range list {
		if _, ok := one.(map[string]any); !ok {
			return "is a list of sections, but holds " + describe(one)
		}
	}
	return ""
}

// leaf decodes a value without keys of its own, a list of them one by one.
func (d *decoder) leaf(path string, p toml.Primitive, v reflect.Value) {
	raw := d.raw(p)
	if _, ok := raw.([]any); ok && isList(v.Type()) {
		d.list(path, p, v)
		return
	}
	if want, hint := expected(v.Type(), raw); want != "" {
		d.bad(path, fmt.Sprintf("must be %s, not %s", want, describe(raw)), hint)
		return
	}
	d.into(path, p, v.Addr().Interface())
}

func (d *decoder) list(path string, p toml.Primitive, v reflect.Value) {
	var elements []toml.Primitive
	if !d.into(path, p, &elements) {
		return
	}
	v.SetZero() // what follows never goes into the array of the default
	for i, e := range elements {
		v.Set(reflect.Append(v, reflect.Zero(v.Type().Elem())))
		d.leaf(fmt.Sprintf("%s[%d]", path, i), e, v.Index(i))
	}
}

// into hands a value to the library, which knows ranges and durations and
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
	d.bad(path, why, "")
	return false
}

// raw is the value as the library has parsed it.
func (d *decoder) raw(p toml.Primitive) (raw any) {
	_ = d.meta.PrimitiveDecode(p, &raw) // into an empty interface everything fits
	return raw
}

// isList says that t is decoded element by element.
func isList(t reflect.Type) bool {
	return t.Kind() == reflect.Slice && !takesText(t) && !takesTables(t)
}

func takesText(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

func takesTables(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[toml.Unmarshaler]())
}

// isLeaf says that a value of type t has no keys that are ours to check.
func isLeaf(t reflect.Type) bool {
	if isList(t) {
		return isLeaf(t.Elem())
	}
	if t.Kind() == reflect.Pointer {
		return isLeaf(t.Elem())
	}
	return t.Kind() != reflect.Struct || takesText(t) || takesTables(t)
}

// fieldsOf returns the fields of the struct v by their keys in the file, those
// of embedded structs as if they were its own.
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

// section names the table at path as its header spells it.
func section(path string) string {
	if strings.HasSuffix(path, "]") {
		return "[[" + plain(path) + "]]"
	}
	return "[" + plain(path) + "]"
}

var elementNumber = regexp.MustCompile(`\[\d*\]`)

// plain takes the numbers of elements out of a path.
func plain(path string) string { return elementNumber.ReplaceAllString(path, "") }
