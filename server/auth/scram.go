package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/xdg-go/scram"

	"postern/server/auth/throttle"
)

const scramProperties = MechanismMutualAuth

// A message with the longest names, each byte of which may be written as three, is
// shorter than maxScram.
const (
	maxScram = 8192 // bytes
	maxNonce = 512  // bytes, of the client's part
)

// Scram is what the mechanisms SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802,
// RFC 7677) have beside their keys: the Throttle, and the secret of which the fake
// keys of unknown users are made. Make one for the life of the process: otherwise a
// client that asks before and after a reload can distinguish real users from
// others, whose keys change. It may be
// used by many sessions at once.
type Scram struct {
	throttle *throttle.Throttle
	secret   []byte
}

// NewScram returns a Scram whose proofs are checked when t gives them their turn.
func NewScram(t *throttle.Throttle) *Scram {
	s := &Scram{throttle: t, secret: make([]byte, 32)}
	rand.Read(s.secret) // never fails: crypto/rand ends the process instead
	return s
}

// scramExchange is one conversation. The messages are read and the proof is
// checked by xdg-go/scram; what that leaves open is closed here: which mechanism
// goes with which channel binding, strict base64, nonces, the authorization
// identity; and responses for unknown and known users are indistinguishable.
type scramExchange struct {
	peer  *Peer
	scram *Scram
	keys  KeyStore
	mech  MechanismName
	plus  bool // -PLUS was offered to this client

	next         func(*scramExchange, context.Context, []byte) ([]byte, error)
	conversation *scram.ServerConversation
	login        string
	account      ScramKeys
	refused      *Failure // why the keys are fake
	failed       error    // why there are none
	proved       Identity
	id           Identity
}

func startScram(l Local, p *Peer) Exchange {
	return newScramExchange(l, p, mechScram)
}

func startScramPlus(l Local, p *Peer) Exchange {
	return newScramExchange(l, p, mechScramPlus)
}

func newScramExchange(l Local, p *Peer, mech MechanismName) *scramExchange {
	return &scramExchange{
		peer: p, scram: l.Scram, keys: l.Keys, mech: mech,
		plus: l.permits(mechScramPlus, scramProperties) && canBind(p),
		next: (*scramExchange).begin,
	}
}

// Identity implements Exchange.
func (x *scramExchange) Identity() Identity { return x.id }

// Close implements Exchange. There is nothing to release.
func (x *scramExchange) Close() error { return nil }

// Next implements Exchange. Each step names the one that follows; one that
// fails has none.
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
		return nil, false, withLogin(err, x.login)
	}
	return challenge, x.id != Identity{}, nil
}

// RFC 4954, section 4: a client that sent no initial response gets an empty
// challenge and one chance.
func (x *scramExchange) begin(ctx context.Context, response []byte) ([]byte, error) {
	if response != nil {
		return x.first(ctx, response)
	}
	x.next = (*scramExchange).first
	return []byte{}, nil
}

// first takes the client-first-message, and answers with salt and iterations.
func (x *scramExchange) first(ctx context.Context, message []byte) ([]byte, error) {
	binding, err := x.bindingFor(message)
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
		return nil, ErrMalformed // the library's own text repeats the message
	}
	if f := precheckName("authorization identity", x.conversation.AuthzID()); f != nil {
		return nil, f
	}
	x.next = (*scramExchange).final
	return []byte(answer), nil
}

// bindingFor reads what the library is indifferent to: the gs2 header in the light
// of the mechanism, and the client's nonce.
func (x *scramExchange) bindingFor(message []byte) (none scram.ChannelBinding, err error) {
	fields := strings.Split(string(message), ",")
	if !isScram(message) || len(fields) < 4 || !isNonce(strings.TrimPrefix(fields[3], "r=")) {
		return none, ErrMalformed
	}
	name, named := strings.CutPrefix(fields[0], "p=")
	// RFC 5802, section 6: "p" goes with -PLUS, and -PLUS with "p".
	if named != (x.mech == mechScramPlus) {
		return none, ErrMalformed
	}
	// RFC 5802, section 6: the client could bind and has not seen that we can.
	// Somebody in between has changed the list of mechanisms.
	if fields[0] == "y" && x.plus {
		return none, &Failure{Kind: Unknowable, Reason: "the client has not seen the offer of SCRAM-SHA-256-PLUS: somebody may sit in between"}
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

// lookUp finds the keys of a user, real or fake. The fake ones are made in any
// case, so that both take the same time.
func (x *scramExchange) lookUp(ctx context.Context, login string) (scram.StoredCredentials, error) {
	x.login = login
	switch f := precheckName("name", login); {
	case login == "":
		x.failed = ErrMalformed
		return scram.StoredCredentials{}, x.failed
	case f != nil:
		x.failed = f
		return scram.StoredCredentials{}, x.failed
	}
	fake := x.scram.fakeKeys(x.keys.ScramDecoy(login))
	keys, err := x.keys.ScramKeys(ctx, login)
	switch f := asFailure(err); {
	case f != nil:
		keys, x.refused = fake, f
	case err != nil:
		x.failed = err
		return scram.StoredCredentials{}, x.failed
	case keys.User == "":
		x.failed = &Unavailable{Store: keys.Store, Err: errNoUser}
		return scram.StoredCredentials{}, x.failed
	}
	x.account = keys
	return scram.StoredCredentials{
		KeyFactors: scram.KeyFactors{Salt: string(keys.Salt), Iters: keys.Iterations},
		StoredKey:  keys.StoredKey,
		ServerKey:  keys.ServerKey,
	}, nil
}

// final takes the client-final-message, and answers with our own proof. The
// client is in only when it has agreed to that.
func (x *scramExchange) final(ctx context.Context, message []byte) ([]byte, error) {
	if !isScram(message) || !isFinal(string(message)) {
		return nil, ErrMalformed
	}
	answer, err := x.whenItsTurn(ctx, func() (string, error) { return x.prove(string(message)) })
	if err != nil {
		return nil, err
	}
	id := Identity{User: x.account.User, As: x.account.User, Mechanism: string(x.mech), Store: x.account.Store}
	if f := id.notAllowed(credentials{authzid: x.conversation.AuthzID(), login: x.login}); f != nil {
		return nil, f
	}
	x.proved, x.next = id, (*scramExchange).confirm
	return []byte(answer), nil
}

// whenItsTurn calls check when the throttle gives the login its turn. The turn ends
// with the check: while the client computes, other logins from its address do not
// wait for it. Proofs do not show whether a wrong password is repeated, so each
// wrong one counts as a new one.
func (x *scramExchange) whenItsTurn(ctx context.Context, check func() (string, error)) (answer string, err error) {
	attempt, err := x.scram.throttle.Acquire(ctx, x.peer.Remote.Addr(), x.login)
	if err != nil {
		return "", err
	}
	var outcome throttle.Outcome // undecided, if check panics
	defer func() { attempt.Done(outcome) }()
	answer, err = check()
	outcome = OutcomeOf(err, x.account.User, "")
	return answer, err
}

// prove checks the proof. For fake keys nothing is proof.
func (x *scramExchange) prove(message string) (string, error) {
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
		f.Kind, f.Reason = Unknowable, "the channel binding is that of another connection: somebody may sit in between"
	case scram.ErrOtherError:
		f.Kind, f.Reason = Unknowable, "the nonce is that of another exchange"
	}
	return "", f
}

// confirm takes the client's empty answer: it has found our proof to be right
// (RFC 5802, section 3).
func (x *scramExchange) confirm(_ context.Context, message []byte) ([]byte, error) {
	if len(message) > 0 {
		return nil, ErrMalformed
	}
	x.id = x.proved
	return nil, nil
}

func isScram(message []byte) bool {
	return len(message) <= maxScram && utf8.Valid(message) && !strings.ContainsFunc(string(message), unicode.IsControl)
}

// RFC 5802, section 7: printable ASCII. The comma ends it.
func isNonce(nonce string) bool {
	return nonce != "" && len(nonce) <= maxNonce &&
		!strings.ContainsFunc(nonce, func(r rune) bool { return r <= ' ' || r > '~' })
}

// RFC 5802, section 7:
//
//	client-final-message = "c=" base64 ",r=" nonce ["," extensions] ",p=" base64
//
// where each base64 is the only one of its bytes, and the proof as long as a key.
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
