package message_test

import (
	"fmt"
	"io"

	"postern/relay/message"
)

// A message arrives in pieces, here with bare LF and without a final line end, is completed
// by a field, and can then be read any number of times.
func Example() {
	stage := message.NewStage("", 64<<20) // large messages in the system's temporary folder
	w := stage.New(message.Options{BareNewlines: message.Normalize})
	for _, piece := range []string{"From: Alice <alice@example.org>\nSub", "ject: Greetings\n\nHello,\nBob"} {
		if _, err := io.WriteString(w, piece); err != nil {
			fmt.Println(err) // w is closed then
			return
		}
	}
	m, err := w.Message()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer m.Close() // for all views, too

	authors, err := m.Mailboxes("From")
	fmt.Println(authors[0].Local, "at", authors[0].Domain, err)

	received, err := message.NewField("Received", "by mail.example.org")
	if err != nil {
		fmt.Println(err)
		return
	}
	completed := m.Edit(message.Edit{
		Top: []message.Field{received},
		Each: func(f message.Field) (message.Field, bool) {
			return f, !f.Is("Bcc")
		},
	})
	fmt.Println(m.Size(), "and", completed.Size(), "bytes")
	body, err := io.ReadAll(completed.Body())
	fmt.Printf("%q %v\n", body, err)
	// Output:
	// alice at example.org <nil>
	// 68 and 99 bytes
	// "Hello,\r\nBob\r\n" <nil>
}

func ExampleMessage_Edit() {
	w := message.NewStage("", 64<<20).New(message.Options{})
	io.WriteString(w, "From: alice@example.org\r\nBcc: carol@example.com\r\nsubject: Hello\r\n\r\n")
	m, err := w.Message()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer m.Close()
	date, err := message.NewField("Date", "Tue, 3 Nov 2026 04:05:06 +0100")
	if err != nil {
		fmt.Println(err)
		return
	}
	view := m.Edit(message.Edit{
		Each: func(f message.Field) (message.Field, bool) {
			if f.Is("Subject") {
				f, err = f.WithValue([]byte(" Hello, world"))
			}
			return f, !f.Is("Bcc")
		},
		Bottom: []message.Field{date},
	})
	for f := range view.Fields() {
		fmt.Printf("%q\n", f.Raw)
	}
	fmt.Println(m.Count("Bcc"), "Bcc in the staged message")
	// Output:
	// "From: alice@example.org\r\n"
	// "subject: Hello, world\r\n"
	// "Date: Tue, 3 Nov 2026 04:05:06 +0100\r\n"
	// 1 Bcc in the staged message
}
