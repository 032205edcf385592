// Package check tests a configuration without serving: it opens everything that the
// server would open and reports the results, for "postern check" and "postern doctor".
//
//	check         the order
//	report        entries, as text or JSON
//	clock         whether the clock can be right
//	names         the name of the server, and what ports are registered for
//	process       ports, user, folders, sandbox
//	certificates  certificates and DKIM keys
//	stores        stores and mechanisms
//	policies      restrictions and their tables
//	resolver      whether the DNS can be asked
//	hops          next hops
//	containers    networks in which many clients can have one address
package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"postern/cmd/postern/internal/app"
	"postern/cmd/postern/internal/config"
	"postern/cmd/postern/internal/logging"
	"postern/internal/fileperm"
	"postern/relay"
	"postern/relay/spool"
)

// Options change what is checked.
type Options struct {
	// Offline leaves out everything that needs the network: next hops, and stores that
	// are servers.
	Offline bool

	// To is the address outside the own domains that next hops are asked about, without
	// a message being sent. Empty means one of a domain that accepts no mail (RFC 7505).
	To string
}

func (o Options) outside() string { return cmp.Or(o.To, "postmaster@example.net") }

// Validate returns an error if To is no address that every hop can be asked about.
func (o Options) Validate() error {
	to := asciiDomain(o.outside())
	if at := strings.LastIndexByte(to, '@'); at < 1 || at == len(to)-1 {
		return fmt.Errorf("--to %q: expected an address, such as %q", o.To, "postmaster@example.net")
	}
	if err := relay.CheckRecipient(&relay.Envelope{}, to, nil); err != nil {
		return fmt.Errorf("--to %q: expected an ASCII address without unquoted special characters, such as %q", o.To, "postmaster@example.net")
	}
	return nil
}

// Run checks a configuration file and adds one entry for each part to the report, in the
// order in which a message passes them. It returns the configuration, or nil if it is
// invalid.
//
// As root, with server.user set, the process becomes that user for good.
func Run(ctx context.Context, file string, opts Options, report *Report) *config.Config {
	return runOn(ctx, thisMachine(), file, opts, report)
}

func runOn(ctx context.Context, m machine, file string, opts Options, report *Report) *config.Config {
	c := &checker{machine: m, file: file, opts: opts, report: report, log: slog.New(slog.DiscardHandler)}
	cfg, err := config.LoadOnce(file)
	report.Result("configuration", file, err)
	if err != nil {
		return nil
	}
	c.cfg, c.app = cfg, app.New(cfg, logging.With(c.log))
	defer c.app.Close()
	c.all(ctx)
	return cfg
}

// A checker checks one configuration.
type checker struct {
	machine machine
	file    string
	opts    Options
	report  *Report
	log     *slog.Logger // discards everything: the report has the errors
	cfg     *config.Config
	app     *app.App

	wrongFiles []string // files that have been reported because of what they contain
}

func (c *checker) all(ctx context.Context) {
	c.environment()
	if err := c.app.StartPAM(c.cfg); err != nil { // before root is dropped, as in serve
		c.report.Fail("PAM", err)
	}
	c.clock(time.Now())
	c.names()
	c.modes()
	c.ports()
	if !c.user() {
		return
	}
	for path, s := range c.cfg.TLSSections() {
		c.certificates(s, c.listener(path))
	}
	c.authorities()
	for path, s := range c.cfg.AuthSections() {
		c.stores(ctx, s, c.listener(path))
	}
	c.policies(ctx)
	c.resolver(ctx)
	c.logDestination()
	c.stage()
	c.state()
	for path, s := range c.cfg.RelaySections() {
		c.nextHops(ctx, s, c.listener(path))
	}
	if dir := c.cfg.Relay.Dir; dir != "" {
		c.report.Result("spool", dir, errors.Join(fileperm.Check(dir, fileperm.Public), spool.Check(dir)))
	}
	for path, s := range c.cfg.RelaySections() {
		c.keys(s.DKIM, c.listener(path))
	}
	for _, w := range app.FileWarnings(c.cfg.Access(c.file)) {
		if slices.ContainsFunc(c.wrongFiles, func(name string) bool { return strings.Contains(w.Text, name) }) {
			continue
		}
		c.report.Warn("file", w.Key+": "+w.Text)
	}
	c.sandbox()
}

// listener returns the suffix for results about a section that only one listener
// uses. It is empty for the shared section.
func (c *checker) listener(path string) string {
	if name := c.cfg.ListenerOf(path); name != "" {
		return fmt.Sprintf(" (listener %s)", name)
	}
	return ""
}

// few joins the first ten names and adds the number of the others.
func few(names []string) string {
	const shown = 10
	if more := len(names) - shown; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:shown], ", "), more)
	}
	return strings.Join(names, ", ")
}
