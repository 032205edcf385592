package test

import (
	"context"
	"net"
	"os/exec"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"postern/server/auth"
	"postern/server/smtpd"
	"postern/test/kit"
)

// An authServer is an SMTP server that supports only AUTH: the handler, the session and
// the exchange of its only connection.
type authServer struct {
	smtpd.Session // nil: gsasl sends EHLO, AUTH and QUIT
	provider      auth.Provider
	client        *auth.Peer
	exchange      auth.Exchange
	id            auth.Identity
	err           error
}

func (s *authServer) NewSession(context.Context, *smtpd.Conn) (smtpd.Session, *smtpd.Reply) {
	return s, nil
}

func (s *authServer) Hello(context.Context, string, bool) *smtpd.Reply { return nil }
func (s *authServer) Offer() smtpd.Offer {
	return smtpd.Offer{Mechanisms: s.provider.Mechanisms(s.client)}
}
func (s *authServer) Refused(smtpd.Refusal) {}
func (s *authServer) Close(error)           {}

func (s *authServer) Auth(ctx context.Context, mechanism string) (smtpd.Exchange, *smtpd.Reply) {
	x, err := s.provider.Start(ctx, s.client, mechanism)
	if err != nil {
		s.err = err
		return nil, smtpd.NewReply(504, smtp.EnhancedCode{5, 5, 4}, err.Error())
	}
	s.exchange = x
	return authServerExchange{s}, nil
}

type authServerExchange struct{ *authServer }

func (x authServerExchange) Next(ctx context.Context, response []byte) ([]byte, *smtpd.Reply) {
	challenge, done, err := x.exchange.Next(ctx, response)
	x.err = err
	switch {
	case err != nil:
		return nil, smtpd.NewReply(535, smtp.EnhancedCode{5, 7, 8}, "refused")
	case done:
		x.id = x.exchange.Identity()
		return nil, smtpd.NewReply(235, smtp.EnhancedCode{2, 7, 0}, "Ok")
	}
	return challenge, nil
}

func (x authServerExchange) Close(error) { _ = x.exchange.Close() }

// gsaslLogin makes the client of GNU SASL authenticate by SMTP. gsasl checks the proof of
// the server, if the mechanism has one.
func gsaslLogin(t *testing.T, p auth.Provider, client *auth.Peer, mech, user, password string) (auth.Identity, error) {
	t.Helper()
	s := &authServer{provider: p, client: client}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	kit.Must(t, err)
	defer l.Close()
	served := make(chan struct{})
	go func() {
		defer close(served)
		if c, err := l.Accept(); err == nil {
			smtpd.Serve(t.Context(), c, patientProtocol(), s)
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), kit.Patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, "gsasl", "--smtp", "--no-starttls", "--no-cb", "--connect", l.Addr().String(),
		"--mechanism", mech, "--realm", "", "--authentication-id", user, "--password", password).CombinedOutput()
	_ = l.Close()
	<-served
	if s.exchange == nil {
		t.Fatalf("gsasl did not start %s: %v, %v\n%s", mech, err, s.err, out)
	}
	if s.err == nil && err != nil {
		t.Errorf("gsasl %s failed after a successful login: %v\n%s", mech, err, out)
	}
	return s.id, s.err
}

func patientProtocol() *smtpd.Config {
	patient := smtpd.Timeouts{Command: kit.Patience, Data: kit.Patience}
	return &smtpd.Config{
		Hostname: "mx.example.org", MaxErrors: 20, MaxJunk: 100, MaxLine: 16 << 10, PreAuth: patient, Normal: patient,
		LoginTime: time.Hour, ReplyTime: kit.Patience, WriteTime: kit.Patience,
	}
}
