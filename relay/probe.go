package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/emersion/go-smtp"
)

// maxProbed is how many addresses of a hop's name Probe asks.
const maxProbed = 8

// An Answer is how a hop answers at one of its addresses.
type Answer struct {
	Address string     // HOST:PORT, or the path of a socket
	Own     netip.Addr // the address of this machine that the hop sees; invalid for a socket
	Caps    Caps

	// Err is why no message could be sent at all: the connection or what precedes MAIL
	// failed, or the hop wants a login or TLS. It contains the cause; Step is what to do
	// about it.
	Err  error
	Step string

	// Refused are the hop's refusals of commands, in their order.
	Refused []Refused
}

// Probe asks the hop how it would answer a message from one sender to each of the
// recipients, with the commands EHLO, MAIL, RCPT and RSET, so that nothing is sent. The name
// of the hop can have several addresses, and the hop may trust some of this machine's
// addresses only, so each address gets the commands. The length of the slice is at least one.
//
// An address to which nothing answers is left out if another one answers: a connection for
// a message would use that one.
func (h *Hop) Probe(ctx context.Context, from string, to ...string) []Answer {
	// A hop may allow one connection only, so the one that maintain has made must not stay.
	select {
	case h.probing <- struct{}{}:
		defer func() { <-h.probing }()
	case <-ctx.Done():
	}
	h.pool.drain()
	addresses, err := h.pool.peer.addresses(ctx)
	if err != nil {
		return []Answer{{Address: h.pool.peer.url.Address, Err: err, Step: h.pool.peer.advice(err)}}
	}
	var answers, unreachable []Answer
	for _, address := range addresses {
		a := h.pool.peer.probe(ctx, address, len(addresses), from, to)
		if op, ok := errors.AsType[*net.OpError](a.Err); ok && op.Op == "dial" {
			unreachable = append(unreachable, a)
			continue
		}
		if a.Err == nil {
			h.answered(a.Caps)
		}
		answers = append(answers, a)
	}
	if len(answers) == 0 {
		return unreachable[:1]
	}
	return answers
}

// addresses returns what the hop's address is resolved to, at least one.
func (p *peer) addresses(ctx context.Context) ([]string, error) {
	host, port, err := net.SplitHostPort(p.url.Address)
	if p.url.Network() == "unix" || err != nil {
		return []string{p.url.Address}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, p.cfg.ConnectTimeout)
	defer cancel()
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, ip := range ips[:min(len(ips), maxProbed)] {
		all = append(all, net.JoinHostPort(ip.Unmap().String(), port))
	}
	return all, nil
}

// probe asks the hop at one of so many addresses. One that does not answer must not use up
// the time of the others.
func (p *peer) probe(ctx context.Context, address string, addresses int, from string, to []string) Answer {
	a := Answer{Address: address}
	c, err := p.openAt(ctx, address, p.cfg.ConnectTimeout/time.Duration(addresses))
	if err != nil {
		a.Err, a.Step = err, p.advice(err)
		return a
	}
	defer c.quit()
	if tcp, ok := c.raw.LocalAddr().(*net.TCPAddr); ok {
		a.Own = tcp.AddrPort().Addr().Unmap()
	}
	a.Caps = c.caps
	if a.Err = c.ask(ctx, &a, from, to); a.Err != nil {
		a.Step = p.advice(a.Err)
	}
	return a
}

// ask sends MAIL and each RCPT and adds the refusals to a. Its error is about the
// connection.
func (c *conn) ask(ctx context.Context, a *Answer, from string, to []string) error {
	mail, envelope := fmt.Sprintf("MAIL FROM:<%s>", from), &smtp.MailOptions{}
	for _, address := range to {
		r, err := newRecipient(address, nil, false)
		if err != nil {
			return err
		}
		if !c.open {
			err = c.mail(ctx, from, envelope)
		}
		if err == nil {
			err = c.rcpt(ctx, r)
		}
		e, refused := errors.AsType[*smtp.SMTPError](err)
		switch {
		case refused && !c.open: // the sender: no recipient can follow
			a.refuse(c.peer, mail, e)
			return c.reset(ctx)
		case refused:
			a.refuse(c.peer, fmt.Sprintf("RCPT TO:<%s>", address), e)
		case err != nil:
			return err
		}
	}
	return c.reset(ctx)
}

func (a *Answer) refuse(p *peer, command string, reply *smtp.SMTPError) {
	r := Refused{Command: command, Reply: quote(reply)}
	line, _, _ := strings.Cut(reply.Message, "\n")
	first := *reply
	first.Message = line
	p.explain(&r, quote(&first), a.Own)
	a.Refused = append(a.Refused, r)
}
