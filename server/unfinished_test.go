package server

import (
	"encoding/base64"
	"testing"

	"postern/server/auth"
	"postern/server/auth/throttle"
	"postern/test/kit"
)

// A client that asks for the salts of logins and tries no password has one line in the log, however
// often it does so, and no penalty: the replies reveal nothing, and a phone may lose its network
// at this point.
func TestUnfinishedScram(t *testing.T) {
	d := newTestServer(t, defaultSettings())
	cfg := auth.Defaults()
	slow := throttle.New(cfg.Throttle())
	d.services.Store(&Services{Auth: auth.Local{Keys: fuzzStore{}, Scram: auth.NewScram(slow, nil)}, Hop: d.router})
	first := func(login string) string {
		return "AUTH SCRAM-SHA-256 " + base64.StdEncoding.EncodeToString([]byte("n,,n="+login+",r=abc"))
	}
	for i, end := range []string{"*", "", "YmFk"} {
		c := d.dial()
		if err := c.secure(); err != nil {
			t.Fatal(err)
		}
		c.must(t, "EHLO client.example.org", "250")
		c.must(t, first("nobody"), "334")
		if end == "" {
			c.raw.Close()
		} else {
			c.must(t, end, "501")
		}
		if i == 0 {
			kit.Eventually(t, "it is logged", func() bool {
				return d.log.Count(`msg="auth unfinished"`) == 1 && d.log.Count("user=nobody mech=SCRAM-SHA-256 count=1") == 1
			})
		}
	}
	c := d.dial()
	if err := c.secure(); err != nil {
		t.Fatal(err)
	}
	c.must(t, "EHLO client.example.org", "250")
	c.must(t, first("another"), "334")
	c.must(t, "Yz1iaXdzLHI9YWJjLHA9QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQT0=", "535") // a proof, without a delay
	if n := d.log.Count(`msg="auth unfinished"`); n != 1 {
		t.Errorf("%d lines, want one a minute", n)
	}
	if n := d.log.Count(`msg="auth failed"`); n != 1 {
		t.Errorf("%d failed logins, want that with a proof", n)
	}
}
