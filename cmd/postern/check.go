package main

import (
	"io"

	"github.com/spf13/cobra"

	"postern/cmd/postern/internal/check"
	"postern/cmd/postern/internal/process"
)

func checkCommand() *cobra.Command {
	var file string
	var asJSON, strict bool
	var opts check.Options
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Test everything that the configuration names",
		Long: `Reads the configuration, opens every certificate, store and key, asks every next hop
how it would answer a message, without sending one, checks whether the ports are free, and prints the results, with the next
step for each failure. If it is started as root and server.user is set, it becomes
that user before it opens anything.

Each entry begins with its level: ok; note, which is worth knowing; warn; or FAIL. The
exit status is 1 if an entry is FAIL, which means that the server could not start or
that clients or messages would be refused, and 0 otherwise.`,
		Args: operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := opts.Validate(); err != nil {
				return usageError("%w", err)
			}
			return printSafely(cmd.OutOrStdout(), func(out io.Writer) error {
				report := check.NewReport(out, asJSON)
				check.Run(cmd.Context(), file, opts, report)
				if err := report.Close(); err != nil {
					return err
				}
				if report.Has(check.Fail) || strict && report.Has(check.Warn) {
					return process.StatusOnly(process.ExitFailure)
				}
				return nil
			})
		},
	}
	configFlag(cmd, &file)
	cmd.Flags().BoolVar(&strict, "strict", false, "exit with status 1 for a warning, too")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object instead of text")
	cmd.Flags().StringVar(&opts.To, "to", "", "outside `address` that next hops are asked about; nothing is sent (default postmaster@example.net)")
	cmd.Flags().BoolVar(&opts.Offline, "offline", false, "use no network and no other server, as in a build pipeline")
	return cmd
}
