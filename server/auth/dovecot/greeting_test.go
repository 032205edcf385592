package dovecot

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestGreeting(t *testing.T) {
	tests := []struct {
		name, text string
		want       []string
	}{
		{"2.3", goodGreeting, []string{"PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256", "ANONYMOUS"}},
		{"as documented", "VERSION\t1\t1\nSPID\t1\nCUID\t1\nCOOKIE\tx\nMECH\tPLAIN\nDONE\n", []string{"PLAIN"}},
		{"1.0", "VERSION\t1\t0\nMECH\tPLAIN\tplaintext\nSPID\t1\nCUID\t1\nDONE\n", []string{"PLAIN"}},
		{"of the future", "VERSION\t1\t99\tx\nNEWS\t1\n\nMECH\tPLAIN\tshiny\nDONE\tx\n", []string{"PLAIN"}},
		{"names", "VERSION\t1\t2\nMECH\nMECH\t\nMECH\tpl ain\nMECH\tA\x01l250 B\nMECH\t" + strings.Repeat("A", 21) +
			"\nMECH\tPLAIN\nMECH\tPLAIN\nDONE\n", []string{"PLAIN"}},
	}
	for _, tt := range tests {
		g, err := readGreeting(newLineReader(strings.NewReader(tt.text)))
		if err != nil || !slices.Equal(names(g.mechanisms), tt.want) {
			t.Errorf("%s: %q and %v, want %q", tt.name, names(g.mechanisms), err, tt.want)
		}
	}
}

func TestBadGreeting(t *testing.T) {
	tests := map[string]string{
		"empty":         "",
		"DONE only":     "DONE\n",
		"no VERSION":    "MECH\tPLAIN\nVERSION\t1\t2\nDONE\n",
		"version 2":     "VERSION\t2\t0\nMECH\tPLAIN\nDONE\n",
		"version 0":     "VERSION\t0\t1\nMECH\tPLAIN\nDONE\n",
		"no numbers":    "VERSION\tone\ttwo\nMECH\tPLAIN\nDONE\n",
		"one number":    "VERSION\t1\nMECH\tPLAIN\nDONE\n",
		"no mechanisms": "VERSION\t1\t2\nDONE\n",
		"cut":           "VERSION\t1\t2\nMECH\tPLAIN\nDON",
		"SMTP":          "220 mx.example.org ESMTP\r\n",
		"endless":       "VERSION\t1\t2\n" + strings.Repeat("X\n", 1<<16),
		"long":          "VERSION\t1\t2\nMECH\t" + strings.Repeat("P", 1<<20) + "\nDONE\n",
	}
	for name, text := range tests {
		if g, err := readGreeting(newLineReader(strings.NewReader(text))); err == nil {
			t.Errorf("%s: taken for %+v", name, g)
		}
	}
}

func TestManyMechanisms(t *testing.T) {
	var text strings.Builder
	text.WriteString("VERSION\t1\t2\n")
	for i := range 200 {
		fmt.Fprintf(&text, "MECH\tM%d\n", i)
	}
	text.WriteString("DONE\n")
	g, err := readGreeting(newLineReader(strings.NewReader(text.String())))
	if err != nil || len(g.mechanisms) != maxMechanisms {
		t.Errorf("%d mechanisms and %v", len(g.mechanisms), err)
	}
}

// A master socket says who it is and waits for requests.
func TestWrongSocket(t *testing.T) {
	g, err := readGreeting(newLineReader(strings.NewReader("VERSION\t1\t1\nSPID\t1\n")))
	if err = g.explain(err); !errors.Is(err, errWrongSocket) {
		t.Error(err)
	}
}
