package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"postern/server/auth"
	"postern/server/auth/hash"
	"postern/server/auth/userfile"
)

func passwdCommand() *cobra.Command {
	var p newPassword
	cmd := &cobra.Command{
		Use:   "passwd FILE USER",
		Short: "Set a password in a user file",
		Long: `Asks twice for the new password of USER and writes its hash into FILE, which has
the format of Apache's htpasswd. A running server reads the change within a
second. FILE is replaced; a file that cannot be replaced, because it is mounted by
itself in a container, is changed in place after a warning.`,
		Example: "  postern passwd /etc/postern/users alice@example.org\n" +
			"  pwgen 20 1 | tee /dev/tty | postern passwd --stdin /etc/postern/users alice",
		Args: operands("FILE", "USER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p.file, p.user = args[0], args[1]
			return p.set(cmd.InOrStdin(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().BoolVar(&p.stdin, "stdin", false, "read the password from standard input, once: its first line")
	cmd.Flags().StringVar(&p.scheme, "scheme", hash.Schemes()[0], "hash scheme: "+strings.Join(hash.Schemes(), ", "))
	_ = cmd.RegisterFlagCompletionFunc("scheme", cobra.FixedCompletions(hash.Schemes(), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// A newPassword is the password of one user in one file.
type newPassword struct {
	file, user, scheme string
	stdin              bool
}

func (p newPassword) set(in io.Reader, questions io.Writer) error {
	if !slices.Contains(hash.Schemes(), p.scheme) {
		return usageError("there is no scheme %q; choose one of %s", p.scheme, strings.Join(hash.Schemes(), ", "))
	}
	password, err := p.read(in, questions)
	if err != nil {
		return err
	}
	if password == "" {
		return errors.New("the password is empty, and no login with an empty password succeeds; nothing was changed")
	}
	hashed, err := hash.New(p.scheme, auth.PreparePassword(password))
	if err != nil {
		return err
	}
	return userfile.SetPassword(p.file, p.user, hashed, func(why string) { fmt.Fprintln(questions, "warning: "+why) })
}

func (p newPassword) read(in io.Reader, questions io.Writer) (string, error) {
	if p.stdin {
		return readPasswordLine(in)
	}
	ask, err := newPrompter(in, questions)
	if err != nil {
		return "", usageError("%w; use --stdin to read the password from it", err)
	}
	return ask.askTwice(fmt.Sprintf("New password for %s: ", p.user), "Repeat it: ")
}
