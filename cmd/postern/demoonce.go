package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// onceTime bounds the whole conversation of demo --once.
const onceTime = time.Minute

// A trial sends one message as a mail client would and looks for it in the
// mailbox.
type trial struct {
	address  string // of a listener with STARTTLS
	folder   demoFolder
	user     string
	password string
	out      io.Writer
}

func (t trial) run(ctx context.Context) error {
	token := rand.Text()
	if err := t.send(ctx, token); err != nil {
		return fmt.Errorf("the message was not taken: %w", err)
	}
	file, err := findMessage(t.folder.mail(), token)
	if err != nil {
		return err
	}
	fmt.Fprintf(t.out, "\narrived: %s\n", file)
	return nil
}

// send is the conversation of RFC 6409 with RFC 3207 and RFC 4954, section 4.
func (t trial) send(ctx context.Context, token string) error {
	ctx, cancel := context.WithTimeout(ctx, onceTime)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", t.address)
	if err != nil {
		return err
	}
	deadline, _ := ctx.Deadline()
	d, err := newDialogue(conn, deadline, t.out)
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	defer d.close()
	return t.converse(d, token)
}

func (t trial) converse(d *dialogue, token string) error {
	if err := t.begin(d); err != nil {
		return err
	}
	if _, err := d.data(trialMessage(token)); err != nil {
		return err
	}
	return d.quit()
}

// begin goes as far as the recipient.
func (t trial) begin(d *dialogue) error {
	if _, err := d.ask(250, "EHLO localhost"); err != nil {
		return err
	}
	trust, err := t.trust()
	if err != nil {
		return err
	}
	if err := d.startTLS(trust, "localhost"); err != nil {
		return err
	}
	response := base64.StdEncoding.EncodeToString([]byte("\x00" + t.user + "\x00" + t.password))
	if _, err := d.askMasked(235, "AUTH PLAIN "+response, "AUTH PLAIN ********"); err != nil {
		return err
	}
	for _, command := range []string{"MAIL FROM:<demo@example.org>", "RCPT TO:<you@example.com>"} {
		if _, err := d.ask(250, command); err != nil {
			return err
		}
	}
	return nil
}

// trust accepts the demo's certificate and no other.
func (t trial) trust() (*tls.Config, error) {
	pem, err := os.ReadFile(t.folder.cert())
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("there is no certificate in %s", t.folder.cert())
	}
	return &tls.Config{RootCAs: roots, ServerName: "localhost"}, nil
}

func trialMessage(token string) string {
	return "From: Demo <demo@example.org>\r\n" +
		"To: You <you@example.com>\r\n" +
		"Subject: It works\r\n" +
		"Date: " + time.Now().Format(time.RFC1123Z) + "\r\n" +
		"Message-ID: <" + token + "@example.org>\r\n" +
		"\r\n" +
		"This message went through postern.\r\n"
}

// findMessage looks for a message that holds the token.
func findMessage(dir, token string) (string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.eml"))
	if err != nil {
		return "", err
	}
	for i := len(files) - 1; i >= 0; i-- { // the newest name sorts last
		text, err := os.ReadFile(files[i])
		if err == nil && strings.Contains(string(text), token) {
			return files[i], nil
		}
	}
	return "", fmt.Errorf("the message was taken, but there is no sign of it in %s", dir)
}
