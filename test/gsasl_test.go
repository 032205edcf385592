package test

import (
	"context"
	"io"
	"net"
	"os/exec"
	"testing"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"postern/server/auth"
	"postern/test/kit"
)

// An authFront is an SMTP server that can do nothing but AUTH.
type authFront struct {
	provider auth.Provider
	client   *auth.Peer
	ctx      context.Context
	exchange *lastIdentity
}

// lastIdentity notes how an exchange ended.
type lastIdentity struct {
	auth.Exchange
	ctx context.Context
	id  auth.Identity
	err error
}

// Next implements sasl.Server for go-smtp.
func (x *lastIdentity) Next(response []byte) ([]byte, bool, error) {
	challenge, done, err := x.Exchange.Next(x.ctx, response)
	if done && err == nil {
		x.id = x.Identity()
	}
	x.err = err
	return challenge, done, err
}

func (f *authFront) NewSession(*smtp.Conn) (smtp.Session, error) { return f, nil }
func (f *authFront) AuthMechanisms() []string                    { return f.provider.Mechanisms(f.client) }
func (f *authFront) Mail(string, *smtp.MailOptions) error        { return smtp.ErrAuthRequired }
func (f *authFront) Rcpt(string, *smtp.RcptOptions) error        { return smtp.ErrAuthRequired }
func (f *authFront) Data(io.Reader) error                        { return smtp.ErrAuthRequired }
func (f *authFront) Reset()                                      {}
func (f *authFront) Logout() error                               { return nil }

func (f *authFront) Auth(mech string) (sasl.Server, error) {
	x, err := f.provider.Start(f.ctx, f.client, mech)
	if err != nil {
		return nil, err
	}
	f.exchange = &lastIdentity{Exchange: x, ctx: f.ctx}
	return f.exchange, nil
}

// gsaslLogin lets the client of GNU SASL authenticate by SMTP. Where the
// mechanism has the server prove itself, gsasl insists on it.
func gsaslLogin(t *testing.T, p auth.Provider, client *auth.Peer, mech, user, password string) (auth.Identity, error) {
	t.Helper()
	front := &authFront{provider: p, client: client, ctx: t.Context()}
	server := smtp.NewServer(front)
	server.Domain, server.AllowInsecureAuth = "mx.example.org", true
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error)
	go func() { served <- server.Serve(lis) }()
	ctx, cancel := context.WithTimeout(t.Context(), kit.Patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, "gsasl", "--smtp", "--no-starttls", "--no-cb", "--connect", lis.Addr().String(),
		"--mechanism", mech, "--realm", "", "--authentication-id", user, "--password", password).CombinedOutput()
	server.Close()
	<-served
	if front.exchange == nil {
		t.Fatalf("gsasl did not begin with %s: %v\n%s", mech, err, out)
	}
	defer front.exchange.Close()
	if front.exchange.err == nil && err != nil {
		t.Errorf("gsasl %s is not content: %v\n%s", mech, err, out)
	}
	return front.exchange.id, front.exchange.err
}
