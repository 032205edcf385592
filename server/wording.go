package server

import "bytes"

// wording puts right what go-smtp says in another way than the RFCs. It knows
// its lines by their text: one that a new version words differently passes as it
// is, and testdata/dialogue/wording.txt shows it.
func (w *wire) wording(line []byte) []byte {
	text := bytes.TrimRight(line, "\r\n")
	switch {
	case w.command == "EHLO" && bytes.HasPrefix(text, []byte("250-Hello ")):
		return []byte("250-" + w.service.config.hostname() + "\r\n") // RFC 5321, section 4.1.1.1
	case w.command == "HELO" && bytes.HasPrefix(text, []byte("250 2.0.0 Hello ")):
		return []byte("250 " + w.service.config.hostname() + "\r\n")
	case w.command == "MAIL" && bytes.HasPrefix(text, []byte("250 2.0.0 Roger, accepting mail from <")):
		return []byte("250 2.1.0 Ok\r\n") // RFC 3463, section 3.2
	case w.command == "RCPT" && bytes.HasPrefix(text, []byte("250 2.0.0 I'll make sure <")):
		return []byte("250 2.1.5 Ok\r\n")
	case bytes.HasPrefix(text, []byte("500 5.5.2 Syntax errors, ")), string(text) == "501 5.5.2 Bad command":
		// RFC 5321, section 4.2.4. Without a part of the line: a client that has fallen out of step may
		// have sent a password.
		return []byte("500 5.5.2 Error: command not recognized\r\n")
	}
	if right := rightWords(string(text)); right != "" {
		return []byte(right + "\r\n")
	}
	return line
}

// rightWords returns what the RFCs ask for in the place of a line of go-smtp's.
func rightWords(line string) string {
	switch line {
	// RFC 5321, section 4.1.4: a bad sequence of commands is 503.
	case "502 5.5.1 Please introduce yourself first.":
		return "503 5.5.1 Error: send EHLO first"
	case "502 5.5.1 Missing MAIL FROM command.":
		return "503 5.5.1 Error: need MAIL command"
	case "502 5.5.1 Missing RCPT TO command.":
		return "503 5.5.1 Error: need RCPT command"
	case "502 5.5.1 MAIL not allowed during message transfer", "502 5.5.1 RCPT not allowed during message transfer",
		"502 5.5.1 DATA not allowed during message transfer":
		return "503 5.5.1 Error: a message is on its way with BDAT"
	case "502 5.5.1 TLS not supported": // it is, and is there
		return "503 5.5.1 Error: TLS already active"

	// RFC 4954, section 4.
	case "454 4.7.0 Invalid base64 data":
		return "501 5.5.2 Error: cannot decode the response"
	case "501 5.0.0 Negotiation cancelled":
		return "501 5.7.0 Authentication cancelled"
	case "502 5.5.4 Missing parameter":
		return "501 5.5.4 Syntax: AUTH mechanism"

	// RFC 5321, section 4.1.1.11.
	case "500 5.5.4 Unknown MAIL FROM argument", "500 5.5.4 Unknown RCPT TO argument":
		return "555 5.5.4 Error: unknown parameter"

	// RFC 5321, section 3.8: nobody hangs up without 421.
	case "500 5.5.1 Too many errors. Quiting now":
		return tooManyErrors
	}
	return ""
}
