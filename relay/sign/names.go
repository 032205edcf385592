package sign

import (
	"fmt"
	"strings"

	"postern/relay/message"
)

// oversigned names are those of RFC 6376, section 5.4.1 that a mail client
// writes, and those of MIME. Fields that hosts add on the way stay free, and so
// do Sender and the list fields, which mailing lists set.
var oversigned = [...]string{
	"From", "To", "Cc", "Subject", "Date", "Message-ID",
	"Reply-To", "In-Reply-To", "References",
	"MIME-Version", "Content-Type", "Content-Transfer-Encoding",
	"Content-ID", "Content-Description", "Content-Disposition",
}

// maxNames bounds h=, which go-msgauth writes on one line (RFC 5322, section
// 2.1.1: 998 bytes).
const maxNames = 900

// signedNames returns the names for h=: each once for every field of that name
// in m and once more (RFC 6376, section 8.15), present or not.
func signedNames(m *message.Message) ([]string, error) {
	var counts [len(oversigned)]int
	for f := range m.Fields() {
		for i, name := range oversigned {
			if f.Is(name) {
				counts[i]++
			}
		}
	}
	var names []string
	size := 0
	for i, name := range oversigned {
		size += (counts[i] + 1) * (len(name) + len(":"))
		if size > maxNames {
			return nil, unsignable(fmt.Sprintf("%d fields %s", counts[i], name))
		}
		for range counts[i] + 1 {
			names = append(names, strings.ToLower(name))
		}
	}
	return names, nil
}
