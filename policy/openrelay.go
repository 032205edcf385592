package policy

import "errors"

// OpenRelay is for a listener that does not require authentication. It returns
// nil if it is certain that nobody can send through it to anywhere for whom
// neither a login nor mynetworks vouches, or else the reason not to start.
//
// Postfix makes the same demand on smtpd_relay_restrictions and
// smtpd_recipient_restrictions, but is content with the names; here a list
// counts only if the restriction is reached and not under warn_if_reject.
func (s *Set) OpenRelay() error {
	for _, n := range s.cfg.MyNetworks {
		if tooWide(n) {
			return errors.New("mynetworks trusts a large part of the Internet, which makes an open relay: name the networks of your own clients")
		}
	}
	if s.cfg.Relay.stopStrangers() || s.cfg.Recipient.stopStrangers() {
		return nil
	}
	return errors.New("this would be an open relay: without require_auth one of the lists policy.relay and policy.recipient has to end in a working reject, defer, reject_unauth_destination or defer_unauth_destination, with no permit before it")
}

// stopStrangers tells whether the list certainly refuses mail from strangers
// to strangers.
func (l Words) stopStrangers() bool {
	for _, w := range l {
		switch says := w.entry().relaying; {
		case says == Permit:
			return false // also under warn_if_reject
		case says != Dunno && !w.Warn:
			return true
		}
	}
	return false
}
