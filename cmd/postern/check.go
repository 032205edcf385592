package main

import (
	"io"

	"github.com/spf13/cobra"

	"postern/cmd/postern/internal/check"
	"postern/cmd/postern/internal/process"
)

func checkCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Test everything that the configuration names",
		Long: `Reads the configuration, opens every certificate, store and key, connects to every
next hop, checks whether the ports are free, and prints the results, with the next
step for each failure. If it is started as root and server.user is set, it becomes
that user before it opens anything.

The exit status is 0 if the server could start and deliver messages, and 1 if not.`,
		Args: operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return printSafely(cmd.OutOrStdout(), func(out io.Writer) error {
				if !check.Run(cmd.Context(), file, out) {
					return process.StatusOnly(process.ExitFailure)
				}
				return nil
			})
		},
	}
	configFlag(cmd, &file)
	return cmd
}
