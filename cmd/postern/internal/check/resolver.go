package check

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"postern/cmd/postern/internal/config"
)

// resolverTime bounds the wait for the resolver. Go asks it twice, for 5 s each.
const resolverTime = 12 * time.Second

// resolver checks that the resolver answers, if restrictions ask the DNS for domains of
// messages. Any answer will do.
func (c *checker) resolver(ctx context.Context) {
	asks := func(l config.Listener) bool { return l.Policy.AsksDNS() }
	if c.opts.Offline || !slices.ContainsFunc(c.cfg.Listeners, asks) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, resolverTime)
	defer cancel()
	_, origin := c.cfg.Server.Names()
	_, err := net.DefaultResolver.LookupMX(ctx, strings.TrimSuffix(origin, ".")+".")
	c.resolverFailed(err)
}

// resolverFailed reports an error that means that the resolver has not answered, and returns
// false for another error. A failure that several parts of the set-up meet is one entry.
func (c *checker) resolverFailed(err error) bool {
	e, ok := errors.AsType[*net.DNSError](err)
	const servfail = "server misbehaving" // the resolver has answered
	if !ok || e.IsNotFound || strings.Contains(e.Err, servfail) {
		return false
	}
	which := "the resolver in /etc/resolv.conf"
	if e.Server != "" && !e.IsTimeout { // of a timeout, Go names the last server or none
		which = "the resolver " + e.Server
	}
	c.report.Fail("resolver", fmt.Errorf("%s does not answer: %s\nname a resolver that works in /etc/resolv.conf (in a container: --dns)", which, e.Err))
	return true
}
