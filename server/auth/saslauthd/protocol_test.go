package saslauthd

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
)

var client = netip.MustParseAddr("192.0.2.7")

// The encoding is that of saslauthd's clients.
func TestEncodeRequest(t *testing.T) {
	tests := []struct {
		name string
		r    Request
		text string
	}{
		{"four strings", Request{Login: "alice", Password: "pw", Service: "smtp", Realm: "example.org"},
			"\x00\x05alice\x00\x02pw\x00\x04smtp\x00\x0bexample.org"},
		{"empty strings", Request{}, "\x00\x00\x00\x00\x00\x00\x00\x00"},
		{"five strings", Request{Login: "alice", Password: "pw", Service: "smtp", Extended: true, Client: client},
			"\x00\x05alice\x00\x02pw\x00\x0esmtp\x00postern/1\x00\x00\x00\x09192.0.2.7"},
		{"unknown client", Request{Login: "a", Password: "b", Service: "c", Extended: true},
			"\x00\x01a\x00\x01b\x00\x0bc\x00postern/1\x00\x00\x00\x00"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			text, err := tt.r.Append(nil)
			if err != nil || string(text) != tt.text {
				t.Fatalf("%q, %v; want %q", text, err, tt.text)
			}
			in := strings.NewReader(tt.text + "more")
			got, err := ReadRequest(in)
			if err != nil || got != tt.r {
				t.Errorf("read %+v, %v", got, err)
			}
			if in.Len() != len("more") {
				t.Errorf("%d bytes left", in.Len())
			}
		})
	}
}

func TestRequestCannotBeSent(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	tests := []struct {
		field string
		r     Request
	}{
		{"login", Request{Login: long}},
		{"login", Request{Login: "alice\x00"}},
		{"password", Request{Login: "alice", Password: long}},
		{"password", Request{Login: "alice", Password: "pw\x00"}},
		{"service", Request{Service: strings.Repeat("x", 1<<16-1)}},
		{"service", Request{Service: "smtp" + marker}},
		{"realm", Request{Realm: long}},
	}
	for _, tt := range tests {
		b, err := tt.r.Append([]byte("kept"))
		field, ok := errors.AsType[*FieldError](err)
		if !ok || field.Field != tt.field || string(b) != "kept" {
			t.Errorf("%s: %q, %v", tt.field, b, err)
		}
	}
}

// ReadRequest accepts the requests that Fits accepts, and no others.
func TestRequestFits(t *testing.T) {
	longest := strings.Repeat("x", MaxField)
	for name, tt := range map[string]struct {
		r     Request
		field string // empty: it fits
	}{
		"longest":       {Request{Login: longest, Password: longest, Service: "smtp"}, ""},
		"long login":    {Request{Login: longest + "x", Service: "smtp"}, "login"},
		"long password": {Request{Login: "alice", Password: longest + "x", Service: "smtp"}, "password"},
		"NUL":           {Request{Login: "alice", Password: "pw\x00", Service: "smtp"}, "password"},
	} {
		field, refused := errors.AsType[*FieldError](tt.r.Fits())
		if refused != (tt.field != "") || refused && field.Field != tt.field {
			t.Errorf("%s: %v", name, field)
		}
		text, err := tt.r.Append(nil)
		if err == nil {
			_, err = ReadRequest(bytes.NewReader(text))
		}
		if (err != nil) != refused {
			t.Errorf("%s: read: %v", name, err)
		}
	}
}

func TestReadRequestRefuses(t *testing.T) {
	tests := []struct {
		name, text string
		want       error
	}{
		{"nothing", "", io.EOF},
		{"half a count", "\x00", io.ErrUnexpectedEOF},
		{"half a string", "\x00\x05ali", io.ErrUnexpectedEOF},
		{"count alone", "\x00\x05", io.ErrUnexpectedEOF},
		{"too long", "\xff\xff", ErrTooLong},
		{"NUL in the login", "\x00\x02a\x00\x00\x01b\x00\x01c\x00\x00", ErrMalformed},
		{"NUL in the password", "\x00\x01a\x00\x02b\x00\x00\x01c\x00\x00", ErrMalformed},
		{"another marker", "\x00\x01a\x00\x01b\x00\x0bc\x00postern/2\x00\x00\x00\x00", ErrMalformed},
		{"fifth string missing", "\x00\x01a\x00\x01b\x00\x0bc\x00postern/1\x00\x00", io.EOF},
		{"fifth string no address", "\x00\x01a\x00\x01b\x00\x0bc\x00postern/1\x00\x00\x00\x04evil", ErrMalformed},
	}
	for _, tt := range tests {
		if _, err := ReadRequest(strings.NewReader(tt.text)); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
}

func TestReadAnswer(t *testing.T) {
	tests := []struct {
		text string
		want Answer
	}{
		{"\x00\x02OK", Answer{OK, ""}},
		{"\x00\x02NO", Answer{NO, ""}},
		{"\x00\x03NO ", Answer{NO, ""}},
		{"\x00\x08OK alice", Answer{OK, "alice"}},
		{"\x00\x0aNO in vain", Answer{NO, "in vain"}},
		{"\x00\x10TRYAGAIN restart", Answer{Neither, "restart"}},
		{"\x00\x00", Answer{Neither, ""}},
		{"\x00\x04OKAY", Answer{Neither, "OKAY"}},
		{"\x00\x02ok", Answer{Neither, "ok"}},
		{"\x00\x03OK\n", Answer{Neither, "OK\n"}},
	}
	for _, tt := range tests {
		if got, err := ReadAnswer(strings.NewReader(tt.text)); err != nil || got != tt.want {
			t.Errorf("%q: %+v, %v", tt.text, got, err)
		}
	}
	for text, want := range map[string]error{"": io.EOF, "\x00": io.ErrUnexpectedEOF, "\x00\x02O": io.ErrUnexpectedEOF} {
		if _, err := ReadAnswer(strings.NewReader(text)); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", text, err, want)
		}
	}
}

// A request that was read can be sent, and is then read again unchanged.
func FuzzReadRequest(f *testing.F) {
	for _, r := range []Request{{}, {Login: "alice", Password: "pw", Service: "smtp"}, {Service: "s", Extended: true, Client: client}} {
		text, _ := r.Append(nil)
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := ReadRequest(bytes.NewReader(text))
		if err != nil {
			return
		}
		again, err := r.Append(nil)
		if err != nil {
			t.Fatalf("%+v cannot be sent: %v", r, err)
		}
		same, err := ReadRequest(bytes.NewReader(again))
		if err != nil || same != r {
			t.Fatalf("%+v became %+v, %v", r, same, err)
		}
	})
}

// Only an answer with the whole word OK accepts a login.
func FuzzReadAnswer(f *testing.F) {
	f.Add([]byte("\x00\x02OK"))
	f.Add([]byte("\x00\x05NO no"))
	f.Add([]byte("\xff\xffOK"))
	f.Fuzz(func(t *testing.T, text []byte) {
		a, err := ReadAnswer(bytes.NewReader(text))
		if err != nil || a.Verdict != OK {
			return
		}
		s := string(text[2 : 2+(int(text[0])<<8|int(text[1]))])
		if s != "OK" && !strings.HasPrefix(s, "OK ") {
			t.Fatalf("%q is OK", s)
		}
	})
}
