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

// pamHelperOptions are the command line of the helper. child and inherited are
// for the processes that postern starts itself.
type pamHelperOptions struct {
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
	var o pamHelperOptions
	cmd := &cobra.Command{
		Use:   "pam-helper",
		Short: "Ask PAM for others, as root",
		Long: `Answers on a Unix socket whether a password is right, in the protocol of
saslauthd: for a postern that does not run as root, or in the place of saslauthd
for anybody's Postfix. Each question is answered by a process of its own, which
is killed when it takes too long.

Who may ask is told by the kernel: root, and the users of --allow-user.

SIGTERM  (or SIGINT) ends it with all its processes`,
		Example: `  postern pam-helper --allow-user postern
  postern pam-helper --allow-user postfix --socket /var/spool/postfix/var/run/saslauthd/mux`,
		Args: operands(),
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context(), cmd.ErrOrStderr()) },
	}
	o.flags(cmd)
	return cmd
}

func (o *pamHelperOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.socket, "socket", pam.DefaultSocket, "`path` of the socket")
	f.StringVar(&o.mode, "mode", "0660", "`mode` of the socket")
	f.StringVar(&o.group, "group", "", "`group` of the socket (default: that of the first --allow-user, if he is in passwd)")
	f.StringSliceVar(&o.users, "allow-user", nil, "`user` who may ask, by name or number; may be repeated")
	f.StringSliceVar(&o.services, "service", []string{pam.Defaults().Service}, "PAM `service` that may be asked; may be repeated")
	f.BoolVarP(&o.combineRealm, "combine-realm", "r", false, "make user@realm of a login with a realm, as saslauthd -r does")
	f.IntVar(&o.processes, "processes", 16, "most `processes` at once")
	f.DurationVar(&o.timeout, "timeout", 30*time.Second, "`time` for an answer, the waiting for a process included")
	f.StringVar(&o.folder, "pam-dir", "", "`folder` of the PAM service files, to try out others than /etc/pam.d")
	f.BoolVar(&o.child, "child", false, "answer one question of the helper")
	f.BoolVar(&o.inherited, "inherited", false, "serve the postern that has started this process")
	for _, internal := range []string{"child", "inherited"} {
		_ = f.MarkHidden(internal) // fails only for a flag that is not there
	}
}

func (o *pamHelperOptions) run(ctx context.Context, stderr io.Writer) error {
	if !pam.Available {
		return process.WithStatus(process.ExitConfig, pam.ErrNotBuilt)
	}
	// A core dump would hold passwords.
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}); err != nil {
		return fmt.Errorf("cannot switch core dumps off: %w", err)
	}
	if o.child {
		return pam.Child(o.folder)
	}
	return o.serve(ctx, stderr)
}

func (o *pamHelperOptions) serve(ctx context.Context, stderr io.Writer) error {
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

// until is the life of the helper: that of the postern that has started it, or
// until a signal. The signals of a service manager reach both, and a login
// that postern is still draining wants its answer. What is not to end the
// helper is caught and not ignored, for its children would inherit that.
func (o *pamHelperOptions) until(ctx context.Context) (context.Context, context.CancelFunc) {
	unheard := make(chan os.Signal, 1)
	signal.Notify(unheard, syscall.SIGPIPE) // a log that nobody reads any more
	if o.inherited {
		signal.Notify(unheard, syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM)
		return context.WithCancel(ctx)
	}
	return signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
}

func (o *pamHelperOptions) listen(log *logging.Log) (net.Listener, error) {
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

// socketConfig looks up names.
func (o *pamHelperOptions) socketConfig() (pam.SocketConfig, error) {
	mode, err := strconv.ParseUint(o.mode, 8, 9)
	if err != nil {
		return pam.SocketConfig{}, usageError("--mode %s: write it as chmod has it, such as 0660", o.mode)
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

// allowed is a user who may ask, and his group. A number may be that of a user whom
// only another container knows: then he has no group, which is -1.
func allowed(name string) (uid, gid int, err error) {
	a, err := process.LookupAccount(name)
	if err == nil {
		return a.UID, a.GID, nil
	}
	number, notNumber := strconv.ParseUint(name, 10, 31)
	if notNumber != nil {
		return 0, -1, usageError("--allow-user %s: there is no such user on this machine", name)
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
		return 0, usageError("--group %s: there is no such group on this machine", name)
	}
	return strconv.Atoi(g.Gid)
}

// self is this very program, also when a newer one has its name by now.
const self = "/proc/self/exe"

// childCommand is the process that answers one question.
func (o *pamHelperOptions) childCommand(ctx context.Context) *exec.Cmd {
	cmd := exec.CommandContext(ctx, self, "pam-helper", "--child")
	if o.folder != "" {
		cmd.Args = append(cmd.Args, "--pam-dir", o.folder)
	}
	cmd.Stderr = os.Stderr
	return cmd
}
