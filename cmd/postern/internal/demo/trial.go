package demo

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"postern/cmd/postern/internal/dialogue"
)

// trialTime bounds the connection of a Trial.
const trialTime = time.Minute

// A Trial sends a message as a mail client does (RFC 6409, with RFC 3207 and
// section 4 of RFC 4954).
type Trial struct {
	Address        string // of a listener with STARTTLS
	Cert           string // the certificate file to trust; no other certificate is
	User, Password string
	Out            io.Writer // the transcript
}

// Run sends a message and finds it in the mailbox. It prints the name of the file.
func (t Trial) Run(ctx context.Context, m *Mailbox) error {
	id := rand.Text()
	if err := t.Send(ctx, id); err != nil {
		return fmt.Errorf("the message was not accepted: %w", err)
	}
	file, err := m.Find(id)
	if err != nil {
		return err
	}
	fmt.Fprintf(t.Out, "\narrived: %s\n", file)
	return nil
}

// Send sends a message with this Message-ID.
func (t Trial) Send(ctx context.Context, id string) error {
	d, err := t.Begin(ctx)
	if err != nil {
		return err
	}
	defer d.Close()
	if _, err := d.Data(trialMessage(id)); err != nil {
		return err
	}
	return d.Quit()
}

// Begin connects and sends the commands from EHLO to RCPT. The caller must close the
// dialogue.
func (t Trial) Begin(ctx context.Context) (_ *dialogue.Dialogue, err error) {
	ctx, cancel := context.WithTimeout(ctx, trialTime)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", t.Address)
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	d, err := dialogue.Open(conn, deadline, t.Out)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	if _, err := d.Command(250, "EHLO localhost"); err != nil {
		return nil, err
	}
	config, err := t.tlsConfig()
	if err != nil {
		return nil, err
	}
	if err := d.StartTLS(config, "localhost"); err != nil {
		return nil, err
	}
	response := base64.StdEncoding.EncodeToString([]byte("\x00" + t.User + "\x00" + t.Password))
	if _, err := d.CommandMasked(235, "AUTH PLAIN "+response, "AUTH PLAIN ********"); err != nil {
		return nil, err
	}
	for _, line := range []string{"MAIL FROM:<demo@example.org>", "RCPT TO:<you@example.com>"} {
		if _, err := d.Command(250, line); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// tlsConfig trusts the certificate of the server, which is self-signed, and no other
// one.
func (t Trial) tlsConfig() (*tls.Config, error) {
	pem, err := os.ReadFile(t.Cert)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate", t.Cert)
	}
	return &tls.Config{RootCAs: roots, ServerName: "localhost"}, nil
}

func trialMessage(id string) string {
	return "From: Demo <demo@example.org>\r\n" +
		"To: You <you@example.com>\r\n" +
		"Subject: It works\r\n" +
		"Date: " + time.Now().Format(time.RFC1123Z) + "\r\n" +
		"Message-ID: <" + id + "@example.org>\r\n" +
		"\r\n" +
		"This message went through postern.\r\n"
}
