package main

import (
	"fmt"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// expected says what a value of type t looks like in the file, and how to make
// it of raw; want is empty if raw is one.
func expected(t reflect.Type, raw any) (want, hint string) {
	text, isText := raw.(string)
	_, isNumber := raw.(int64)
	_, isBool := raw.(bool)
	switch {
	case takesTables(t):
		return "", ""
	case t == reflect.TypeFor[time.Duration]():
		_, err := time.ParseDuration(text)
		return ifNot(err == nil, "a duration", `write it in quotes and with a unit, such as "30s", "5m" or "1h30m"`)
	case t == reflect.TypeFor[netip.Prefix]():
		_, err := netip.ParsePrefix(text)
		return ifNot(err == nil, "a network", `write it in quotes and with its length, such as "192.0.2.0/24" or "2001:db8::/32"`)
	case takesText(t):
		_, isFloat := raw.(float64)
		return ifNot(isText || isNumber || isBool || isFloat, "a single value", `write it in quotes, without brackets`)
	case t.Kind() == reflect.String:
		return ifNot(isText, "text", "write it in quotes")
	case t.Kind() == reflect.Bool:
		return ifNot(isBool, "true or false", boolHint(text))
	case t.Kind() == reflect.Slice:
		return "a list", fmt.Sprintf("write it in brackets: [%s]", quoteIf(isText, text))
	case t.Kind() >= reflect.Int && t.Kind() <= reflect.Uint64:
		return ifNot(isNumber, "a whole number", numberHint(text))
	}
	return "", ""
}

func ifNot(ok bool, want, hint string) (string, string) {
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

func numberHint(text string) string {
	if _, err := strconv.Atoi(text); err == nil {
		return "write " + text + ", without quotes"
	}
	return "write digits only, without quotes"
}

func quoteIf(isText bool, text string) string {
	if isText && len(text) < 40 {
		return strconv.Quote(text)
	}
	return "..."
}

// describe says what the file has, in the words of somebody who writes it.
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
