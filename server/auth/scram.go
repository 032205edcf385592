package auth

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	stdhash "hash"
	"strings"
	"sync/atomic"
	"unicode"
	"unicode/utf8"

	"github.com/xdg-go/scram"

	"postern/server/auth/hash"
	"postern/server/auth/throttle"
)

const scramProperties = MechanismMutualAuth

// A message with the longest names, each byte of which may be written as three, is
// shorter than maxScram.
const (
	maxScram = 8192 // bytes
	maxNonce = 512  // bytes, of the client's part
)

// Scram is the state of the mechanisms SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC
// 7677) that is common to all exchanges: the throttle, and the secret from which the fake
// keys of unknown users are derived. Make one for the life of the process. It may be used by
// many sessions at once.
type Scram struct {
	throttle *throttle.Throttle
	secret   []byte
}

// NewScram returns a Scram that checks proofs when t allows it. The fake keys are derived
// from secret, which should be random, of 32 bytes, and the same after a restart: with
// another secret the fake keys change, so a client that asks before and after the restart
// distinguishes them from real ones. Without a secret NewScram makes one.
func NewScram(t *throttle.Throttle, secret []byte) *Scram {
	s := &Scram{throttle: t, secret: bytes.Clone(secret)}
	if len(s.secret) == 0 {
		s.secret = make([]byte, 32)
		rand.Read(s.secret) // never fails: crypto/rand ends the process instead
	}
	return s
}

// fakeKeys returns keys for an unknown user: always the same for the same login and secret,
// and indistinguishable from real ones. No password matches them.
func (s *Scram) fakeKeys(d ScramDecoy) ScramKeys {
	derive := func(with func() stdhash.Hash, what string) []byte {
		h := hmac.New(with, s.secret)
		h.Write([]byte(what + "\x00" + d.Login))
		return h.Sum(nil)
	}
	salt := derive(sha512.New, "salt")
	return ScramKeys{ScramKeys: hash.ScramKeys{
		Salt:       salt[:min(d.SaltLength, len(salt))],
		Iterations: d.Iterations,
		StoredKey:  derive(sha256.New, "stored key"),
		ServerKey:  derive(sha256.New, "server key"),
	}}
}

// scramExchange is one exchange. xdg-go/scram parses the messages and checks the proof.
// This type checks what the library does not: that the channel binding matches the
// mechanism, strict base64, nonces, the authorization identity. It also makes the
// responses for unknown and known users indistinguishable.
type scramExchange struct {
	peer  *Peer
	scram *Scram
	keys  KeyStore
	mech  MechanismName
	plus  bool // SCRAM-SHA-256-PLUS was offered to this client

	next         func(*scramExchange, context.Context, []byte) ([]byte, error)
	conversation *scram.ServerConversation
	login        string
	account      ScramKeys
	refused      *Failure // why the keys are fake
	failed       error    // why there are no keys
	proved       Identity
	id           Identity
	unfinished   atomic.Pointer[string] // see unfinishedExchange
}

func startScram(l Local, p *Peer, name MechanismName) Exchange {
	return &scramExchange{
		peer: p, scram: l.Scram, keys: l.Keys, mech: name,
		plus: l.permits(mechScramPlus, scramProperties) && canBind(p),
		next: (*scramExchange).first,
	}
}

// Identity implements Exchange.
func (x *scramExchange) Identity() Identity { return x.id }

// Close implements Exchange. There is nothing to release.
func (x *scramExchange) Close() error { return nil }

// Unfinished implements unfinishedExchange.
func (x *scramExchange) Unfinished() *string { return x.unfinished.Load() }

// Next implements Exchange. Each step sets the one that follows; after an error there is
// none.
func (x *scramExchange) Next(ctx context.Context, response []byte) (challenge []byte, done bool, err error) {
	step := x.next
	x.next = nil
	if step == nil {
		return nil, false, ErrMalformed
	}
	challenge, err = step(x, ctx, response)
	switch {
	case errors.Is(err, ErrMalformed):
		return nil, false, ErrMalformed
	case err != nil:
		return nil, false, WithLogin(err, x.login)
	}
	return challenge, x.id != Identity{}, nil
}

// first handles the initial response, which is the client-first-message. RFC 4954,
// section 4: a client that sent none gets an empty challenge, once.
func (x *scramExchange) first(ctx context.Context, message []byte) ([]byte, error) {
	if message == nil {
		x.next = (*scramExchange).clientFirst
		return []byte{}, nil
	}
	return x.clientFirst(ctx, message)
}

// clientFirst returns the server-first-message, with the salt and the iterations.
func (x *scramExchange) clientFirst(ctx context.Context, message []byte) ([]byte, error) {
	binding, err := x.channelBinding(message)
	if err != nil {
		return nil, err
	}
	server, err := scram.SHA256.NewServer(func(login string) (scram.StoredCredentials, error) {
		return x.lookUp(ctx, login)
	})
	if err != nil {
		return nil, err
	}
	x.conversation = server.NewConversation()
	if binding.IsSupported() {
		x.conversation = server.NewConversationWithChannelBindingRequired(binding)
	}
	answer, err := x.conversation.Step(string(message))
	switch {
	case x.failed != nil:
		return nil, x.failed
	case err != nil:
		return nil, ErrMalformed // the library's text repeats the message
	}
	if f := precheckName("authorization identity", x.conversation.AuthzID()); f != nil {
		return nil, f
	}
	x.next = (*scramExchange).clientFinal
	x.unfinished.Store(&x.login)
	return []byte(answer), nil
}

// channelBinding checks what the library does not: that the gs2 header matches the
// mechanism, and the client's nonce. It returns the binding that the client demands.
func (x *scramExchange) channelBinding(message []byte) (none scram.ChannelBinding, err error) {
	fields := strings.Split(string(message), ",")
	if !isScram(message) || len(fields) < 4 || !isNonce(strings.TrimPrefix(fields[3], "r=")) {
		return none, ErrMalformed
	}
	name, named := strings.CutPrefix(fields[0], "p=")
	// RFC 5802, section 6: "p" requires -PLUS, and -PLUS requires "p".
	if named != (x.mech == mechScramPlus) {
		return none, ErrMalformed
	}
	// RFC 5802, section 6: the client supports channel binding, but has not seen -PLUS
	// in the list of mechanisms. An attacker may have removed it.
	if fields[0] == "y" && x.plus {
		return none, &Failure{Kind: Unknowable, Reason: "the client has not seen the offer of SCRAM-SHA-256-PLUS: " +
			"an attacker between client and server may have removed it"}
	}
	if !named {
		return none, nil
	}
	binding, err := bindingOf(x.peer, name)
	if err != nil {
		return none, &Failure{Kind: Unknowable, Reason: "asks for the channel binding " + logName(name), Err: err}
	}
	return binding, nil
}

// lookUp returns the keys of a user, real or fake. The fake ones are derived in any case,
// so that both take the same time.
func (x *scramExchange) lookUp(ctx context.Context, login string) (none scram.StoredCredentials, _ error) {
	x.login = login
	if login == "" {
		x.failed = ErrMalformed
		return none, x.failed
	}
	if f := precheckName("name", login); f != nil {
		x.failed = f
		return none, x.failed
	}
	fake := x.scram.fakeKeys(x.keys.ScramDecoy(login))
	keys, err := x.keys.ScramKeys(ctx, x.peer, login)
	switch f := asFailure(err); {
	case f != nil:
		keys, x.refused = fake, f
	case err != nil:
		x.failed = err
		return none, x.failed
	case keys.User == "":
		x.failed = &Unavailable{Store: keys.Store, Err: errNoUser}
		return none, x.failed
	}
	x.account = keys
	return scram.StoredCredentials{
		KeyFactors: scram.KeyFactors{Salt: string(keys.Salt), Iters: keys.Iterations},
		StoredKey:  keys.StoredKey,
		ServerKey:  keys.ServerKey,
	}, nil
}

// clientFinal checks the client-final-message, and returns the server-final-message with
// the server's proof. The client is logged in only after it has accepted that proof.
//
// The turn at the throttle ends with the check: while the client computes, other logins
// from its address do not wait for it. Proofs do not show whether a wrong password is
// repeated, so each wrong one counts as a new one.
func (x *scramExchange) clientFinal(ctx context.Context, message []byte) ([]byte, error) {
	if !isScram(message) || !isFinal(string(message)) {
		return nil, ErrMalformed
	}
	x.unfinished.Store(nil)
	var answer string
	q := Question{Throttle: x.scram.throttle, Peer: x.peer, Login: x.login}
	q.Ask = func(context.Context, *Peer) (id Identity, err error) {
		answer, err = x.checkProof(string(message))
		return Identity{User: x.account.User, As: x.account.User, Mechanism: string(x.mech), Store: x.account.Store}, err
	}
	id, err := q.Verify(ctx)
	if err != nil {
		return nil, err
	}
	if f := id.notAllowed(credentials{authzid: x.conversation.AuthzID(), login: x.login}); f != nil {
		return nil, f
	}
	x.proved, x.next = id, (*scramExchange).confirm
	return []byte(answer), nil
}

// checkProof returns the server-final-message if the proof is right. No proof is right
// for fake keys.
func (x *scramExchange) checkProof(message string) (string, error) {
	answer, err := x.conversation.Step(message)
	switch {
	case err != nil && answer == "":
		return "", ErrMalformed
	case x.refused != nil:
		return "", x.refused
	case err == nil:
		return answer, nil
	}
	f := &Failure{Kind: BadPassword, Store: x.account.Store}
	switch answer {
	case scram.ErrChannelBindingsDontMatch:
		f.Kind, f.Reason = Unknowable, "the channel binding is that of another connection: "+
			"an attacker may relay between client and server"
	case scram.ErrOtherError:
		f.Kind, f.Reason = Unknowable, "the nonce is that of another exchange"
	}
	return "", f
}

// confirm handles the client's empty response, with which it accepts the server's proof
// (RFC 5802, section 3).
func (x *scramExchange) confirm(_ context.Context, message []byte) ([]byte, error) {
	if len(message) > 0 {
		return nil, ErrMalformed
	}
	x.id = x.proved
	return nil, nil
}

// An unfinishedExchange is an exchange of SCRAM. Unfinished returns the login if the client has
// got the salt, and has not sent a proof of the form that SCRAM demands. It may be called
// while Next is running.
type unfinishedExchange interface{ Unfinished() *string }

// Unfinished reports whether the client has asked for the salt of a login, and has then tried no
// password, as one does that collects salts. It returns the login, made safe for a log line. x
// has ended.
func Unfinished(x Exchange) (login string, ok bool) {
	u, ok := x.(unfinishedExchange)
	if !ok || u.Unfinished() == nil {
		return "", false
	}
	return logName(*u.Unfinished()), true
}

func isScram(message []byte) bool {
	return len(message) <= maxScram && utf8.Valid(message) && !strings.ContainsFunc(string(message), unicode.IsControl)
}

// isNonce checks the form of RFC 5802, section 7: printable ASCII without comma, which
// ends the nonce.
func isNonce(nonce string) bool {
	return nonce != "" && len(nonce) <= maxNonce &&
		!strings.ContainsFunc(nonce, func(r rune) bool { return r <= ' ' || r > '~' })
}

// isFinal checks the form of RFC 5802, section 7:
//
//	client-final-message = "c=" base64 ",r=" nonce ["," extensions] ",p=" base64
//
// where the base64 is in canonical form, and the proof as long as a key.
func isFinal(message string) bool {
	fields := strings.Split(message, ",")
	binding, bound := strings.CutPrefix(fields[0], "c=")
	proof, proved := strings.CutPrefix(fields[len(fields)-1], "p=")
	if len(fields) < 3 || !bound || !proved || !strings.HasPrefix(fields[1], "r=") {
		return false
	}
	_, err := base64.StdEncoding.Strict().DecodeString(binding)
	decoded, errProof := base64.StdEncoding.Strict().DecodeString(proof)
	return err == nil && errProof == nil && len(decoded) == sha256.Size
}

// errNoBinding is the cause if the channel binding of a client is refused.
var errNoBinding = errors.New("this channel binding is not available on the connection")

// canBind reports whether SCRAM-SHA-256-PLUS can be offered: whether the connection has
// the channel binding that clients choose with its version of TLS. With TLS 1.3 that is
// tls-exporter (RFC 9266), with earlier versions tls-unique, the default of RFC 5802,
// section 6.1. A client that is offered -PLUS and supports only a binding that is refused
// cannot log in.
func canBind(p *Peer) bool {
	if p.TLS == nil || p.TLS.Version >= tls.VersionTLS13 {
		return p.TLS != nil
	}
	return tlsUnique(p.TLS) != nil
}

// bindingOf returns the channel binding that the client names in its gs2 header: the client
// chooses it (RFC 5802, section 6).
func bindingOf(p *Peer, name string) (scram.ChannelBinding, error) {
	switch kind := scram.ChannelBindingType(name); {
	// RFC 9266, section 3: with TLS 1.3. With TLS 1.2 it would require the same check as
	// tlsUnique, and clients use tls-unique.
	case kind == scram.ChannelBindingTLSExporter && p.TLS.Version >= tls.VersionTLS13:
		return scram.NewTLSExporterBinding(p.TLS)
	// RFC 5929, section 3.
	case kind == scram.ChannelBindingTLSUnique:
		if unique := tlsUnique(p.TLS); unique != nil {
			return scram.NewTLSUniqueBinding(unique), nil
		}
	// RFC 5929, section 4.
	case kind == scram.ChannelBindingTLSServerEndpoint && p.Certificate != nil:
		shown := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{p.Certificate}}
		return scram.NewTLSServerEndpointBinding(shown)
	}
	return scram.ChannelBinding{}, errNoBinding
}

// tlsUnique returns the channel binding tls-unique (RFC 5929, section 3), or nil if
// the connection has none that is safe: with TLS 1.3, for which it is not defined (RFC
// 8446, appendix C.5), and with TLS 1.2 without the extended master secret, where an
// attacker in the middle of two connections can give both the same binding (the triple
// handshake attack, RFC 7627, section 1).
//
// crypto/tls does not report whether the extended master secret is used, but it exports
// keying material only with it, unless GODEBUG=tlsunsafeekm=1 is set, and without it
// TLSUnique is nil on a resumed connection. Before the end of the handshake TLSUnique may
// be zeros.
func tlsUnique(s *tls.ConnectionState) []byte {
	if !s.HandshakeComplete || s.Version != tls.VersionTLS12 || len(s.TLSUnique) == 0 {
		return nil
	}
	if _, err := s.ExportKeyingMaterial(extendedMasterSecretProbe, nil, 1); err != nil {
		return nil
	}
	return s.TLSUnique
}

// extendedMasterSecretProbe is a label for keying material that is not used. RFC 5705,
// section 4 reserves labels that begin with EXPERIMENTAL for private use.
const extendedMasterSecretProbe = "EXPERIMENTAL postern extended master secret"
