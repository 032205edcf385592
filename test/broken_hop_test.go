package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postern/relay/relaytest"
	"postern/test/kit"
)

// hopFixtures are next hops: a Postfix of its own for what Postfix does, a script for the
// answers of others.
var hopFixtures = map[string]fixture{
	// postfix LINES: a Postfix with further lines of main.cf, separated by semicolons. It
	// also listens on [::1]:{{port6}}.
	"postfix": func(t *testing.T, s *setup, args []string) {
		p := newPostfix(t, startSink(t).port, append([]string{"inet_protocols = all"}, strings.Split(strings.Join(args, " "), "; ")...)...)
		port := kit.Port(t)
		master := filepath.Join(p.conf, "master.cf")
		text, err := os.ReadFile(master)
		kit.Must(t, err)
		write(t, master, fmt.Sprintf("[::1]:%d inet n - n - - smtpd\n127.0.0.1:%[1]d inet n - n - - smtpd\n%s", port, text))
		p.start(t)
		s.values["hop"], s.values["port6"] = p.URL, fmt.Sprint(port)
	},
	// script VERB REPLY: a hop that answers a command of this kind so
	"script": func(t *testing.T, s *setup, args []string) {
		h := relaytest.New(t, relaytest.Options{})
		h.Handle(func(c relaytest.Command) relaytest.Answer {
			if c.Verb == args[0] {
				return relaytest.Say(strings.Join(args[1:], " "))
			}
			return relaytest.Usual
		})
		s.values["hop"], s.values["hopaddr"] = h.URL(), strings.TrimPrefix(h.URL(), "smtp://")
	},
	// hosts LINES: postern sees these lines, separated by semicolons, as /etc/hosts
	"hosts": func(t *testing.T, s *setup, args []string) {
		s.write(t, "hosts", strings.ReplaceAll(strings.Join(args, " "), ";", "\n")+"\n")
		s.prefix = []string{"unshare", "--mount", "sh", "-c",
			`mount --bind "$0" /etc/hosts && exec setpriv --reuid nobody --regid nogroup --clear-groups -- "$@"`, s.file("hosts")}
		s.root = true
	},
}
