package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"postern/cmd/postern/internal/app"
	"postern/cmd/postern/internal/config"
	"postern/cmd/postern/internal/logging"
	"postern/cmd/postern/internal/process"
	"postern/server/auth"
)

// authTestTime bounds the calls of the stores as the server does.
const authTestTime = 110 * time.Second

func authCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "auth",
		Short: "Try out logins",
		Args:  knownCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(authTestCommand())
	return cmd
}

func authTestCommand() *cobra.Command {
	var t authTest
	cmd := &cobra.Command{
		Use:   "test -u USER",
		Short: "Ask the stores whether a password is right",
		Long: `Asks the stores of the configuration as the server would, and says which of them
answered and what it said. The password is asked for, or read from standard
input with "-p -"; it is never an argument, which others could see.

The exit status is 0 for yes, 1 for no, and 75 if nobody could tell.`,
		Example: "  postern auth test -u alice@example.org\n  postern auth test -u alice -p - < secret",
		Args:    operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return t.run(cmd.Context(), cmd)
		},
	}
	configFlag(cmd, &t.config)
	cmd.Flags().StringVarP(&t.user, "user", "u", "", "`login` as a mail client would give it")
	cmd.Flags().StringVarP(&t.password, "password", "p", "", "\"-\" reads the password from standard input")
	cmd.Flags().StringVar(&t.listener, "listener", "", "`name` of the listener, if they have different stores")
	return cmd
}

type authTest struct{ config, user, password, listener string }

func (t authTest) run(ctx context.Context, cmd *cobra.Command) error {
	if t.user == "" {
		return usageError("-u USER is missing")
	}
	if t.password != "" && t.password != "-" {
		return usageError(`a password on the command line can be seen by everybody on the machine: write "-p -" and give it on standard input`)
	}
	cfg, err := loadConfig(t.config)
	if err != nil {
		return process.WithStatus(process.ExitConfig, err)
	}
	section, err := t.section(cfg)
	if err != nil {
		return err
	}
	password, err := t.read(cmd.InOrStdin(), cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	return t.ask(ctx, cfg, section, password, cmd.OutOrStdout(), cmd.ErrOrStderr())
}

func (t authTest) read(in io.Reader, questions io.Writer) (string, error) {
	if t.password == "-" {
		return readPasswordLine(in)
	}
	ask, err := newPrompter(in, questions)
	if err != nil {
		return "", usageError(`%w; use "-p -" to read the password from it`, err)
	}
	return ask.ask(fmt.Sprintf("Password of %s: ", t.user))
}

// ask runs a whole AUTH PLAIN (RFC 4616) over the stores, so that the answer
// is that of the server. There are no penalties in a separate process.
func (t authTest) ask(ctx context.Context, cfg *config.Config, section config.Auth, password string, out, errs io.Writer) error {
	log := slog.New(slog.NewTextHandler(errs, &slog.HandlerOptions{Level: slog.LevelWarn}))
	a := app.New(cfg, logging.With(log))
	defer a.Close()
	if err := a.StartPAM(cfg); err != nil {
		return process.WithStatus(process.ExitTempFail, err)
	}
	stores, err := a.OpenStores(section)
	if err != nil {
		return process.WithStatus(process.ExitTempFail, err)
	}
	defer stores.Close()
	ctx, cancel := context.WithTimeout(ctx, authTestTime)
	defer cancel()
	id, err := plainLogin(auth.WithTrace(ctx, func(q auth.StoreCall) { tellQuestion(out, q) }), stores.Passwords(), t.user, password)
	return verdict(out, t.user, id, err)
}

// section returns the section [auth] of the listener that --listener names, or the one
// that all listeners use.
func (t authTest) section(cfg *config.Config) (config.Auth, error) {
	var names []string
	for i := range cfg.Listeners {
		if cfg.Listeners[i].Name == t.listener {
			return cfg.Listeners[i].Auth, nil
		}
		names = append(names, cfg.Listeners[i].Name)
	}
	if t.listener != "" {
		return config.Auth{}, usageError("there is no listener %q; the listeners are %s", t.listener, strings.Join(names, ", "))
	}
	var sections []config.Auth
	for _, s := range cfg.AuthSections() {
		sections = append(sections, s)
	}
	if len(sections) > 1 {
		return config.Auth{}, usageError("the listeners have different stores; name one of %s with --listener", strings.Join(names, ", "))
	}
	return sections[0], nil
}

func plainLogin(ctx context.Context, stores auth.PasswordVerifier, user, password string) (auth.Identity, error) {
	here := netip.AddrPortFrom(netip.IPv6Loopback(), 0)
	peer := &auth.Peer{Remote: here, Local: here, TLS: new(tls.ConnectionState), Session: "auth-test"}
	e, err := auth.Local{Passwords: auth.WithPRECIS(stores)}.Start(ctx, peer, "PLAIN")
	if err != nil {
		return auth.Identity{}, err
	}
	defer e.Close()
	_, _, err = e.Next(ctx, []byte("\x00"+user+"\x00"+password))
	if err != nil {
		return auth.Identity{}, err
	}
	return e.Identity(), nil
}

// tellQuestion prints what one store was asked and its answer.
func tellQuestion(out io.Writer, q auth.StoreCall) {
	answer := "yes"
	var no *auth.Failure
	switch {
	case errors.As(q.Err, &no):
		answer = no.Kind.String()
		if no.Reason != "" {
			answer += ": " + no.Reason
		}
	case q.Err != nil:
		answer = q.Err.Error()
	}
	if q.Login == "" {
		fmt.Fprintf(out, "store %s was not asked: %s\n", q.Store, answer)
		return
	}
	fmt.Fprintf(out, "store %s was asked for %q: %s (%v)\n", q.Store, q.Login, answer, q.Took.Round(time.Millisecond))
}

// verdict prints the answer in one line and makes the exit status of it.
func verdict(out io.Writer, user string, id auth.Identity, err error) error {
	var no *auth.Failure
	switch {
	case err == nil:
		fmt.Fprintf(out, "yes: store %s knows %q as %q\n", id.Store, user, id.User)
		return nil
	case errors.As(err, &no):
		fmt.Fprintf(out, "no: %s\n", refusal(user, no))
		return process.Exit(process.ExitFailure)
	case errors.Is(err, auth.ErrMalformed):
		fmt.Fprintln(out, "no: no mechanism can send such a login or password (empty, with a NUL, or more than 12,288 octets)")
		return process.Exit(process.ExitFailure)
	}
	return process.WithStatus(process.ExitTempFail, fmt.Errorf("nobody could tell: %w", err))
}

func refusal(user string, no *auth.Failure) string {
	text := no.Kind.String()
	if no.Reason != "" {
		text += ": " + no.Reason
	}
	if no.Store == "" {
		return fmt.Sprintf("%q: %s", user, text)
	}
	return fmt.Sprintf("store %s says of %q: %s", no.Store, user, text)
}
