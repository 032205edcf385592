package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"reflect"
	"slices"
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
		Short: "Test logins",
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
		Short: "Check a password with the stores of the configuration",
		Long: `Asks the stores of the configuration as the server does, and prints the answer of
each: what it was asked, and what it answered. The command prompts for the password,
reads it from the first line of --password-file, or from standard input with "-p -".
It accepts no password as an argument, because other users can see arguments.

A store can have rules about the client's address, such as Dovecot's allow_nets or
pam_access; --client gives the address.

The exit status is 0 if the login is accepted, 1 if it is refused, and 75 if no
store could answer.`,
		Example: "  postern auth test -u alice@example.org\n  postern auth test -u alice --client 192.0.2.7 --password-file secret",
		Args:    operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			t.errs = cmd.ErrOrStderr()
			return printSafely(cmd.OutOrStdout(), func(out io.Writer) error {
				t.out = out
				return t.run(cmd.Context(), cmd.InOrStdin())
			})
		},
	}
	configFlag(cmd, &t.file)
	cmd.Flags().StringVarP(&t.user, "user", "u", "", "`login` as a mail client sends it")
	cmd.Flags().StringVarP(&t.password, "password", "p", "", "\"-\" reads the password from standard input")
	cmd.Flags().StringVar(&t.passwordFile, "password-file", "", "`file` whose first line is the password")
	cmd.Flags().StringVar(&t.client, "client", "", "`address` of the client that the stores are told; without it, that of this machine")
	cmd.Flags().StringVar(&t.listener, "listener", "", "`name` of the listener, if the listeners have different stores")
	return cmd
}

// An authTest is one login.
type authTest struct {
	file, user, password, passwordFile, client, listener string

	out, errs io.Writer
	stores    config.StoreList // of the section
	asked     map[string]bool  // by the names of stores
}

func (t authTest) run(ctx context.Context, in io.Reader) error {
	if t.user == "" {
		return usageError("-u USER is missing")
	}
	if t.password != "" && t.password != "-" {
		return usageError(`all users of this machine can see a password on the command line; write "-p -" and pass the password on standard input`)
	}
	if t.password != "" && t.passwordFile != "" {
		return usageError("write either -p or --password-file")
	}
	client, err := t.clientAddress()
	if err != nil {
		return err
	}
	cfg, err := config.LoadOnce(t.file)
	if err != nil {
		return process.WithStatus(process.ExitConfig, err)
	}
	section, err := t.section(cfg)
	if err != nil {
		return err
	}
	password, err := t.readPassword(in)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(t.errs, &slog.HandlerOptions{Level: slog.LevelWarn}))
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
	t.stores, t.asked = section.Stores, make(map[string]bool)
	record := func(call auth.StoreCall) { t.printCall(call, client) }
	id, err := t.login(auth.WithTrace(ctx, record), client, stores.Passwords(), password)
	t.printOthers()
	return t.printResult(id, err)
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
	first := cfg.Listeners[0].Auth
	for _, s := range cfg.AuthSections() {
		if !reflect.DeepEqual(s.Stores, first.Stores) || s.Realm != first.Realm {
			return config.Auth{}, usageError("the listeners have different stores; name one of %s with --listener", strings.Join(names, ", "))
		}
	}
	return first, nil
}

// clientAddress returns the address of the client, by default that of this machine.
func (t authTest) clientAddress() (netip.Addr, error) {
	if t.client == "" {
		return netip.IPv6Loopback(), nil
	}
	a, err := netip.ParseAddr(t.client)
	if err != nil || a.Zone() != "" {
		return a, usageError("--client %q is not an IP address; write it like 192.0.2.7 or 2001:db8::7", t.client)
	}
	return a.Unmap(), nil
}

func (t authTest) readPassword(in io.Reader) (string, error) {
	if t.passwordFile != "" {
		f, err := os.Open(t.passwordFile)
		if err != nil {
			return "", usageError("cannot read the password: %w", err)
		}
		defer f.Close()
		return readPasswordLine(f)
	}
	if t.password == "-" {
		return readPasswordLine(in)
	}
	ask, err := newPrompter(in, t.errs)
	if err != nil {
		return "", usageError(`%w; use "-p -" to read the password from it, or --password-file`, err)
	}
	return ask.ask(fmt.Sprintf("Password of %s: ", t.user))
}

// login runs a complete AUTH PLAIN (RFC 4616), so that the result is that of the
// server. This process has no penalties and no cache.
func (t authTest) login(ctx context.Context, client netip.Addr, stores auth.PasswordVerifier, password string) (auth.Identity, error) {
	here := netip.AddrPortFrom(netip.IPv6Loopback(), 0)
	peer := &auth.Peer{Remote: netip.AddrPortFrom(client, 0), Local: here, TLS: new(tls.ConnectionState), Session: "auth-test"}
	e, err := auth.Local{Passwords: auth.WithPRECIS(stores)}.Start(ctx, peer, "PLAIN")
	if err != nil {
		return auth.Identity{}, err
	}
	defer e.Close()
	if _, _, err := e.Next(ctx, []byte("\x00"+t.user+"\x00"+password)); err != nil {
		return auth.Identity{}, err
	}
	return e.Identity(), nil
}

// printCall prints what one store was asked, and what it answered.
func (t authTest) printCall(call auth.StoreCall, client netip.Addr) {
	answer := "yes"
	if call.User != "" && call.User != call.Login {
		answer = fmt.Sprintf("yes, as user %q", call.User)
	}
	if no, ok := errors.AsType[*auth.Failure](call.Err); ok {
		answer = reason(no)
	} else if call.Err != nil {
		answer = call.Err.Error()
	}
	t.asked[call.Store] = true
	if call.Login == "" {
		fmt.Fprintf(t.out, "store %s was not asked: %s\n", call.Store, answer)
		return
	}
	from := ""
	if t.client != "" {
		from = " from " + client.String()
	}
	fmt.Fprintf(t.out, "store %s was asked for %q%s: %s (%v, %s)\n", call.Store, call.Login, from, answer, call.Took.Round(time.Millisecond), t.location(call.Store))
}

// printOthers prints the stores after the one that decided.
func (t authTest) printOthers() {
	if len(t.asked) == 0 { // no store was asked, and the result has the reason
		return
	}
	for _, s := range t.stores {
		if !t.asked[s.LogName()] {
			fmt.Fprintf(t.out, "store %s was not asked, since an earlier store decided\n", s.LogName())
		}
	}
}

// location returns where a store is.
func (t authTest) location(name string) string {
	i := slices.IndexFunc(t.stores, func(s config.Store) bool { return s.LogName() == name })
	if i < 0 {
		return "unknown"
	}
	return t.stores[i].Backend.Location()
}

// printResult prints the result of the login in one line. Its error has the exit
// status.
func (t authTest) printResult(id auth.Identity, err error) error {
	no, refused := errors.AsType[*auth.Failure](err)
	switch {
	case err == nil:
		fmt.Fprintf(t.out, "yes: store %s accepts %q as user %q\n", id.Store, t.user, id.User)
		return nil
	case refused && no.Store == "":
		fmt.Fprintf(t.out, "no: %q: %s\n", t.user, reason(no))
	case refused:
		fmt.Fprintf(t.out, "no: store %s refuses %q: %s\n", no.Store, t.user, reason(no))
	case errors.Is(err, auth.ErrMalformed):
		fmt.Fprintln(t.out, "no: no mechanism can send such a login or password (empty, with a NUL, or more than 12,288 octets)")
	default:
		return process.WithStatus(process.ExitTempFail, fmt.Errorf("no store could answer: %w", err))
	}
	return process.StatusOnly(process.ExitFailure)
}

func reason(no *auth.Failure) string {
	if no.Reason == "" {
		return no.Kind.String()
	}
	return no.Kind.String() + ": " + no.Reason
}
