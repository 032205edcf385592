package policy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A silentDNS never answers; a lookup ends when its context does.
type silentDNS struct{ lookups, now, most atomic.Int32 }

func (d *silentDNS) LookupMX(ctx context.Context, _ string) ([]*net.MX, error) {
	d.lookups.Add(1)
	if n := d.now.Add(1); n > d.most.Load() {
		d.most.Store(n)
	}
	defer d.now.Add(-1)
	<-ctx.Done()
	return nil, ctx.Err()
}

func (d *silentDNS) LookupNetIP(ctx context.Context, _, _ string) ([]netip.Addr, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestSilentDNS: with more lookups than are allowed at once, and no answers, all requests are
// deferred in time, and the limit is kept.
func TestSilentDNS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dns := &silentDNS{}
		set, err := NewSet(Config{Sender: Words{{Name: "reject_unknown_sender_domain"}}, Recipient: Words{{Name: "permit"}}}, &Env{Resolver: dns})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		var all sync.WaitGroup
		for range 2 * maxLookups {
			all.Go(func() {
				v := set.AtRcpt(t.Context(), &Request{Sender: "alice@example.org", Recipient: "bob@example.net"})
				if v.Action != Defer || v.Reply.Code != 450 || !errors.Is(v.Cause, context.DeadlineExceeded) {
					t.Errorf("got action %d, reply %v, cause %v", v.Action, v.Reply, v.Cause)
				}
			})
		}
		all.Wait()
		if took := time.Since(began); took > lookupTimeout {
			t.Errorf("took %v", took)
		}
		if dns.most.Load() > maxLookups || dns.lookups.Load() == 0 {
			t.Errorf("%d lookups, up to %d at once", dns.lookups.Load(), dns.most.Load())
		}
	})
}

func TestCancelledLookup(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	d := (&Env{Resolver: &silentDNS{}}).forSet(Config{})
	if state, err := d.mailDomain(ctx, "example.org"); state != domainUnclear || !errors.Is(err, context.Canceled) {
		t.Errorf("got %d, %v", state, err)
	}
}

// A brokenDNS returns the valid records together with an error about invalid ones, as
// *net.Resolver does.
type brokenDNS struct{ good []*net.MX }

func (d brokenDNS) LookupMX(context.Context, string) ([]*net.MX, error) {
	return d.good, &net.DNSError{Err: "DNS response contained records which contain invalid names"}
}

func (d brokenDNS) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return nil, nil
}

func TestBrokenAnswers(t *testing.T) {
	good := &net.MX{Host: "mail.example.org."}
	null := &net.MX{Host: "."}
	for _, test := range []struct {
		name string
		mx   []*net.MX
		want domainState
	}{
		{"one valid record is enough", []*net.MX{good}, domainExists},
		{"an error without records", nil, domainUnclear},
		{"a null MX", []*net.MX{null}, domainNullMX},
		{"a null MX among others", []*net.MX{null, good}, domainExists},
	} {
		if got, err := (&Env{Resolver: brokenDNS{test.mx}}).forSet(Config{}).mailDomain(t.Context(), "example.org"); got != test.want {
			t.Errorf("%s: got %d, %v", test.name, got, err)
		}
	}
}
