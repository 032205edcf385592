// Package fault tests what happens to each message when something that postern needs
// breaks while mail goes through it.
//
// Each test runs the real "postern serve" (built with the race detector), with its own
// folder and ports. Clients connect to it with TLS and record each reply; its next hop
// (package relaytest) keeps every message. A test ends with a [ledger], one line in the
// log of the test:
//
//	sent        different messages
//	attempts    submissions: a client repeats a message until it gets 250
//	got 250     messages for which postern has taken responsibility
//	arrived     messages that the hop has in full
//	lost        got 250 and did not arrive: must be 0
//	duplicates  copies at the hop after the first, with the reason for each; one without
//	            a reason fails the test
//	refused     attempts that got 4xx and 5xx
//	unanswered  attempts whose connection ended without a reply
//
// The tests:
//
//	hop          a next hop that misbehaves in each way at each stage
//	storage      a staging folder that is full, limited, closed or missing
//	descriptors  no file descriptors left
//	stores       user databases that accept connections and never reply
//	load         SIGHUP, SIGTERM and kill -9 under load, with and without a spool
//	clock        a clock that jumps
//
// Faults that concern only a store or the spool are tested with the real servers in
// package test, and in relay/spool.
//
// "go test ./..." runs all of it; README.md has the results of one run. To add a way in
// which a hop misbehaves, add a line to the table in hop_test.go.
package fault
