package test

import (
	"fmt"
	"strings"
	"testing"

	"postern/test/kit"
)

// Postfix is away for longer than anybody is patient. The client gets its 250
// all the same, and Postfix gets the message, once, when it is back. All of it
// happens inside the sandbox. What survives a kill is for relay/spool to show.
func TestSpoolOutlastsPostfix(t *testing.T) {
	t.Parallel()
	folder := openFolder(t)
	kit.Own(t, folder)
	s := startSink(t)
	hop := startPostfix(t, s)
	p := startPostern(t, posternOptions{
		NextHop:  hop.URL,
		Sections: map[string]string{"relay": fmt.Sprintf("patience = \"1s\"\nspool = %q", folder)},
	})
	hop.stop(t)
	c := p.mustLogin(t, "alice")
	if err := accepted(c.submit(letter("spooled"), "alice@example.org", "carol@example.net")); err != nil {
		t.Fatal(err)
	}
	list := p.command(t, "queue", "list", "--config", p.file("config.toml"))
	if out, err := list.CombinedOutput(); err != nil || !strings.Contains(string(out), "<alice@example.org>") {
		t.Errorf("queue list: %v\n%s", err, out)
	}
	hop.start(t)
	if d := s.wait(t, "<spooled@"); d.From != "alice@example.org" {
		t.Errorf("it came from %q", d.From)
	}
	kit.Eventually(t, "an empty spool", func() bool {
		out, err := p.command(t, "queue", "list", "--config", p.file("config.toml")).Output()
		return err == nil && !strings.Contains(string(out), "alice@example.org")
	})
}
