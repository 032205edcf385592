// Package fault breaks whatever postern stands on while mail goes through it,
// and counts what became of each message.
//
// Every drill runs the real "postern serve" (built with the race detector) in
// a folder and on ports of its own. In front of it are clients that speak
// TLS and write down what they were told about every message; behind it is a
// next hop (package relaytest) that keeps every message it was given. A drill
// ends in a [ledger], one line in the log of the test:
//
//	sent        different messages
//	attempts    how often they were submitted: a client tries again until 250
//	told 250    messages that postern has taken responsibility for
//	arrived     messages that the hop has in full
//	lost        told 250 and not arrived: must be 0
//	duplicates  copies beyond the first at the hop, with the reason for each;
//	            one without a reason fails the drill
//	refused     attempts answered with 4xx and with 5xx
//	unanswered  attempts whose connection ended without an answer
//
// The drills:
//
//	hop          a next hop that misbehaves in each way at each stage
//	storage      a staging folder that is full, limited, closed or gone
//	descriptors  no file descriptors left
//	stores       user databases that accept and never answer
//	signals      SIGHUP and SIGTERM under load
//	kill         kill -9 under load, with the spool and without it
//	clock        a clock that jumps
//
// What a store or the spool has to survive by itself is drilled beside the
// real servers in package test, and in relay/spool.
//
// All of it runs with "go test ./..."; what was counted stands in README.md.
// To add a way for a hop to misbehave, add a line to the table in hop_test.go.
package fault
