package main

import (
	"fmt"
	"log/slog"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Whatever a client sends may end up in a line: nothing of it may end the
// line, look like another key of it, or be obeyed by a terminal. The handlers
// of slog quote and escape; what is left for us is to bound the length and to
// take out what JSON lets pass (C1 controls, bidirectional overrides).
const (
	maxLogValue = 1024 // bytes of one value
	maxLogList  = 64   // elements of one list
)

// cleanAttr makes one attribute harmless.
func cleanAttr(_ []string, a slog.Attr) slog.Attr {
	switch a.Value.Kind() {
	case slog.KindString:
		a.Value = slog.StringValue(cleanText(a.Value.String()))
	case slog.KindAny:
		a.Value = cleanAny(a.Value)
	}
	return a
}

// cleanUntimed is cleanAttr for a log that notes the time itself.
func cleanUntimed(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return cleanAttr(groups, a)
}

func cleanAny(v slog.Value) slog.Value {
	switch x := v.Any().(type) {
	case slog.Level, nil:
		return v
	case []string:
		list := make([]string, min(len(x), maxLogList))
		for i := range list {
			list[i] = cleanText(x[i])
		}
		return slog.AnyValue(list)
	default: // errors, addresses and whatever else has a text
		return slog.StringValue(cleanText(fmt.Sprint(x)))
	}
}

// cleanText bounds s and replaces what is not to be seen. ASCII controls stay:
// both handlers escape them, so that the log tells what came.
func cleanText(s string) string {
	whole := len(s)
	s = strings.Map(visible, s[:min(whole, maxLogValue)])
	if whole > maxLogValue {
		s = fmt.Sprintf("%s... (%d bytes)", s, whole)
	}
	return s
}

func visible(r rune) rune {
	if r >= 0x7f && !unicode.IsPrint(r) {
		return utf8.RuneError
	}
	return r
}
