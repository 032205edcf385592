package fault

import (
	"fmt"
	"sync"
	"time"

	"postern/test/kit"
)

// A load are users who send one message after the other, each over one
// session for as long as that lasts. They submit a message until it is told
// 250, as a mail program would.
type load struct {
	server *server
	ledger *ledger
	stop   chan struct{}
	users  sync.WaitGroup
}

func startLoad(s *server, l *ledger, users int) *load {
	d := &load{server: s, ledger: l, stop: make(chan struct{})}
	for i := range users {
		d.users.Go(func() { d.send(i) })
	}
	return d
}

// finish lets each user bring what is under way to its end.
func (d *load) finish() {
	close(d.stop)
	d.users.Wait()
}

func (d *load) send(i int) {
	u := &sender{load: d, user: []string{"alice", "bob"}[i%2]}
	defer u.leave()
	for n := 0; ; n++ {
		select {
		case <-d.stop:
			return
		default:
			u.deliver(fmt.Sprintf("load-%d-%d", i, n))
		}
	}
}

// A sender is one user with his session, if there is one.
type sender struct {
	load   *load
	user   string
	client *client
}

func (u *sender) leave() {
	if u.client != nil {
		u.client.Close()
		u.client = nil
	}
}

// deliver gives up in the end: then the ledger has no 250.
func (u *sender) deliver(mark string) {
	for deadline := time.Now().Add(kit.Patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if u.client == nil {
			c, err := u.load.server.login(u.user)
			if err != nil {
				continue
			}
			u.client = c
		}
		r, err := u.load.ledger.submit(u.client, mark, u.user, 2000)
		switch {
		case err != nil || r.Code == 421:
			u.leave()
		case r.Code == 250:
			return
		}
	}
}
