package check

import (
	"errors"
	"strings"
	"testing"
)

// Text of other servers cannot control a terminal or begin an entry.
func TestReportUnprintable(t *testing.T) {
	var out strings.Builder
	r := NewReport(&out, false)
	r.Fail("relay", errors.New("valid for \x1b]0;x\a\u202e\xff\r.org\nok    relay  fine"))
	want := "FAIL  relay          valid for \ufffd]0;x\ufffd\ufffd\ufffd\ufffd.org\n                     ok    relay  fine\n"
	if got := out.String(); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
