// Postern is an SMTP submission server (RFC 6409) with SASL built in: mail
// clients log in on port 587 or 465, a Postfix-style policy decides, and the
// message goes to the Postfix on the same machine.
//
// This package is the command line and the place where all parts are put
// together. serve.go builds them in the order in which a message meets them;
// backends.go is the table of what a configuration may name; config.go is the
// file. Each subcommand has a file of its name. To add one, write its file and
// add a line to newRoot.
package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"postern/cmd/postern/internal/config"
	"postern/cmd/postern/internal/process"
)

// defaultConfig is where serve, check, auth test and health look for the file.
const defaultConfig = "/etc/postern/config.toml"

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is main with everything that it touches handed in.
func run(args []string, in io.Reader, out, errs io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errs)
	cmd, err := root.ExecuteC()
	report(errs, cmd, err)
	return process.Status(err)
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "postern",
		Short:         "SMTP submission with SASL, in front of Postfix",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          knownCommand,

		SuggestionsMinimumDistance: 2,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return process.WithStatus(process.ExitUsage, err) })
	root.AddCommand(
		serveCommand(),
		checkCommand(),
		passwdCommand(),
		authCommand(),
		healthCommand(),
		pamHelperCommand(),
		dkimCommand(),
		queueCommand(),
		demoCommand(),
		versionCommand(),
	)
	return root
}

// report says what went wrong, and where to read on if it was the command line.
func report(w io.Writer, cmd *cobra.Command, err error) {
	if err == nil || err.Error() == "" {
		return
	}
	fmt.Fprintf(w, "postern: %v\n", err)
	if process.Status(err) == process.ExitUsage {
		fmt.Fprintf(w, "See '%s --help'.\n", cmd.CommandPath())
	}
}

// usageError returns an error about the command line.
func usageError(format string, args ...any) error {
	return process.WithStatus(process.ExitUsage, fmt.Errorf(format, args...))
}

// knownCommand refuses a word that is no command, and names the nearest one.
func knownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	cmd.SuggestionsMinimumDistance = 2 // edits, as cobra has it for its own message
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return usageError("there is no command %q; did you mean %q?", args[0], near[0])
	}
	return usageError("there is no command %q", args[0])
}

// operands demands exactly the operands named.
func operands(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usageError("%s is missing", strings.Join(names[len(args):], " and "))
		case len(args) > len(names):
			return usageError("%q is one operand too many", args[len(names)])
		}
		return nil
	}
}

// loadConfig reads the configuration. If permissions prevent that, the error has the
// command that changes them.
func loadConfig(path string) (*config.Config, error) {
	cfg, err := config.Load(path)
	return cfg, process.ExplainUnreadable(err)
}

// configFlag gives cmd its --config.
func configFlag(cmd *cobra.Command, path *string) {
	cmd.Flags().StringVarP(path, "config", "c", defaultConfig, "configuration `file`")
	_ = cmd.MarkFlagFilename("config", "toml")
}
