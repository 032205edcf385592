package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"postern/certs"
	"postern/cmd/postern/internal/app"
	"postern/cmd/postern/internal/config"
	"postern/cmd/postern/internal/logging"
	"postern/cmd/postern/internal/process"
	"postern/policy"
	"postern/relay"
	"postern/relay/sign"
	"postern/relay/spool"
	"postern/server/auth/hash"
)

// checkTime limits the time for each request of check to another program.
const checkTime = 20 * time.Second

func checkCommand() *cobra.Command {
	var config string
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Try out everything that the configuration names",
		Long: `Loads the configuration, opens every certificate, store and key, asks every next
hop, looks whether the ports are free, and says what works and what to do about
what does not. As root, with server.user set, it does so with the eyes of that
user.

The exit status is 0 if the server could start and deliver, else 1.`,
		Args: operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return check(cmd.Context(), config, cmd.OutOrStdout())
		},
	}
	configFlag(cmd, &config)
	return cmd
}

func check(ctx context.Context, config string, out io.Writer) error {
	c := &checkup{out: out}
	cfg, err := loadConfig(config)
	c.result("configuration", config, err)
	if err == nil {
		c.app = app.New(cfg, logging.With(slog.New(slog.DiscardHandler)))
		defer c.app.Close()
		c.all(ctx, cfg, config)
	}
	if c.failed {
		return process.Exit(process.ExitFailure)
	}
	return nil
}

// A checkup prints one line for each part of the server that it checks.
type checkup struct {
	out    io.Writer
	app    *app.App
	failed bool
}

// all checks the parts in the order in which a message passes them.
func (c *checkup) all(ctx context.Context, cfg *config.Config, file string) {
	if err := c.app.StartPAM(cfg); err != nil { // as serve does, before it gives up root
		c.result("PAM", "", err)
	}
	c.ports(cfg)
	if !c.becomeUser(cfg, file) {
		return
	}
	for path, s := range cfg.TLSSections() {
		c.certificates(s, listenerOf(cfg, path))
	}
	for path, s := range cfg.AuthSections() {
		c.stores(ctx, s, listenerOf(cfg, path))
	}
	c.policies(ctx, cfg)
	c.result("stage", "large messages in transit", app.CheckStageDir(cfg.Server.StageDir))
	for path, s := range cfg.RelaySections() {
		c.nextHops(ctx, s, listenerOf(cfg, path))
	}
	if dir := cfg.Relay.Dir; dir != "" {
		c.result("spool", dir, spool.Check(dir))
	}
	for path, s := range cfg.RelaySections() {
		c.keys(s.DKIM, listenerOf(cfg, path))
	}
	c.sandbox(cfg, file)
}

// listenerOf returns the suffix for results about a section that only some listeners
// use. It is empty for the shared section.
func listenerOf(cfg *config.Config, path string) string {
	if name := cfg.ListenerOf(path); name != "" {
		return fmt.Sprintf(" (listener %s)", name)
	}
	return ""
}

// ports checks whether the addresses of the listeners are free. One that is in use
// is a warning only: Postfix may use it until the migration, or postern itself
// while it runs.
func (c *checkup) ports(cfg *config.Config) {
	for i := range cfg.Listeners {
		l := &cfg.Listeners[i]
		for _, address := range l.Address {
			c.port(fmt.Sprintf("%s (listener %s)", address, l.Name), address)
		}
	}
}

func (c *checkup) port(what, address string) {
	inUse, err := process.PortInUse(address)
	if err != nil || !inUse {
		c.result("port", what+" is free", err)
		return
	}
	holders := process.PortHolders(address)
	if slices.ContainsFunc(holders, isPostern) {
		c.result("port", fmt.Sprintf("%s is in use by postern already: %s", what, listHolders(holders)), nil)
		return
	}
	c.warn("port", fmt.Sprintf("%s is in use by %s\nstop that before postern starts; if it is Postfix, remove submission and "+
		"submissions from its master.cf", what, portHolder(holders)))
}

// sandbox prints what serve can do in its sandbox. check does not enter it.
func (c *checkup) sandbox(cfg *config.Config, file string) {
	if !cfg.Server.Sandbox {
		c.warn("sandbox", "none, as server.sandbox = false asks for")
		return
	}
	text, err := process.NewSandbox(cfg.Access(file)).Describe()
	if err != nil {
		c.warn("sandbox", "none: "+err.Error())
		return
	}
	c.result("sandbox", text, nil)
}

func isPostern(h process.PortHolder) bool { return strings.HasPrefix(h.Name, "postern") }

// portHolder names the processes that use a port, as far as they are known.
func portHolder(holders []process.PortHolder) string {
	if len(holders) == 0 {
		return fmt.Sprintf("a process that user %s cannot see; it may be postern (run \"ss -ltnp\" as root)", process.CurrentAccount().Name)
	}
	return listHolders(holders)
}

func listHolders(all []process.PortHolder) string {
	var texts []string
	for _, h := range all {
		texts = append(texts, h.String())
	}
	return few(texts)
}

// result prints "ok" or "FAIL" with the reason, continued lines indented.
func (c *checkup) result(what, which string, err error) {
	if err != nil {
		c.failed = true
		c.line("FAIL", what, err.Error())
		return
	}
	c.line("ok", what, which)
}

func (c *checkup) warn(what, text string) { c.line("warn", what, text) }

func (c *checkup) line(word, what, text string) {
	fmt.Fprintf(c.out, "%-4s  %-13s  %s\n", word, what, strings.ReplaceAll(text, "\n", "\n"+strings.Repeat(" ", 21)))
}

// becomeUser drops root as serve does, because root can read files that the
// server's user cannot. It reports whether to go on.
func (c *checkup) becomeUser(cfg *config.Config, file string) bool {
	if os.Geteuid() == 0 && cfg.Server.User == "" {
		c.warn("user", "looking as root, which can read everything; without server.user the server does not start as root, "+
			"so look as its user: setpriv --reuid USER --regid USER --init-groups postern check")
		return true
	}
	a, err := process.ChooseAccount(cfg.Server.User)
	if err == nil {
		err = process.DropPrivileges(a, slog.New(slog.DiscardHandler))
	}
	if err == nil && a != nil {
		_, err = loadConfig(file)
	}
	c.result("user", process.CurrentAccount().Name, err)
	return err == nil
}

func (c *checkup) certificates(cfg certs.Config, suffix string) {
	for _, p := range cfg.Certificates {
		one := certs.Config{Certificates: []certs.Pair{p}, MinVersion: cfg.MinVersion}
		files, err := certs.OpenFiles(one, certs.NewLog(slog.New(slog.DiscardHandler)), process.ExplainUnreadable)
		if err != nil {
			c.result("certificate", p.Cert+suffix, err)
			continue
		}
		for _, i := range files.Infos() {
			c.certificate(i, suffix)
		}
	}
}

func (c *checkup) certificate(i certs.Info, suffix string) {
	text := fmt.Sprintf("%s: %s, %s, until %s", i.Cert, strings.Join(i.Names, " "), i.Algorithm, i.NotAfter.Format(time.DateOnly)) + suffix
	if i.Warning != "" {
		c.warn("certificate", text+"\n"+i.Warning)
		return
	}
	c.result("certificate", text, nil)
}

// tables asks each lookup table once, even if several listeners use it.
func (c *checkup) tables(ctx context.Context, sets map[string]*policy.Set) {
	seen := make(map[string]bool)
	for _, listener := range slices.Sorted(maps.Keys(sets)) {
		sets[listener].Check(ctx, func(table string, err error) {
			if !seen[table] {
				c.result("table", table, err)
			}
			seen[table] = true
		})
	}
}

func (c *checkup) policies(ctx context.Context, cfg *config.Config) {
	sets, err := app.Policies(cfg)
	c.result("policy", "every list is understood, and none makes an open relay", err)
	c.tables(ctx, sets)
	seen := make(map[policy.Warning]bool)
	for i := range cfg.Listeners {
		l := &cfg.Listeners[i]
		around := policy.Context{
			RequireAuth: l.RequireAuth,
			Proxies:     cfg.Server.ProxyTrusted,
			Gateways:    containerNetworks(),
		}
		for _, w := range l.Policy.Lint(around) {
			if !seen[w] {
				c.warn("policy", fmt.Sprintf("%s (listener %s): %s", w.Key, l.Name, w.Text))
			}
			seen[w] = true
		}
	}
}

func (c *checkup) nextHops(ctx context.Context, cfg config.Relay, suffix string) {
	router, err := relay.New(cfg.Config, relay.NewLog(slog.New(slog.DiscardHandler)))
	if err != nil {
		c.result("relay", "", process.ExplainUnreadable(err))
		return
	}
	var local []string
	for _, h := range router.Hops() {
		ctx, cancel := context.WithTimeout(ctx, checkTime)
		c.result("relay", "next hop "+h.String()+suffix, h.Check(ctx))
		if h.OnThisMachine(ctx) {
			local = append(local, h.String())
		}
		cancel()
	}
	if len(local) > 0 {
		c.headerRewriting(local, len(cfg.DKIM) > 0)
	}
	if err := router.Close(); err != nil {
		c.result("relay", "", err)
	}
}

// headerRewriting describes the setting with which Postfix changes header fields
// of clients on its own machine, which it does by default. Nothing in the SMTP
// dialogue shows whether it is switched off already, so this is no warning.
func (c *checkup) headerRewriting(hops []string, signed bool) {
	effect := "."
	if signed {
		effect = "\nand the signatures of the DKIM keys below do not verify."
	}
	c.line("note", "relay", "on this machine: "+few(hops)+"; if that is Postfix, it rewrites the headers it gets from here:\n"+
		"\"From: Smith, John <john@example.org>\" gets a domain after \"Smith\""+effect+"\n"+
		"switch that off: postconf -e 'local_header_rewrite_clients =' && postfix reload\n"+
		"or for one entry of master.cf: -o local_header_rewrite_clients=")
}

func (c *checkup) keys(keys []sign.Key, suffix string) {
	for _, k := range keys {
		_, err := sign.New([]sign.Key{k}, sign.NewLog(slog.New(slog.DiscardHandler)))
		c.result("DKIM key", fmt.Sprintf("%s, selector %s: %s", k.Domain, k.Selector, k.File)+suffix, process.ExplainUnreadable(err))
	}
}

// stores opens each store by itself, so that each has a line of output.
func (c *checkup) stores(ctx context.Context, cfg config.Auth, suffix string) {
	for _, s := range cfg.Stores {
		users, err := c.app.CheckStore(ctx, cfg, s)
		c.result("store", s.String()+suffix, err)
		c.warnOfScram(users)
	}
	names, err := c.app.CheckMechanisms(ctx, cfg)
	c.result("mechanisms", strings.Join(names, " ")+suffix, err)
}

// warnOfScram names the users that SCRAM locks out, and what to do about it.
func (c *checkup) warnOfScram(users app.ScramUsers) {
	const remedy = "\nset a new password for each: postern passwd --scheme scram-sha-256"
	if len(users.WithoutKeys) > 0 {
		c.warn("store", fmt.Sprintf("SCRAM is offered, and locks out users that have no keys for it: %s", few(users.WithoutKeys))+remedy)
	}
	if n := len(users.Costly); n > 0 {
		c.warn("store", fmt.Sprintf("SCRAM is offered, and the keys of %d users have more than %d iterations, "+
			"which clients with Cyrus SASL, such as Postfix, refuse to compute: %s", n, hash.CyrusMaxIterations, few(users.Costly))+remedy)
	}
}

// few joins the first ten names and adds the number of the others.
func few(names []string) string {
	const most = 10
	if more := len(names) - most; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), more)
	}
	return strings.Join(names, ", ")
}
