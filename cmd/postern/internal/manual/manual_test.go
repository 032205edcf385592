package manual

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestPage(t *testing.T) {
	p := NewPage("postern-x", 8, `a "b"`, "do things")
	p.Text("one\ntwo\n\n.dot -x \\\n\nA list:\n    a  b\n'end")
	p.Tagged("-c, --config", " file", "text\nPostfix: main.cf\n\nmore")
	p.Literal("  postern -x\n.y")
	want := `.TH "POSTERN\-X" 8 "" "a ""b""" "postern manual"
.nr HY 0
.ad l
.SH "NAME"
postern\-x \- do things
.PP
one
two
.PP
\&.dot \-x \e
.PP
A list:
.PP
.EX
    a  b
.EE
.PP
\&'end
.TP
\fB\-c, \-\-config\fR file
text
.br
Postfix: main.cf
.IP
more
.PP
.EX
  postern \-x
\&.y
.EE
`
	if got := p.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestExample(t *testing.T) {
	p := new(Page)
	err := p.Example(`# Title
# ---------------------------- part

# The table.
[table]

# A key.
key = ""

# An array.
#[[array]]
#name = "x"
#other = 1
`)
	want := `.PP
Title
.SH "PART"
.SS "[table]"
.PP
The table.
.TP
\fBkey\fR = ""
A key.
.PP
An array.
.PP
.EX
[[array]]
name = "x"
other = 1
.EE
`
	if got := p.String(); err != nil || got != want {
		t.Errorf("got %v and\n%s\nwant\n%s", err, got, want)
	}
	if err := new(Page).Example("# text\nkey: value"); err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("a line that is neither a comment nor a setting: %v", err)
	}
}

// troff, with all warnings, accepts the page of the real file.
func TestExampleFile(t *testing.T) {
	text, err := os.ReadFile("../../../../config.toml.example")
	if err != nil {
		t.Fatal(err)
	}
	p := NewPage("postern.toml", 5, "postern", "configuration")
	if err := p.Example(string(text)); err != nil {
		t.Fatal(err)
	}
	if _, err := exec.LookPath("groff"); err != nil {
		t.Skip("groff is not installed")
	}
	groff := exec.Command("groff", "-man", "-Tutf8", "-ww", "-z")
	groff.Stdin = strings.NewReader(p.String())
	if out, err := groff.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("groff: %v\n%s", err, out)
	}
}
