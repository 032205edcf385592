package auth

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"postern/server/auth/hash"
	"postern/server/auth/throttle"
)

// The bounds that hold for every campaign against the server.
const (
	mostGuesses = 200              // examined for one account in any hour
	knownWait   = time.Second      // of users at addresses from which they have logged in
	newWait     = 15 * time.Second // of users at new networks
	maxRetry    = 10               // lines "auth failed" that ban an address: docs/fail2ban
)

// A campaign simulates clients in virtual time. They use the mechanism PLAIN of a Local with
// the real throttle and the real queue of a store, whose backend takes 100 ms for a password
// and has eight slots.
type campaign struct {
	t   *testing.T
	key hash.Key
	end time.Time

	mu       sync.Mutex
	throttle *throttle.Throttle
	local    Local
	running  context.Context // of the server, until a restart
	stop     context.CancelFunc
	hangs    bool                   // the store
	outage   bool                   // it hangs, or its slots are still in use
	target   string                 // an account of which a guesser can make the owner wait at a new network
	examined map[string][]time.Time // wrong passwords, by account
	failed   map[string]int         // lines "auth failed" of honest clients, by address
	logins   map[string]int         // successes of honest clients, by kind
	worst    map[string]time.Duration
	attempts int // of the attacker

	all sync.WaitGroup
}

// runCampaign runs the attack for so long after all users have logged in from home, and
// checks the bounds.
func runCampaign(t *testing.T, lasts time.Duration, attack func(*campaign)) {
	synctest.Test(t, func(t *testing.T) {
		c := &campaign{
			t: t, key: hash.NewKey(), end: time.Now().Add(lasts),
			examined: make(map[string][]time.Time), failed: make(map[string]int), logins: make(map[string]int), worst: make(map[string]time.Duration),
		}
		c.start(nil)
		for i := range campaignUsers {
			c.honest("known", home(i), user(i), time.Second)
		}
		for i := range campaignUsers {
			c.every(5*time.Minute, time.Duration(i)*time.Second, func(int) { c.honest("known", home(i), user(i), knownWait) })
			c.all.Go(func() { // once, in the course of the campaign
				time.Sleep(time.Duration(i+1) * lasts / (campaignUsers + 2))
				c.honest("new", fmt.Sprintf("172.16.%d.1", i), user(i), newWait)
			})
		}
		attack(c)
		c.all.Wait()
		c.stop()
		c.check()
	})
}

const campaignUsers = 50

func user(i int) string { return fmt.Sprint("user", i) }
func home(i int) string { return fmt.Sprintf("192.168.%d.1", i) }

// start starts a server with the saved state.
func (c *campaign) start(saved []byte) {
	store := NewStore(StoreSpec{
		Kind: "scripted", Backend: (*campaignStore)(c),
		Config: StoreConfig{Timeout: 10 * time.Second, Concurrency: 8},
	})
	limit := throttle.New(throttle.Config{MaxWait: 30 * time.Second})
	if err := limit.Load(c.key, saved); err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.throttle, c.local = limit, NewLocal(Chain{store}, limit, nil, Config{})
	c.running, c.stop = context.WithCancel(context.Background())
}

// restart ends all connections and starts the server again.
func (c *campaign) restart() {
	c.stop()
	time.Sleep(time.Second)
	c.start(c.throttle.Save())
}

// every calls f at once and then again at this interval until the end.
func (c *campaign) every(interval, offset time.Duration, f func(n int)) {
	c.all.Go(func() {
		time.Sleep(offset)
		for n := 0; time.Now().Before(c.end); n++ {
			f(n)
			time.Sleep(interval)
		}
	})
}

// campaignStore is the backend: the password of each user is "right".
type campaignStore campaign

func (s *campaignStore) VerifyPassword(ctx context.Context, _ *Peer, login, password string) (Identity, error) {
	s.mu.Lock()
	hangs := s.hangs
	s.mu.Unlock()
	if hangs {
		<-ctx.Done()
		return Identity{}, context.Cause(ctx)
	}
	select {
	case <-time.After(100 * time.Millisecond):
	case <-ctx.Done():
		return Identity{}, context.Cause(ctx)
	}
	if password == "right" && !strings.HasPrefix(login, "nobody") {
		return Identity{User: login}, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.examined[login] = append(s.examined[login], time.Now())
	return Identity{}, &Failure{Kind: BadPassword}
}

// logIn makes one attempt, as a session does, and returns its result.
func (c *campaign) logIn(ctx context.Context, addr, login, password string, report func(error)) error {
	c.mu.Lock()
	local, running := c.local, c.running
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 110*time.Second)
	defer cancel()
	defer context.AfterFunc(running, cancel)()
	peer := tlsPeer()
	peer.Remote = netip.AddrPortFrom(netip.MustParseAddr(addr), 50000)
	peer.Background = &Background{
		Context: running, Hold: func() func() { return func() {} },
		Report: func(_ Identity, err error) { report(err) },
	}
	x, err := local.Start(ctx, peer, "PLAIN")
	if err != nil {
		return err
	}
	defer x.Close()
	_, _, err = x.Next(ctx, []byte("\x00"+login+"\x00"+password))
	if !errors.Is(err, ErrPending) {
		report(err)
	}
	return err
}

// guess makes an attempt with a wrong password.
func (c *campaign) guess(addr, login, password string) error {
	c.mu.Lock()
	c.attempts++
	running := c.running
	c.mu.Unlock()
	if running.Err() != nil {
		time.Sleep(time.Second) // no server listens
	}
	return c.logIn(context.Background(), addr, login, password, func(error) {})
}

// honest logs in with the right password, and fails if that takes longer than the bound. A
// client that is interrupted by a restart, or while the store hangs, tries again later; it
// hangs up after 5 seconds.
func (c *campaign) honest(kind, addr, login string, bound time.Duration) {
	ctx, hangUp := context.WithCancel(context.Background())
	defer hangUp()
	c.mu.Lock()
	outage, running := c.outage, c.running
	c.mu.Unlock()
	if outage {
		time.AfterFunc(5*time.Second, hangUp)
	}
	start := time.Now()
	err := c.logIn(ctx, addr, login, "right", func(err error) {
		if asFailure(err) != nil {
			c.mu.Lock()
			c.failed[addr]++
			c.mu.Unlock()
		}
	})
	waited := time.Since(start)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err == nil && waited <= bound:
		c.logins[kind]++
		c.worst[kind] = max(c.worst[kind], waited)
	case kind == "new" && login == c.target && asFailure(err) == nil: // however long it has waited
	case outage || err != nil && (c.outage || running.Err() != nil):
	default:
		c.t.Errorf("%s client %s: %s waited %v: %v; want at most %v", kind, addr, login, waited, err, bound)
	}
}

// check checks the bounds that are not those of one client.
func (c *campaign) check() {
	worst, total := 0, 0
	for account, times := range c.examined {
		total += len(times)
		slices.SortFunc(times, time.Time.Compare)
		first, most := 0, 0
		for i, at := range times {
			for at.Sub(times[first]) >= time.Hour {
				first++
			}
			most = max(most, i-first+1)
		}
		worst = max(worst, most)
		if most > mostGuesses {
			c.t.Errorf("%d guesses for %s were examined within an hour, want at most %d", most, account, mostGuesses)
		}
	}
	for addr, lines := range c.failed {
		if lines >= maxRetry {
			c.t.Errorf("%s is honest, and would be banned after %d lines auth failed", addr, lines)
		}
	}
	if c.logins["new"] < campaignUsers*6/10 || c.logins["known"] < campaignUsers || total < 100 {
		c.t.Errorf("the campaign is too small: %d guesses were examined, %v logins of honest clients", total, c.logins)
	}
	c.t.Logf("%d attempts of the attacker, %d guesses examined, at most %d for one account in an hour; honest clients: %v logins, which waited at most %v",
		c.attempts, total, worst, c.logins, c.worst)
}

// The attacks. Each of them runs alone, over a restart, and while the store hangs.
var campaigns = []struct {
	name   string
	lasts  time.Duration
	attack func(*campaign)
}{
	{"botnet", 65 * time.Minute, botnet},
	{"botnet against one", 65 * time.Minute, botnetAgainstOne},
	{"patient botnet", 150 * time.Minute, patientBotnet},
	{"shared address", 30 * time.Minute, sharedAddress},
	{"thief", 65 * time.Minute, thief},
	{"unknown addresses", 6 * time.Minute, unknownAddresses},
}

func TestCampaign(t *testing.T) {
	for _, tt := range campaigns {
		t.Run(tt.name, func(t *testing.T) { runCampaign(t, tt.lasts, tt.attack) })
		t.Run(tt.name+" with a restart", func(t *testing.T) {
			runCampaign(t, tt.lasts, func(c *campaign) {
				tt.attack(c)
				c.all.Go(func() {
					time.Sleep(tt.lasts/2 + 30*time.Second)
					c.restart()
				})
			})
		})
		t.Run(tt.name+" while the store hangs", func(t *testing.T) {
			runCampaign(t, tt.lasts, func(c *campaign) {
				tt.attack(c)
				set := func(hangs, outage bool) {
					c.mu.Lock()
					defer c.mu.Unlock()
					c.hangs, c.outage = hangs, outage
				}
				c.all.Go(func() {
					time.Sleep(tt.lasts / 2)
					set(true, true)
					time.Sleep(2 * time.Minute)
					set(false, true)
					time.Sleep(20 * time.Second) // the questions of that time end
					set(false, false)
				})
			})
		})
	}
}

func botAddress(i int) string { return fmt.Sprintf("10.%d.%d.7", i/250, i%250) }

// botnet is 2,000 addresses in as many networks against all users. Each tries as often as the
// server lets it, but pauses for ten minutes after an attempt that was not examined.
func botnet(c *campaign) {
	for i := range 2000 {
		c.every(time.Second, time.Duration(i)*time.Millisecond, func(n int) {
			err := c.guess(botAddress(i), user((i+n)%campaignUsers), fmt.Sprint("guess", i, n))
			if asFailure(err) == nil {
				time.Sleep(10 * time.Minute)
			}
		})
	}
}

// botnetAgainstOne is the same botnet against one user. Its owner may have to wait at a new
// network, as long as there are more networks without failures than guesses in an hour.
func botnetAgainstOne(c *campaign) {
	c.target = user(0)
	for i := range 2000 {
		c.every(5*time.Minute, time.Duration(i)*time.Millisecond, func(n int) {
			_ = c.guess(botAddress(i), c.target, fmt.Sprint("guess", i, n))
		})
	}
}

// patientBotnet uses each of its addresses once, all at the same time, and again when its
// failures have been forgotten.
func patientBotnet(c *campaign) {
	for i := range 2000 {
		c.every(61*time.Minute, time.Minute, func(n int) {
			_ = c.guess(botAddress(i), user(i%campaignUsers), fmt.Sprint("guess", i, n))
		})
	}
}

// sharedAddress is a guesser at the address of 30 users: with the names of a list, and with
// nine guesses for each of those users.
func sharedAddress(c *campaign) {
	const office = "203.0.113.1"
	colleague := func(i int) string { return fmt.Sprint("colleague", i) }
	for i := range 30 {
		c.honest("office", office, colleague(i), time.Second)
		c.every(2*time.Minute, time.Duration(i)*time.Second, func(int) { c.honest("office", office, colleague(i), knownWait) })
	}
	for connection := range 4 {
		c.every(time.Second, 0, func(n int) {
			_ = c.guess(office, fmt.Sprint("nobody", n), fmt.Sprint("guess", connection, n))
			if n < 67 {
				_ = c.guess(office, colleague((4*n+connection)%30), fmt.Sprint("guess", connection, n))
			}
		})
	}
}

// thief has one account and 14 networks, from which two connections each alternate one
// success and nine wrong passwords of this account.
func thief(c *campaign) {
	for i := range 28 {
		c.every(0, 0, func(n int) {
			password := "right"
			if n%10 != 0 {
				password = fmt.Sprint("guess", i, n)
			}
			_ = c.guess(fmt.Sprintf("10.0.%d.1", i%14), "thief", password)
			time.Sleep(10 * time.Millisecond)
		})
	}
}

// unknownAddresses are 500 addresses with wrong passwords for logins that do not exist, as
// often as the server lets them.
func unknownAddresses(c *campaign) {
	for i := range 500 {
		c.every(10*time.Millisecond, 0, func(n int) {
			_ = c.guess(botAddress(i), fmt.Sprintf("nobody%d-%d", i, n), fmt.Sprint("guess", n))
		})
	}
}
