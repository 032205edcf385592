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

// A silentDNS answers nothing until the caller gives up.
type silentDNS struct{ asked, atOnce, most atomic.Int32 }

func (d *silentDNS) LookupMX(ctx context.Context, _ string) ([]*net.MX, error) {
	d.asked.Add(1)
	if n := d.atOnce.Add(1); n > d.most.Load() {
		d.most.Store(n)
	}
	defer d.atOnce.Add(-1)
	<-ctx.Done()
	return nil, ctx.Err()
}

func (d *silentDNS) LookupNetIP(ctx context.Context, _, _ string) ([]netip.Addr, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestSilentDNS: more sessions than may ask wait for a DNS that says nothing.
// All are deferred in time, and never too many ask at once.
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
		if dns.most.Load() > maxLookups || dns.asked.Load() == 0 {
			t.Errorf("%d lookups, up to %d at once", dns.asked.Load(), dns.most.Load())
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

// A brokenDNS returns good records along with its complaint about bad ones, as
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
		{"one good record is enough", []*net.MX{good}, domainExists},
		{"none is no answer", nil, domainUnclear},
		{"a null MX stands alone", []*net.MX{null}, domainNullMX},
		{"and is none among others", []*net.MX{null, good}, domainExists},
	} {
		if got, err := (&Env{Resolver: brokenDNS{test.mx}}).forSet(Config{}).mailDomain(t.Context(), "example.org"); got != test.want {
			t.Errorf("%s: got %d, %v", test.name, got, err)
		}
	}
}
