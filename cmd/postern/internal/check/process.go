package check

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"postern/cmd/postern/internal/app"
	"postern/cmd/postern/internal/config"
	"postern/cmd/postern/internal/logging"
	"postern/cmd/postern/internal/process"
)

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
	if errors.Is(err, syscall.EACCES) {
		c.lowPort(what, err)
		return
	}
	if err != nil || !inUse {
		c.report.Result("port", what+" is free", process.ExplainBind(err))
		return
	}
	holders := process.PortHolders(address)
	if slices.ContainsFunc(holders, isPostern) {
		c.report.Result("port", fmt.Sprintf("%s is in use by postern already: %s", what, portHolder(holders)), nil)
		return
	}
	c.report.Warn("port", fmt.Sprintf("%s is in use by %s\nstop that process before postern starts; if it is Postfix, remove submission and "+
		"submissions from its master.cf", what, portHolder(holders)))
}

// lowPort reports a port that this process may not bind. A service can have rights that this
// check lacks: those that its unit gives, and those of root before it becomes server.user.
func (c *checker) lowPort(what string, err error) {
	if unit := process.PortUnit(); unit != "" {
		c.report.OK("port", fmt.Sprintf("%s is free; %s gives the service the right to bind it, which this check lacks", what, unit))
		return
	}
	if c.cfg.Server.User != "" {
		c.report.Note("port", fmt.Sprintf("%s is free; only root may bind it, so start serve as root: it then becomes server.user, %s", what, c.cfg.Server.User))
		return
	}
	c.report.Fail("port", fmt.Errorf("%s: %w", what, process.ExplainBind(err)))
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
		c.report.Warn("user", "this check runs as root, which can read every file, but without server.user the server does not start as root; "+
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
	c.report.Result("user", process.CurrentAccount().Name, err)
	return err == nil
}

// logDestination checks that the system log can be reached, if it is in use.
func (c *checker) logDestination() {
	if c.cfg.Log.Destination == logging.Syslog {
		c.report.Result("log", "the system log", logging.CheckDestination(c.cfg.Log))
	}
}

// stage checks the folder for large messages, and its space.
func (c *checker) stage() {
	err := app.CheckStageDir(c.cfg.StageFolder())
	if err != nil {
		c.report.Result("stage", "", err)
		return
	}
	text, warning := app.CheckStageSpace(c.cfg.StageFolder(), &c.cfg.Server)
	c.report.Result("stage", text, nil)
	if warning != "" {
		c.report.Warn("stage", warning)
	}
}

// state checks the folder for what survives a restart.
func (c *checker) state() {
	if dir := c.cfg.StateDir(); dir != "" {
		c.report.Result("state", dir, app.CheckStateDir(dir))
		return
	}
	c.report.Note("state", "nothing survives a restart, so that after it every client is unknown; set server.state_dir, or create\n"+
		"/var/lib/postern for the user of the server")
}

// sandbox prints what serve can do in its sandbox. check does not enter it.
func (c *checker) sandbox() {
	if !c.cfg.Server.Sandbox {
		c.report.Warn("sandbox", "none, because server.sandbox = false")
		return
	}
	text, err := process.NewSandbox(c.cfg.Access(c.file)).Describe()
	if err != nil {
		c.report.Warn("sandbox", "none: "+err.Error())
		return
	}
	c.report.Result("sandbox", text, nil)
}
