package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/spf13/cobra"

	"postern/cmd/postern/internal/app"
	"postern/cmd/postern/internal/config"
	"postern/cmd/postern/internal/process"
	"postern/relay"
)

// demoFolderName is where the demo keeps its things, below where it is run.
const demoFolderName = "postern-demo"

func demoCommand() *cobra.Command {
	var d demo
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Try postern out, on this machine only",
		Long: `Makes a folder "postern-demo" with a self-signed certificate, a user with a
random password and a configuration, and serves it on loopback: on the ports 587
and 465, or else on 1587 and 1465. The mail is kept in postern-demo/mail. Run
again, it keeps the folder.`,
		Args: operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			d.out, d.errs = cmd.OutOrStdout(), cmd.ErrOrStderr()
			return d.run(cmd.Context())
		},
	}
	cmd.Flags().BoolVar(&d.once, "once", false, "send one message through the server, show the dialogue, and end")
	cmd.Flags().StringVar(&d.relay, "relay", "", "hand the mail to this next hop instead, such as smtp://localhost:25")
	return cmd
}

// A demo is serve with what it needs made on the spot. It may run as root: it
// binds loopback only, and keeps its folder to its owner.
type demo struct {
	once      bool
	relay     string
	out, errs io.Writer

	folder  demoFolder
	mailbox *mailbox // nil with --relay
	next    relay.HopURL
	ports   demoPorts
}

func (d *demo) run(ctx context.Context) error {
	if d.once && d.relay != "" {
		return usageError("--once looks for its message in the demo's own mailbox, so it does not go with --relay")
	}
	if d.relay != "" {
		if err := d.next.UnmarshalText([]byte(d.relay)); err != nil {
			return usageError("--relay: %w", err)
		}
	}
	signals := process.CatchSignals()
	defer signal.Stop(signals)
	if err := d.prepare(); err != nil {
		return err
	}
	defer d.closeMailbox()
	daemon, err := app.NewDaemon(d.load, d.errs)
	if err != nil {
		return err
	}
	daemon.Version = versionString()
	defer daemon.Close()
	if err := daemon.Start(nil); err != nil {
		return err
	}
	return d.serve(ctx, daemon, signals)
}

func (d *demo) prepare() (err error) {
	if d.ports, err = choosePorts(); err != nil {
		return err
	}
	if d.folder, err = openDemoFolder(demoFolderName, d.ports); err != nil {
		return err
	}
	return d.openMailbox()
}

// serve runs the server until a signal, or with --once until the message has
// arrived.
func (d *demo) serve(ctx context.Context, running *app.Daemon, signals <-chan os.Signal) error {
	if !d.once {
		h, err := d.howto()
		if err != nil {
			return err
		}
		return errors.Join(h.print(d.out), running.Run(ctx, signals))
	}
	ctx, stop := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- running.Run(ctx, signals) }()
	tried := d.try(ctx)
	stop()
	return errors.Join(tried, <-served)
}

func (d *demo) openMailbox() (err error) {
	if d.relay != "" {
		return nil
	}
	if d.mailbox, err = openMailbox(d.folder.mail()); err != nil {
		return err
	}
	go func() { _ = d.mailbox.serve() }() // ends with closeMailbox
	return d.next.UnmarshalText([]byte(d.mailbox.url()))
}

func (d *demo) closeMailbox() {
	if d.mailbox != nil {
		d.mailbox.close()
	}
}

// load reads the folder's configuration and lays over it what only this run of
// the demo knows: its ports and its next hop.
func (d *demo) load() (*config.Config, error) {
	cfg, err := loadConfig(d.folder.config())
	if err != nil {
		return nil, err
	}
	cfg.Relay.NextHops = []relay.HopURL{d.next}
	cfg.SetListeners(d.ports.listeners()...)
	return cfg, nil
}

func (d *demo) try(ctx context.Context) error {
	password, err := d.folder.password()
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(d.out, "postern listens on this machine only, on port %d (STARTTLS) and %d (TLS).\n%s\n",
		d.ports.Submission, d.ports.Submissions, d.ports.Why); err != nil {
		return err
	}
	t := trial{address: d.ports.submissionAddresses()[0], folder: d.folder, user: demoUser, password: password, out: d.out}
	return t.run(ctx)
}

func (d *demo) howto() (howto, error) {
	password, err := d.folder.password()
	if err != nil {
		return howto{}, err
	}
	mail := d.relay
	if d.mailbox != nil {
		mail = d.folder.mail()
	}
	return howto{
		Folder: d.folder, Mail: mail, Ports: d.ports, User: demoUser, Password: password,
		Cert: process.ShellQuote(d.folder.cert()), Config: process.ShellQuote(d.folder.config()),
	}, nil
}
