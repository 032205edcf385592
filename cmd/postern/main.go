// Postern is an SMTP submission server (RFC 6409) with SASL built in: mail clients
// log in on port 587 or 465, a Postfix-style policy decides, and messages are relayed
// to the Postfix on the same machine.
//
// This package has the command line, one file for each command. To add a command,
// write its file and add it to newRoot. The packages below internal do the work:
// config reads the file, app builds and runs the server, process deals with the
// operating system, logging writes the log, check and demo are the commands of these
// names.
package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"postern/cmd/postern/internal/process"
)

// defaultConfig is the default of --config.
const defaultConfig = "/etc/postern/config.toml"

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run executes a command line and returns the exit status.
func run(args []string, in io.Reader, out, errs io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errs)
	cmd, err := root.ExecuteC()
	if err != nil && err.Error() != "" {
		_ = printSafely(errs, func(out io.Writer) error { _, err := fmt.Fprintf(out, "postern: %v\n", err); return err })
	}
	if process.Status(err) == process.ExitUsage {
		fmt.Fprintf(errs, "See '%s --help'.\n", cmd.CommandPath())
	}
	return process.Status(err)
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "postern",
		Short:         "SMTP submission server with SASL, for Postfix",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          knownCommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError("%w", err) })
	root.AddCommand(
		serveCommand(),
		checkCommand(),
		doctorCommand(),
		passwdCommand(),
		authCommand(),
		healthCommand(),
		pamHelperCommand(),
		dkimCommand(),
		queueCommand(),
		demoCommand(),
		versionCommand(),
		manualCommand(),
	)
	return root
}

// usageError returns an error about the command line.
func usageError(format string, args ...any) error {
	return process.WithStatus(process.ExitUsage, fmt.Errorf(format, args...))
}

// knownCommand refuses arguments of a command that only has subcommands, and
// suggests the nearest subcommand.
func knownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	cmd.SuggestionsMinimumDistance = 2 // edits, the default of cobra
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return usageError("there is no command %q; did you mean %q?", args[0], near[0])
	}
	return usageError("there is no command %q", args[0])
}

// operands requires exactly the named operands.
func operands(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usageError("%s is missing", strings.Join(names[len(args):], " and "))
		case len(args) > len(names):
			return usageError("unexpected operand %q", args[len(names)])
		}
		return nil
	}
}

// configFlag adds --config to cmd.
func configFlag(cmd *cobra.Command, path *string) {
	cmd.Flags().StringVarP(path, "config", "c", defaultConfig, "configuration `file`")
	_ = cmd.MarkFlagFilename("config", "toml") // fails only for a flag that does not exist
}
