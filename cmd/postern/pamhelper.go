package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"postern/cmd/postern/internal/logging"
	"postern/cmd/postern/internal/process"
	"postern/server/auth/pam"
)

// A pamHelper is the command line of the helper. Only processes that postern starts
// have child and inherited.
type pamHelper struct {
	socket       string
	mode         string
	group        string
	users        []string
	services     []string
	combineRealm bool
	processes    int
	timeout      time.Duration
	folder       string
	child        bool
	inherited    bool
}

func pamHelperCommand() *cobra.Command {
	var o pamHelper
	cmd := &cobra.Command{
		Use:   "pam-helper",
		Short: "Verify passwords with PAM, as root",
		Long: `Verifies passwords for other processes, over a Unix socket and in the protocol of
saslauthd: for a postern that does not run as root, or for Postfix in place of
saslauthd. The helper starts a new process for each password, and kills it after
--timeout.

The helper accepts requests only from root and from the users of --allow-user. The
kernel reports the user of the process that sends a request.

SIGTERM  (or SIGINT) ends the helper and all its processes`,
		Example: `  postern pam-helper --allow-user postern
  postern pam-helper --allow-user postfix --socket /var/spool/postfix/var/run/saslauthd/mux`,
		Args: operands(),
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context(), cmd.ErrOrStderr()) },
	}
	o.flags(cmd)
	return cmd
}

func (o *pamHelper) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.socket, "socket", pam.DefaultSocket, "`path` of the socket")
	f.StringVar(&o.mode, "mode", "0660", "`mode` of the socket")
	f.StringVar(&o.group, "group", "", "`group` of the socket (default: that of the first --allow-user that has a name)")
	f.StringSliceVar(&o.users, "allow-user", nil, "`user` whose processes may send requests, by name or number; may be repeated")
	f.StringSliceVar(&o.services, "service", []string{pam.Defaults().Service}, "PAM `service` that requests may name; may be repeated")
	f.BoolVarP(&o.combineRealm, "combine-realm", "r", false, "send user@realm to PAM for a login with a realm, as saslauthd -r does")
	f.IntVar(&o.processes, "processes", 16, "maximum number of `processes` at once")
	f.DurationVar(&o.timeout, "timeout", 30*time.Second, "`time` for an answer, including the wait for a process")
	f.StringVar(&o.folder, "pam-dir", "", "`folder` of the PAM service files instead of /etc/pam.d")
	f.BoolVar(&o.child, "child", false, "verify one password for the helper")
	f.BoolVar(&o.inherited, "inherited", false, "serve the postern that started this process")
	for _, internal := range []string{"child", "inherited"} {
		_ = f.MarkHidden(internal) // fails only for a flag that does not exist
	}
}

func (o *pamHelper) run(ctx context.Context, stderr io.Writer) error {
	if !pam.Available {
		return process.WithStatus(process.ExitConfig, pam.ErrNotBuilt)
	}
	// A core dump would contain passwords.
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}); err != nil {
		return fmt.Errorf("cannot disable core dumps: %w", err)
	}
	if o.child {
		return pam.Child(o.folder)
	}
	return o.serve(ctx, stderr)
}

func (o *pamHelper) serve(ctx context.Context, stderr io.Writer) error {
	if o.processes < 1 || o.timeout < time.Second {
		return usageError("--processes must be at least 1, and --timeout at least 1s")
	}
	ctx, stop := o.until(ctx)
	defer stop()
	log, err := logging.Open(logging.Defaults(), stderr)
	if err != nil {
		return err
	}
	l, err := o.listen(log)
	if err != nil {
		return err
	}
	h := pam.NewHelper(pam.HelperConfig{
		Services: o.services, CombineRealm: o.combineRealm,
		Processes: o.processes, Timeout: o.timeout,
		Child: o.childCommand, Log: log.Logger,
	})
	log.Info("the PAM helper is ready", "socket", l.Addr().String(), "pid", os.Getpid(), "services", o.services)
	err = h.Serve(ctx, l)
	log.Info("the PAM helper has ended")
	return err
}

// until returns a context that ends at a signal. A helper that postern has started
// ends with that postern instead: a service manager sends signals to both, and logins
// in progress need the helper until postern has drained. Signals that must not end
// the helper are caught and not ignored, because its children would inherit that.
func (o *pamHelper) until(ctx context.Context) (context.Context, context.CancelFunc) {
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGPIPE) // the reader of the log has ended
	if o.inherited {
		signal.Notify(caught, syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM)
		return context.WithCancel(ctx)
	}
	return signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
}

func (o *pamHelper) listen(log *logging.Log) (net.Listener, error) {
	if o.inherited {
		return pam.Inherited()
	}
	if err := pam.CloseInherited(int(os.Stderr.Fd()) + 1); err != nil {
		return nil, err
	}
	cfg, err := o.socketConfig()
	if err != nil {
		return nil, err
	}
	cfg.Log = log.Logger
	if os.Geteuid() != 0 {
		log.Warn("this is not root: PAM will only know about the user who runs it", "user", process.CurrentAccount().Name)
	}
	if len(cfg.Users) == 0 {
		log.Warn("only root may ask; name others with --allow-user")
	}
	return pam.Listen(cfg)
}

// socketConfig looks up the users and the group.
func (o *pamHelper) socketConfig() (pam.SocketConfig, error) {
	mode, err := strconv.ParseUint(o.mode, 8, 9)
	if err != nil {
		return pam.SocketConfig{}, usageError("--mode %s is not an octal mode without special bits; write one such as 0660", o.mode)
	}
	cfg := pam.SocketConfig{Path: o.socket, Mode: fs.FileMode(mode), GID: os.Getegid()}
	for i, name := range o.users {
		uid, gid, err := allowed(name)
		if err != nil {
			return cfg, err
		}
		cfg.Users = append(cfg.Users, uid)
		if i == 0 && gid >= 0 {
			cfg.GID = gid
		}
	}
	if o.group != "" {
		cfg.GID, err = lookupGroup(o.group)
	}
	return cfg, err
}

// allowed returns the IDs of a user of --allow-user. A number may belong to a user that
// exists in another container only; its group is then unknown, which is -1.
func allowed(name string) (uid, gid int, err error) {
	a, err := process.LookupAccount(name)
	if err == nil {
		return a.UID, a.GID, nil
	}
	number, notNumber := strconv.ParseUint(name, 10, 31)
	if notNumber != nil {
		return 0, -1, usageError("--allow-user: there is no user %q on this machine; if the user exists only in another container, write its number", name)
	}
	return int(number), -1, nil
}

func lookupGroup(name string) (int, error) {
	g, err := user.LookupGroup(name)
	if err != nil {
		g, err = user.LookupGroupId(name)
	}
	if number, notNumber := strconv.ParseUint(name, 10, 31); err != nil && notNumber == nil {
		return int(number), nil
	}
	if err != nil {
		return 0, usageError("--group: there is no group %q on this machine; if the group exists only in another container, write its number", name)
	}
	return strconv.Atoi(g.Gid)
}

// childCommand returns the command that verifies one password. It is the running
// program, even if a newer one has been installed under its name.
func (o *pamHelper) childCommand(ctx context.Context) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "pam-helper", "--child")
	if o.folder != "" {
		cmd.Args = append(cmd.Args, "--pam-dir", o.folder)
	}
	cmd.Stderr = os.Stderr
	return cmd
}
