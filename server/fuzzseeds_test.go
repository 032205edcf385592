package server

import (
	"slices"
	"strings"
)

// fuzzLines are commands.
var fuzzLines = []string{
	"EHLO client.example.org", "HELO client.example.org", "EHLO", "NOOP", "RSET", "VRFY alice", "HELP", "QUIT", "",
	"STARTTLS", "STARTTLS x", "starttl\u017f", "LHLO x", "XCLIENT ADDR=127.0.0.1 LOGIN=alice", "GET / HTTP/1.0", "FOOO", "AUTH", "AUTH X", "AUTH PLAIN",
	"MAIL FROM:<alice@example.org>", "MAIL FROM:<bob@example.org>", "MAIL FROM:<>", "mail from:<ALICE@example.org>", "MAIL FROM:alice@example.org",
	"MAIL FROM:<alice@example.org> SIZE=100", "MAIL FROM:<alice@example.org> SIZE=99999999", "MAIL FROM:<alice@example.org> BODY=8BITMIME SMTPUTF8",
	"MAIL FROM:<alice@example.org> RET=HDRS ENVID=x+0D+0Ay AUTH=<>", "MAIL FROM:<alice@example.org> BODY=BINARYMIME", "MAIL FROM:<guest@example.net>",
	"MAIL FROM:<alice@example.org>\r", "MAIL FROM:<\"alice@example.org>\r\nRCPT TO:<x\"@example.org>",
	"RCPT TO:<carol@example.com>", "RCPT TO:<carol@example.net>", "RCPT TO:<dave@nodot>", "RCPT TO:<nobody@example.com>", "RCPT TO:<later@example.com>",
	"RCPT TO:<carol@example.com> NOTIFY=NEVER ORCPT=rfc822;x@y.z", "RCPT TO:<carol%example.com@example.net>", "RCPT TO:<@example.net:carol@example.com>",
	"RCPT TO:<\"carol>\x00\"@example.com>", "RCPT TO:<k\u00e4the@example.com>", "RCPT TO:<carol@[192.0.2.1]>", "RCPT TO:<gone@example.com>", "RCPT TO:carol@example.com",
	"DATA", "DATA x", "BDAT", "BDAT 0", "BDAT 0 LAST", "BDAT 5 LAST", "BDAT -1", "BDAT 99999999999", "BDAT 200000", "BDAT 5 FIRST", "bdat 5 last", "BDAT  5  LAST", "BDAT\t5", ".",
	"  NOOP", "\tRSET", " ", "NOOP\tx", "HELO", "EHLO\tclient.example.org", "EHLO client.example.org more", "vrfy", "EXPN x", "MAIL", "RCPT", "QUIT now",
	"MAIL FROM: <alice@example.org>", "MAIL\tFROM:<alice@example.org>", "MAIL FROM:alice", "MAIL FROM:<alice>", "MAIL FROM:Alice <alice@example.org>",
	"MAIL FROM:\"Alice A.\" <alice@example.org>", "MAIL FROM:<alice@example.org> (Alice)", "MAIL FROM:<<alice@example.org>>", "MAIL FROM:<alice@example.org.>",
	"MAIL FROM:< alice@example.org >", "MAIL FROM:<\"alice@example.org\">", "MAIL FROM:alice@example.org SIZE=100 BODY=7BIT", "MAIL FROM:", "MAIL FROM:<", "MAIL FROM", "MAIL alice@example.org",
	"MAIL FROM:<alice@example.org> AUTH=alice@example.org", "MAIL FROM:<alice@example.org> AUTH=<alice@example.org>", "MAIL FROM:<alice@example.org> AUTH=", "MAIL FROM:<alice@example.org> AUTH",
	"MAIL FROM:<alice@example.org> SIZE=1 SIZE=2", "MAIL FROM:<alice@example.org> BODY=8BITMIME body=7bit", "MAIL FROM:<alice@example.org> SIZE", "MAIL FROM:<alice@example.org> SIZE=", "MAIL FROM:<alice@example.org> SIZE=-1",
	"MAIL FROM:<alice@example.org> SIZE=99999999999999999999999", "MAIL FROM:<alice@example.org> SMTPUTF8=x", "MAIL FROM:<alice@example.org> X=1", "MAIL FROM:<alice@example.org> REQUIRETLS", "MAIL FROM:<alice@example.org>SIZE=1",
	"RCPT TO:carol", "RCPT TO:<carol>", "RCPT TO:<postmaster>", "RCPT TO:Carol <carol@example.com>", "RCPT TO: carol@example.com", "RCPT TO:<carol@example.com>, <dave@example.com>", "RCPT TO:<>",
	"RCPT TO:<carol@example.com> NOTIFY=SUCCESS NOTIFY=FAILURE", "RCPT TO:<carol@example.com> NOTIFY=SUCCESS,NEVER", "RCPT TO:<carol@example.com> ORCPT=rfc822;a+2B ORCPT=rfc822;b", "RCPT TO:<carol@example.com> ORCPT=x", "RCPT TO:<-rf@example.com>",
	"BDAT\t5\tLAST", "BDAT 000000000000000000000005 LAST", "BDAT 5\vLAST", "BDAT 99999999999999999999999", "BDAT 99999999999999999999999 LAST", "BDAT 70000", "BDAT 131073 LAST", "BDAT 16385", "BDAT +5", "BDAT 5 LAST LAST", "DATA\t",
	"GET / HTTP/1.1", "get / HTTP/1.1", "PRI * HTTP/2.0", " GET / HTTP/1.1", "GET", "Host: x", "Content-Type : text/plain", "MAIL: x", "RCPT : x", "X\u00e4: y", "SSH-2.0-x", "ssh-2.0-x", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2", "PROXY", "proxy x", "\x00x", "\x00", "\x16\x03\x01\x02\x00", " \x16\x03", "AUTH PLAIN = =", "AUTH\tPLAIN", "EHLO " + strings.Repeat("x", 17<<10),
}

// pieceOf is the index of a text in fuzzPieces.
func pieceOf(text string) byte { return byte(slices.Index(fuzzPieces, text)) }

// lineOf is the index of a command in fuzzLines.
func lineOf(command string) byte { return byte(slices.Index(fuzzLines, command)) }

var fuzzRecipients = []string{
	"carol@example.com", "carol@example.net", "dave@nodot", "nobody@example.com", "later@example.com", "gone@example.com", "\"q q\"@example.com",
}

// fuzzPieces are parts of hostile messages.
var fuzzPieces = []string{
	"\r\n.\r\n", "\n.\n", "\r.\r", "\r\n.\n", "\n.\r\n", "\r\n.\r", "\r\r\n.\r\r\n", ".\r\n", "..\r\n", ".", "\r\n", "\r", "\n", "\x00",
	"MAIL FROM:<bob@example.org>\r\n", "RCPT TO:<smuggled@example.com>\r\n", "DATA\r\n", "Subject: y\r\n\r\n", "text\r\n", "0123456789", " folded\r\n",
	"From: x\r\nBcc: y@example.org\r\n", "\u00e4\r\n", "Received: x\r\n", "BDAT 9 LAST\r\n", "RSET\r\n", "QUIT\r\n", "\x16\x03\x01\x00\x05hello", "*\r\n", "BDAT 0\r\n", "NOOP\r\n", "VRFY x\r\n", "x: y\r\n", "RCPT TO:<carol@example.com>\r\n",
}

// sessionSeeds are programs that lead to states in which much can go wrong.
func sessionSeeds() [][]byte {
	begin := []byte{stepBegin, stepMail, 0}
	with := func(parts ...[]byte) (all []byte) {
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	text := func(step, how int, s string) []byte { return append([]byte{byte(step | how<<5), byte(len(s))}, s...) }
	var seeds [][]byte
	for i := range fuzzLines {
		seeds = append(seeds,
			[]byte{stepLine | 4<<5, byte(i)},                                                                                 // in clear
			[]byte{stepLine, 0, stepSecure, stepLine, 0, stepLine | 4<<5, byte(i)},                                           // without a login
			with(begin, []byte{stepLine, byte(i)}, text(stepData, 4, "x"), []byte{stepLine, byte(i)}),                        // in a transaction, pipelined
			[]byte{stepOpen | 2<<5, stepSecure, stepLine, 0, stepLine, byte(i), stepMail | 3<<5, 1, stepData | 4<<5, 1, 'x'}, // where AUTH is not needed
		)
	}
	for i := range fuzzPieces {
		seeds = append(seeds,
			with(begin, text(stepData, 2, "one"), []byte{stepPiece, byte(i), stepPiece, 0}, begin[1:], text(stepData, 4, "two")),
			with([]byte{stepSip, 1}, begin, text(stepData, 3, ""), []byte{stepPiece | 1<<5, byte(i), stepPiece | 4<<5, 0}),
			with(begin, text(stepBDAT, 0, "Subject: x\r\n\r\n"), []byte{stepPiece, byte(i)}, text(stepBDAT, 5, "end")),
			with(begin, text(stepData, 2, "..\r\n.a\r\n..b\r\n"), []byte{stepPiece | 1<<5, byte(i), stepPiece, 0, stepLine, 3}),
			with(begin, []byte{stepLine, lineOf("DATA"), stepPiece | 3<<5, byte(i), stepPiece, 0, stepLine, 3}),
		)
	}
	for form := range 16 {
		for user := range 4 {
			seeds = append(seeds, []byte{stepOpen | 1<<5, stepSecure, stepLine, 0, stepAuth | 4<<5, byte(form<<2 | user), stepMail, 0, stepData, 1, 'x'})
		}
		seeds = append(seeds, []byte{stepLine, 0, stepAuth, byte(form << 2)}, // in clear
			[]byte{stepOpen | 5<<5, stepSecure, stepLine, 0, stepAuth, byte(form<<2 | 2), stepAuth, byte(form<<2 | 2), stepAuth, byte(form<<2 | 2), stepAuth, 0, stepMail, 0})
	}
	for how := range 8 {
		seeds = append(seeds,
			[]byte{stepLine, 0, byte(stepSecure | how<<5), 5, 'N', 'O', 'O', 'P', '\n', stepLine, 0, stepAuth, 0, stepMail, 0, stepData, 1, 'x'},
			with([]byte{stepHop | byte(how)<<5}, begin, text(stepData, 4, "one"), begin[1:], text(stepData, 4, "two")),
			with(begin, []byte{stepBDAT | byte(how)<<5, 3, 'a', 'b', 'c', 250}, []byte{stepLine, 3}, text(stepBDAT, 1, "rest"), begin[1:], text(stepData, 0, "x")),
			with(begin, text(stepData, how, "x"), []byte{stepEnd | byte(how)<<5}),
			with([]byte{stepBegin, stepCut | byte(how)<<5, byte(37 * how)}, begin[1:], text(stepData, 0, "one"), begin[1:], text(stepBDAT, 1, "two")),
			with([]byte{stepBegin, stepSip, byte(how), stepOpen | byte(how)<<5, stepBegin | 1<<5, stepMail | 1<<5, 0}, text(stepData, 0, "bob"), []byte{stepUse, stepMail, 0}, text(stepData, 0, "alice"), []byte{stepReload}, text(stepUnder, how, "\x17\x03\x03\x00\x01x")),
		)
	}
	return append(append(seeds, budgetSeeds(begin)...),
		with(begin, []byte{stepMail | 1<<5, 0, stepLine, 4, stepMail | 1<<5, 0, stepLine, 4, stepMail | 2<<5, 0}),
		with(begin, []byte{stepLine, lineOf("BDAT 0"), stepLine, 0}, begin[1:], []byte{stepLine, lineOf("BDAT 0"), stepLine, 4}, begin[1:], text(stepBDAT, 1, "x")),
		with(begin, text(stepBDAT, 1, "one"), begin[1:], text(stepBDAT, 1, "two"), begin[1:], text(stepData, 0, "three"), []byte{stepLine, 7}),
		[]byte{stepOpen | 1<<5, stepRaw | 4<<5, 6, 'E', 'H', 'L', 'O', '\r', '\n'},
	)
}

// budgetSeeds are programs that reach the limits of lines, chunks, errors and recipients,
// or go to the point before them. begin logs in and begins a transaction.
func budgetSeeds(begin []byte) [][]byte {
	const thousands = 3 << 5 // 2,000 times
	digits, dot, noop, vrfy := pieceOf("0123456789"), pieceOf("."), pieceOf("NOOP\r\n"), pieceOf("VRFY x\r\n")
	rcpt, chunk, lf := pieceOf("RCPT TO:<carol@example.com>\r\n"), pieceOf("BDAT 0\r\n"), pieceOf("\n")
	message := []byte{stepMail, 0, stepData, 1, 'x'}
	end := []byte{stepLine, lineOf("NOOP"), stepMail, 0, stepData, 1, 'x', stepLine | 4<<5, lineOf("NOOP")}
	line := func(pieces int) []byte {
		all := []byte{stepBegin}
		for range pieces {
			all = append(all, stepPiece|thousands, digits)
		}
		return append(append(all, stepPiece, lf), end...)
	}
	program := func(parts ...[]byte) []byte { return slices.Concat(append(parts, end)...) }
	seeds := [][]byte{line(1), line(2), line(3), line(4), line(5)}
	// A chunk above the limit of a message, of one above what is read of it.
	large := []byte{stepLine, lineOf("BDAT 70000"), stepPiece | thousands, digits, stepPiece | thousands, digits, stepPiece | thousands, digits}
	for range 5 {
		large = append(large, stepPiece|thousands, dot)
	}
	return append(seeds,
		program(begin, large, []byte{stepLine, lineOf("BDAT 0 LAST")}),
		program(begin, large, []byte{stepPiece | 2<<5, chunk, stepLine, lineOf("RSET")}),
		program(begin, []byte{stepBDAT, 1, 0, stepPiece | 2<<5, chunk, stepLine, lineOf("BDAT 0 LAST")}), // a NUL
		program(begin, []byte{stepPiece | thousands, chunk}, []byte{stepLine, lineOf("BDAT 0 LAST")}),
		program(begin, []byte{stepPiece | thousands, chunk, stepPiece, chunk, stepLine, lineOf("BDAT 0 LAST")}),
		program([]byte{stepBegin, stepPiece | 2<<5, noop}, message, []byte{stepPiece | 2<<5, noop}),
		program([]byte{stepBegin, stepPiece | 2<<5, noop, stepPiece | 2<<5, vrfy}),
		program([]byte{stepBegin, stepPiece | thousands, vrfy}),
		program(begin, []byte{stepPiece | thousands, rcpt, stepLine, lineOf("NOOP"), stepPiece | 2<<5, rcpt}),
		// AUTH in a transaction, and after STARTTLS without another EHLO.
		[]byte{stepOpen | 2<<5, stepSecure, stepLine, 0, stepMail | 3<<5, 1, stepAuth, 0, stepData | 4<<5, 1, 'x'},
		[]byte{stepLine, 0, stepSecure, stepAuth | 4<<5, 0, stepMail, 0, stepData | 4<<5, 1, 'x'},
	)
}
