package server

import (
	"encoding"
	"encoding/base64"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"postern/relay/relaytest"
)

// A script is one file of testdata/dialogue.
type script struct {
	settings settings
	release  chan struct{}
	answers  []hopAnswer
	steps    []step
}

// A step is one line of a dialogue.
type step struct {
	line int
	verb string
	arg  string
}

// A hopAnswer replaces the replies of the next hop to some commands.
type hopAnswer struct {
	verb    string
	address string // of MAIL and RCPT; empty: any
	answer  relaytest.Answer
	held    bool // until the step RELEASE
}

func readScript(t testing.TB, name string) *script {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	s := &script{settings: defaultSettings(), release: make(chan struct{})}
	for i, line := range strings.Split(string(text), "\n") {
		if err := s.read(i+1, line); err != nil {
			t.Fatalf("%s:%d: %v", name, i+1, err)
		}
	}
	return s
}

func (s *script) read(number int, line string) error {
	word, rest, _ := strings.Cut(line, " ")
	switch {
	case strings.TrimSpace(line) == "" || word == "#":
		return nil
	case word == "@":
		return s.option(rest)
	case word == "C:":
		rest = encode64(rest)
	}
	s.steps = append(s.steps, step{number, word, rest})
	return nil
}

func (s *script) option(text string) error {
	key, value, ok := strings.Cut(text, " = ")
	if !ok {
		return fmt.Errorf("%q is not of the form key = value", text)
	}
	if command, ok := strings.CutPrefix(key, "hop replies to "); ok {
		return s.hopReplies(command, value)
	}
	return s.settings.set(key, value)
}

func (s *script) hopReplies(command, value string) error {
	verb, address, _ := strings.Cut(command, " ")
	a := hopAnswer{verb: verb, address: address}
	value, a.held = strings.CutPrefix(value, "(held) ")
	switch value {
	case "(hang up)":
		a.answer = relaytest.HangUp()
	case "(stall)":
		a.answer = relaytest.Stall()
	default:
		a.answer = relaytest.Say(strings.Split(value, "|")...)
	}
	s.answers = append(s.answers, a)
	return nil
}

// handle answers a command that the next hop has received.
func (s *script) handle(c relaytest.Command) relaytest.Answer {
	for _, a := range s.answers {
		if a.verb == c.Verb && (a.address == "" || a.address == c.Address) {
			if a.held {
				<-s.release
			}
			return a.answer
		}
	}
	return relaytest.Usual
}

var base64Call = regexp.MustCompile(`b64\(("[^)]*")\)`)

// encode64 replaces b64("...") by its base64.
func encode64(line string) string {
	return base64Call.ReplaceAllStringFunc(line, func(call string) string {
		plain, err := strconv.Unquote(base64Call.FindStringSubmatch(call)[1])
		if err != nil {
			return call
		}
		return base64.StdEncoding.EncodeToString([]byte(plain))
	})
}

// set sets the value of a key such as "server.limits.messages" from its text.
func (s *settings) set(key, text string) error {
	v := reflect.ValueOf(s).Elem()
	for name := range strings.SplitSeq(key, ".") {
		field := fieldByTag(v, name)
		if !field.IsValid() {
			return fmt.Errorf("unknown key %q", key)
		}
		v = field
	}
	return setValue(v, text)
}

func fieldByTag(v reflect.Value, name string) reflect.Value {
	if v.Kind() != reflect.Struct {
		return reflect.Value{}
	}
	for i := range v.NumField() {
		if v.Type().Field(i).Tag.Get("toml") == name {
			return v.Field(i)
		}
	}
	return reflect.Value{}
}

func setValue(v reflect.Value, text string) (err error) {
	switch p := v.Addr().Interface().(type) {
	case encoding.TextUnmarshaler:
		err = p.UnmarshalText([]byte(text))
	case *time.Duration:
		*p, err = time.ParseDuration(text)
	case *bool:
		*p, err = strconv.ParseBool(text)
	case *int:
		*p, err = strconv.Atoi(text)
	case *string:
		*p = text
	case *[]string:
		*p = strings.Split(text, ", ")
	case *[]netip.Prefix:
		var prefix netip.Prefix
		prefix, err = netip.ParsePrefix(text)
		*p = append(*p, prefix)
	default:
		err = fmt.Errorf("cannot parse a %s", v.Type())
	}
	return err
}
