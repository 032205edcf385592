// Package demo runs the server with a certificate, a user, a configuration and a
// next hop that it creates, for a first trial on one machine.
//
//	demo     the server and the text that explains how to use it
//	folder   the files, and the choice of ports
//	mailbox  the next hop: it writes messages to files
//	trial    a mail client that sends one message
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"text/template"

	"golang.org/x/sys/unix"

	"postern/cmd/postern/internal/app"
	"postern/cmd/postern/internal/config"
	"postern/cmd/postern/internal/process"
	"postern/relay"
	"postern/server"
)

const (
	// folderName is the folder of the demo in the working directory.
	folderName = "postern-demo"
	// hostname is in the greeting and the replies, so that nobody takes the demo for a server
	// that delivers mail. The domain cannot exist (RFC 2606).
	hostname = "postern-demo.invalid"
)

// A Demo is a server on loopback addresses. It may run as root, since other machines
// cannot connect to it and its folder is private. In a container it can be public.
type Demo struct {
	Once      bool   // send one message and end
	Public    bool   // listen on all addresses
	Relay     string // the next hop; empty for a Mailbox
	Version   string // for the log
	Out, Errs io.Writer

	folder  folder
	mailbox *Mailbox // nil with Relay
	next    relay.HopURL
	ports   ports
}

// Run serves until SIGTERM, SIGINT or the end of ctx. With Once it ends when the
// message has arrived.
func (d *Demo) Run(ctx context.Context) error {
	signals := process.CatchSignals()
	defer signal.Stop(signals)
	if err := d.prepare(); err != nil {
		return err
	}
	if d.mailbox != nil {
		go func() { _ = d.mailbox.Serve() }() // ends with Close
		defer d.mailbox.Close()
	}
	daemon, err := app.NewDaemon(d.load, d.Errs)
	if err != nil {
		return err
	}
	defer daemon.Close()
	daemon.Version = d.Version
	if err := daemon.Start(nil); err != nil {
		return err
	}
	password, err := d.folder.password()
	if err != nil {
		return err
	}
	if !d.Once {
		return errors.Join(d.explain(password), daemon.Run(ctx, signals))
	}
	ctx, stop := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- daemon.Run(ctx, signals) }()
	tried := d.try(ctx, password)
	stop()
	return errors.Join(tried, <-served)
}

func (d *Demo) prepare() (err error) {
	if d.ports, err = choosePorts(d.Public); err != nil {
		return err
	}
	dir := folderName
	if unix.Access(".", unix.W_OK) != nil {
		dir = filepath.Join(os.TempDir(), folderName)
	}
	if d.folder, err = openFolder(dir, d.ports); err != nil {
		return err
	}
	if d.Relay != "" {
		return process.WithStatus(process.ExitUsage, d.next.UnmarshalText([]byte(d.Relay)))
	}
	if d.mailbox, err = OpenMailbox(d.folder.mail()); err != nil {
		return err
	}
	return d.next.UnmarshalText([]byte(d.mailbox.URL()))
}

// load reads the configuration in the folder, and replaces the name, the listeners and the
// next hop by those of this run. Variables of the environment are for a real server.
func (d *Demo) load() (*config.Config, error) {
	text, err := os.ReadFile(d.folder.config())
	if err != nil {
		return nil, err
	}
	cfg, err := config.Parse(d.folder.config(), string(text))
	if err != nil {
		return nil, err
	}
	cfg.Server.Hostname = hostname
	cfg.Server.Control = server.ControlOff // the default path is for a real server
	cfg.Relay.NextHops = []relay.HopURL{d.next}
	cfg.SetListeners(d.ports.listeners()...)
	return cfg, nil
}

func (d *Demo) try(ctx context.Context, password string) error {
	if _, err := fmt.Fprintf(d.Out, "postern listens on this machine only, on port %d (STARTTLS) and %d (TLS).\n%s\n",
		d.ports.Submission, d.ports.Submissions, d.ports.Why); err != nil {
		return err
	}
	t := Trial{Address: d.ports.submissionAddresses()[0], Cert: d.folder.cert(), User: user, Password: password, Out: d.Out}
	return t.Run(ctx, d.mailbox)
}

// explain prints how to send mail through the demo.
func (d *Demo) explain(password string) error {
	mail := d.Relay
	if d.mailbox != nil {
		mail = d.folder.mail()
	}
	text := howtoText
	if d.Public {
		text = publicText
	}
	return howto{
		Folder: d.folder.Dir, Mail: mail, Ports: d.ports, User: user, Password: password,
		Cert: process.ShellQuote(d.folder.cert()), Config: process.ShellQuote(d.folder.config()),
	}.print(d.Out, text)
}

// A howto explains how to send mail through the demo.
type howto struct {
	Folder         string
	Mail           string // where messages go
	Ports          ports
	User, Password string
	Cert, Config   string // files, as words of a shell
}

func (h howto) print(w io.Writer, text string) error {
	return template.Must(template.New("howto").Parse(strings.TrimPrefix(text, "\n"))).Execute(w, h)
}

// publicText has the password once, and not in a command line: the log of a container is kept.
const publicText = `
This is a demo of postern. It accepts mail to all addresses from one user, and delivers none.
It listens on port {{.Ports.Submission}} (STARTTLS) and {{.Ports.Submissions}} (TLS), on all addresses.
{{- with .Ports.Why}}
{{.}}{{end}}

  user      {{.User}}
  password  {{.Password}}

On the host, if the container was started with -p 1587:{{.Ports.Submission}} (swaks asks for the password):

  swaks --server localhost:1587 --tls --auth PLAIN --auth-user {{.User}} --from demo@example.org --to you@example.com

Mail goes to {{.Mail}} in the container. For a real server, mount a configuration at /etc/postern.
`

// howtoText has the password in command lines, where other users of the machine can
// see it. It is valid for this demo only; a real client reads it from a file or a
// key ring.
const howtoText = `
postern listens on this machine only, on port {{.Ports.Submission}} (STARTTLS) and {{.Ports.Submissions}} (TLS).
{{- with .Ports.Why}}
{{.}}{{end}}
Everything is in {{.Folder}}; mail goes to {{.Mail}}.

With swaks:

  swaks --server localhost:{{.Ports.Submission}} --tls --auth PLAIN --auth-user {{.User}} --auth-password {{.Password}} \
    --from demo@example.org --to you@example.com

  swaks --server localhost:{{.Ports.Submissions}} --tls-on-connect --auth LOGIN --auth-user {{.User}} --auth-password {{.Password}} \
    --from demo@example.org --to you@example.com

With curl:

  printf 'From: demo@example.org\nTo: you@example.com\nSubject: hello\n\nhello\n' |
    curl --url smtp://localhost:{{.Ports.Submission}} --ssl-reqd --cacert {{.Cert}} --user {{.User}}:{{.Password}} \
      --mail-from demo@example.org --mail-rcpt you@example.com --crlf --upload-file -

With Thunderbird: Account Settings, Outgoing Server (SMTP), Add:

  Server name            localhost
  Port                   {{.Ports.Submission}}              or {{.Ports.Submissions}}
  Connection security    STARTTLS          or SSL/TLS
  Authentication method  Normal password
  User name              {{.User}}
  Password               {{.Password}}
  (the certificate is self-signed: confirm the exception at the first message)

To serve this folder without the demo, with the next hop of its configuration:

  postern serve --config {{.Config}}

Ctrl-C ends the demo. The folder is kept, with the password and the mail.
`
