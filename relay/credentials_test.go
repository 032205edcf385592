package relay

import (
	"fmt"
	"strings"
	"testing"

	"postern/test/kit"
)

func TestCredentials(t *testing.T) {
	for in, want := range map[string][2]string{
		"alice:topsecret\n":      {"alice", "topsecret"},
		"alice:topsecret":        {"alice", "topsecret"},
		"alice:top:secret\r\n":   {"alice", "top:secret"},
		"alice\ntopsecret\n":     {"alice", "topsecret"},
		"alice\r\ntopsecret\r\n": {"alice", "topsecret"},
		"a:b\ntop:secret\n":      {"a:b", "top:secret"},
		"alice: topsecret \n":    {"alice", " topsecret "},
	} {
		c, err := readCredentials(writeFile(t, in, 0o640))
		if err != nil || c.user != want[0] || c.password != want[1] {
			t.Errorf("%q: %v, %v", in, c, err)
		}
	}
	for _, in := range []string{"", "\n", "topsecret", ":topsecret", "alice:", "alice\n", "a\ntopsecret\nc", "a\x00:topsecret", strings.Repeat("topsecret", 1000)} {
		_, err := readCredentials(writeFile(t, in, 0o600))
		if err == nil || strings.Contains(err.Error(), "topsecret") {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestCredentialsFile(t *testing.T) {
	for mode, ok := range map[uint32]bool{0o600: true, 0o640: true, 0o400: true, 0o644: false, 0o604: false, 0o602: false} {
		name := writeFile(t, "alice:topsecret", 0o600)
		chmod(t, name, mode)
		_, err := readCredentials(name)
		if ok != (err == nil) || err != nil && !strings.Contains(err.Error(), "chmod o= "+name) {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
	if _, err := readCredentials("/nowhere/at/all"); err == nil || !strings.Contains(err.Error(), "/nowhere/at/all") {
		t.Errorf("missing: %v", err)
	}
}

func TestSecretIsNotPrinted(t *testing.T) {
	c := &credentials{"alice", "topsecret"}
	p := &peer{credentials: c}
	var log kit.LogBuffer
	log.Logger().Info("m", "c", c, "d", *c, "p", p)
	printed := fmt.Sprintf("%v %+v %#v %s %+v %+v %#v", c, c, c, *c, *c, p, p) + log.String()
	if strings.Contains(printed, "topsecret") {
		t.Error(printed)
	}
}
