package main

import (
	"errors"
	"fmt"
	"net"
	"strconv"

	"postern/server"
)

// demoPorts are the two ports of the demo and the addresses that go with them.
type demoPorts struct {
	Submission, Submissions int
	Why                     string // why not 587 and 465; empty if it is these
}

// choosePorts takes 587 and 465, or else both with a thousand added, two
// thousand, and so on: the first pair that this user may have on loopback.
func choosePorts() (demoPorts, error) {
	var first error
	for offset := 0; offset < 60_000; offset += 1000 {
		p := demoPorts{Submission: 587 + offset, Submissions: 465 + offset}
		err := errors.Join(tryListen(p.submissionAddresses()), tryListen(p.submissionsAddresses()))
		if err == nil {
			return p.explained(first), nil
		}
		if first == nil {
			first = err
		}
	}
	return demoPorts{}, fmt.Errorf("no free ports on loopback: %w", first)
}

func (p demoPorts) explained(err error) demoPorts {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	if err != nil {
		p.Why = fmt.Sprintf("(The ports 587 and 465 are not to be had: %v.)", err)
	}
	return p
}

func (p demoPorts) submissionAddresses() []string  { return loopback(p.Submission) }
func (p demoPorts) submissionsAddresses() []string { return loopback(p.Submissions) }

func (p demoPorts) listeners() []server.Listener {
	submission, submissions := server.NewListener(), server.NewListener()
	submission.Name, submission.Address = "submission", p.submissionAddresses()
	submissions.Name, submissions.Address, submissions.Mode = "submissions", p.submissionsAddresses(), server.TLS
	return []server.Listener{submission, submissions}
}

// loopback gives the addresses that a client on this machine can mean with
// "localhost" and nobody else can reach.
func loopback(port int) []string {
	number := strconv.Itoa(port)
	addresses := []string{net.JoinHostPort("127.0.0.1", number)}
	if tryListen([]string{"[::1]:0"}) == nil {
		addresses = append(addresses, net.JoinHostPort("::1", number))
	}
	return addresses
}

// tryListen binds all addresses for a moment. Somebody else may take them
// before the server does; the server then says so.
func tryListen(addresses []string) error {
	for _, a := range addresses {
		l, err := net.Listen("tcp", a)
		if err != nil {
			return err
		}
		if err := l.Close(); err != nil {
			return err
		}
	}
	return nil
}
