// Bench compares postern with other submission servers and with two floors: on
// the same machine, in the same run, with the same work.
//
// It starts one server after the other in a control group, drives it with a
// closed loop of clients over loopback, and divides the CPU time that the group
// has used by the number of messages. That figure includes all processes of a
// server, also those that have ended, and holds on a busy machine, where rates
// do not. The next hop is Postfix's smtp-sink. It and the clients are outside
// the group.
//
// servers.go has the table of servers, scenarios.go the one of scenarios; to add
// one, add a row. README.md explains how to run it and has the results.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) == 4 && floors[os.Args[1]] != nil { // started by startFloor
		exit(serveFloor(floors[os.Args[1]], os.Args[2], os.Args[3]))
	}
	// SIGPIPE means that the reader of the output has ended: clean up then, too.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGPIPE)
	defer stop()
	exit(run(ctx, parseFlags()))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// options is the command line.
type options struct {
	postern   string
	servers   []string
	scenarios []string
	rounds    int
	keep      bool
	load      load
}

func parseFlags() options {
	var o options
	var servers, scenarios string
	flag.StringVar(&o.postern, "postern", "", "`path` of the postern under test; without it postern is not measured")
	flag.StringVar(&servers, "servers", strings.Join(serverNames(), ","), "servers to measure")
	flag.StringVar(&scenarios, "scenarios", strings.Join(scenarioNames(), ","), "scenarios to run")
	flag.IntVar(&o.rounds, "rounds", 3, "rounds of each scenario except S4 and S6, which have one; the result is the median")
	flag.DurationVar(&o.load.time, "time", 5*time.Second, "length of a round")
	flag.IntVar(&o.load.many, "crowd", 2000, "clients of S4 and S6")
	flag.BoolVar(&o.load.hybrid, "hybrid", false, "clients offer X25519MLKEM768 before X25519 (not every peer supports it)")
	flag.BoolVar(&o.load.resume, "resume", false, "clients resume their TLS session, as most clients do")
	flag.BoolVar(&o.keep, "keep", false, "keep the folder with configurations and logs")
	flag.Parse()
	o.servers, o.scenarios = strings.Split(servers, ","), strings.Split(scenarios, ",")
	return o
}

func run(ctx context.Context, o options) error {
	s, err := newSite(ctx, o.postern)
	if err != nil {
		return err
	}
	defer s.close(o.keep)
	var r report
	for _, sc := range scenarios {
		for _, sv := range servers {
			if ctx.Err() == nil && o.wants(sc, sv) {
				r.add(sc, sv, measureAll(ctx, s, sv, sc, o))
			}
		}
	}
	r.write(os.Stdout) // after an interruption, the rounds that are complete
	return context.Cause(ctx)
}

func (o options) wants(sc scenario, sv server) bool {
	return slices.Contains(o.scenarios, sc.name) && slices.Contains(o.servers, sv.name) && sc.fits(sv) &&
		(!sv.postern || o.postern != "")
}

// measureAll runs the rounds of one server in one scenario. If a round fails it prints the
// error and returns the rounds before, so that the other servers are still measured.
func measureAll(ctx context.Context, s *site, sv server, sc scenario, o options) []measure {
	var all []measure
	rounds := o.rounds
	if sc.once {
		rounds = 1
	}
	for range rounds {
		begun := time.Now()
		m, err := round(ctx, s, sv, sc, o.load)
		if err != nil {
			fmt.Fprintf(os.Stderr, "%-4s %-22s %v\n", sc.name, sv.name, err)
			break
		}
		fmt.Fprintf(os.Stderr, "%-4s %-22s %v (%.0f s)\n", sc.name, sv.name, m, time.Since(begun).Seconds())
		all = append(all, m)
	}
	return all
}

// round starts the server, waits for its greeting, and measures it once. When ctx ends it
// kills the server; then the clients fail, which ends the round.
func round(ctx context.Context, s *site, sv server, sc scenario, l load) (m measure, err error) {
	c, err := newCgroup(fmt.Sprintf("postern-bench-%d", os.Getpid()))
	if err != nil {
		return measure{}, err
	}
	defer func() { err = errors.Join(err, c.destroy()) }()
	defer context.AfterFunc(ctx, c.kill)()
	addr, err := sv.start(s, c)
	if err != nil {
		return measure{}, err
	}
	t := &target{addr: addr, tls: s.clientTLS(l), bare: sv.bare}
	if err := t.await(ctx, 20*time.Second); err != nil {
		return measure{}, fmt.Errorf("the server did not start: %w (-keep keeps its log)", err)
	}
	m, err = sc.run(&trial{ctx: ctx, site: s, cgroup: c, target: t, load: l})
	if l.hybrid || l.resume {
		m.remark = strings.TrimPrefix(m.remark+"; "+t.handshakes.String(), "; ")
	}
	return m, errors.Join(context.Cause(ctx), err)
}
