// Package check tests a configuration without serving: it opens everything that the
// server would open and prints the results, for "postern check".
//
//	check       the order, the output, and the process: ports, user, sandbox
//	parts       certificates, stores, policy, next hops, keys
//	containers  networks in which many clients can have one address
package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"

	"postern/cmd/postern/internal/app"
	"postern/cmd/postern/internal/config"
	"postern/cmd/postern/internal/logging"
	"postern/cmd/postern/internal/process"
	"postern/internal/fileperm"
	"postern/relay/spool"
)

// Run checks a configuration file and prints one result for each part, in the order
// in which a message passes them. It reports whether the server could start and
// deliver messages.
//
// As root, with server.user set, the process becomes that user for good.
func Run(ctx context.Context, file string, out io.Writer) bool {
	return runOn(ctx, thisMachine(), file, out)
}

func runOn(ctx context.Context, m machine, file string, out io.Writer) bool {
	c := &checker{machine: m, file: file, out: out, log: slog.New(slog.DiscardHandler)}
	cfg, err := config.LoadOnce(file)
	c.result("configuration", file, err)
	if err == nil {
		c.cfg, c.app = cfg, app.New(cfg, logging.With(c.log))
		defer c.app.Close()
		c.all(ctx)
	}
	return !c.failed
}

// A checker prints the results for one configuration.
type checker struct {
	machine machine
	file    string
	out     io.Writer
	log     *slog.Logger // discards everything: check prints the errors itself
	cfg     *config.Config
	app     *app.App
	failed  bool
}

func (c *checker) all(ctx context.Context) {
	if err := c.app.StartPAM(c.cfg); err != nil { // before root is dropped, as in serve
		c.result("PAM", "", err)
	}
	c.ports()
	if !c.user() {
		return
	}
	for path, s := range c.cfg.TLSSections() {
		c.certificates(s, c.listener(path))
	}
	for path, s := range c.cfg.AuthSections() {
		c.stores(ctx, s, c.listener(path))
	}
	c.policies(ctx)
	c.stage()
	c.state()
	for path, s := range c.cfg.RelaySections() {
		c.nextHops(ctx, s, c.listener(path))
	}
	if dir := c.cfg.Relay.Dir; dir != "" {
		c.result("spool", dir, errors.Join(fileperm.Check(dir, fileperm.Public), spool.Check(dir)))
	}
	for path, s := range c.cfg.RelaySections() {
		c.keys(s.DKIM, c.listener(path))
	}
	for _, w := range app.FileWarnings(c.cfg.Access(c.file)) {
		c.warn("file", w.Key+": "+w.Text)
	}
	c.sandbox()
}

// state checks the folder for what survives a restart.
func (c *checker) state() {
	if dir := c.cfg.StateDir(); dir != "" {
		c.result("state", dir, app.CheckStateDir(dir))
		return
	}
	c.line("note", "state", "nothing survives a restart, so that after it every client is unknown; set server.state_dir, or create\n"+
		"/var/lib/postern for the user of the server")
}

// stage checks the folder for large messages, and its space.
func (c *checker) stage() {
	err := app.CheckStageDir(c.cfg.StageFolder())
	if err != nil {
		c.result("stage", "", err)
		return
	}
	text, warning := app.CheckStageSpace(c.cfg.StageFolder(), &c.cfg.Server)
	c.result("stage", text, nil)
	if warning != "" {
		c.warn("stage", warning)
	}
}

// listener returns the suffix for results about a section that only one listener
// uses. It is empty for the shared section.
func (c *checker) listener(path string) string {
	if name := c.cfg.ListenerOf(path); name != "" {
		return fmt.Sprintf(" (listener %s)", name)
	}
	return ""
}

// result prints "ok", or "FAIL" with the error.
func (c *checker) result(what, which string, err error) {
	if err != nil {
		c.failed = true
		c.line("FAIL", what, err.Error())
		return
	}
	c.line("ok", what, which)
}

func (c *checker) warn(what, text string) { c.line("warn", what, text) }

// line indents further lines of text.
func (c *checker) line(word, what, text string) {
	fmt.Fprintf(c.out, "%-4s  %-13s  %s\n", word, what, strings.ReplaceAll(text, "\n", "\n"+strings.Repeat(" ", 21)))
}

// ports checks whether the addresses of the listeners are free. One that is in use
// is a warning only: Postfix may use it until the migration, or postern itself
// while it runs.
func (c *checker) ports() {
	for i := range c.cfg.Listeners {
		l := &c.cfg.Listeners[i]
		for _, address := range l.Address {
			c.port(fmt.Sprintf("%s (listener %s)", address, l.Name), address)
		}
	}
}

func (c *checker) port(what, address string) {
	inUse, err := process.PortInUse(address)
	if err != nil || !inUse {
		c.result("port", what+" is free", err)
		return
	}
	holders := process.PortHolders(address)
	if slices.ContainsFunc(holders, isPostern) {
		c.result("port", fmt.Sprintf("%s is in use by postern already: %s", what, portHolder(holders)), nil)
		return
	}
	c.warn("port", fmt.Sprintf("%s is in use by %s\nstop that process before postern starts; if it is Postfix, remove submission and "+
		"submissions from its master.cf", what, portHolder(holders)))
}

func isPostern(h process.PortHolder) bool { return strings.HasPrefix(h.Name, "postern") }

// portHolder names the processes that use a port, as far as they are known.
func portHolder(holders []process.PortHolder) string {
	if len(holders) == 0 {
		return fmt.Sprintf("a process that user %s cannot see; it may be postern (run \"ss -ltnp\" as root)", process.CurrentAccount().Name)
	}
	var names []string
	for _, h := range holders {
		names = append(names, h.String())
	}
	return few(names)
}

// user drops root as serve does, because root can read files that the user of the
// server cannot. It reports whether the other checks can follow.
func (c *checker) user() bool {
	if os.Geteuid() == 0 && c.cfg.Server.User == "" {
		c.warn("user", "this check runs as root, which can read every file, but without server.user the server does not start as root; "+
			"run the check as the user of the server: setpriv --reuid USER --regid USER --init-groups postern check")
		return true
	}
	a, err := process.ChooseAccount(c.cfg.Server.User)
	if err == nil {
		err = process.DropPrivileges(a, c.log)
	}
	if err == nil && a != nil && !config.IsStream(c.file) {
		_, err = config.Load(c.file)
	}
	c.result("user", process.CurrentAccount().Name, err)
	return err == nil
}

// sandbox prints what serve can do in its sandbox. check does not enter it.
func (c *checker) sandbox() {
	if !c.cfg.Server.Sandbox {
		c.warn("sandbox", "none, because server.sandbox = false")
		return
	}
	text, err := process.NewSandbox(c.cfg.Access(c.file)).Describe()
	if err != nil {
		c.warn("sandbox", "none: "+err.Error())
		return
	}
	c.result("sandbox", text, nil)
}

// few joins the first ten names and adds the number of the others.
func few(names []string) string {
	const shown = 10
	if more := len(names) - shown; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:shown], ", "), more)
	}
	return strings.Join(names, ", ")
}
