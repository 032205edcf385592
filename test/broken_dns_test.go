package test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"postern/test/kit"
)

// dnsFixtures are the zones that doctor looks at.
var dnsFixtures = map[string]fixture{
	// knot RECORDS: a Knot DNS with the zone example.org; " | " separates the records. It
	// listens at {{dns}}.
	"knot": func(t *testing.T, s *setup, args []string) {
		peer(t, "knotd")
		address := kit.Addr(t)
		host, port, _ := strings.Cut(address, ":")
		dir := kit.OpenDir(t)
		write(t, dir+"/zone", "$ORIGIN example.org.\n$TTL 60\n@ SOA ns hostmaster 1 60 60 60 60\n@ NS ns\nns A 127.0.0.1\n"+
			strings.ReplaceAll(strings.Join(args, " "), " | ", "\n")+"\n")
		write(t, dir+"/conf", fmt.Sprintf("server:\n  listen: %s@%s\n  rundir: %q\ndatabase:\n  storage: %q\n"+
			"zone:\n  - domain: example.org\n    file: %q\n", host, port, dir, dir, dir+"/zone"))
		startDaemon(t, dir, daemon{args: []string{"knotd", "-c", dir + "/conf"}, stops: "TERM", ready: func() bool {
			answer, err := dns.Exchange(new(dns.Msg).SetQuestion("example.org.", dns.TypeSOA), address)
			return err == nil && len(answer.Answer) > 0
		}})
		s.values["dns"] = address
	},
}
