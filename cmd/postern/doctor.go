package main

import (
	"io"

	"github.com/spf13/cobra"

	"postern/cmd/postern/internal/check"
	"postern/cmd/postern/internal/doctor"
	"postern/cmd/postern/internal/process"
)

func doctorCommand() *cobra.Command {
	var file, resolver string
	var asJSON, strict bool
	var opts check.Options
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check the set-up as the world sees it",
		Long: `Does what "postern check" does, and then looks at what mail clients and receivers
of mail see: the DNS records of server.hostname and server.origin (addresses, PTR,
SRV, MX, SPF, DKIM, DMARC, TLSA), and whether the ports answer at the public
addresses. Missing records are printed as lines of a zone file, ready to paste. No
message is sent.

The levels and the exit status are those of "postern check".`,
		Example: "  postern doctor\n  postern doctor --resolver 9.9.9.9",
		Args:    operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := opts.Validate(); err != nil {
				return usageError("%w", err)
			}
			return printSafely(cmd.OutOrStdout(), func(out io.Writer) error {
				report := check.NewReport(out, asJSON)
				if cfg := check.Run(cmd.Context(), file, opts, report); cfg != nil {
					doctor.Run(cmd.Context(), cfg, resolver, report)
				}
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
	cmd.Flags().StringVar(&resolver, "resolver", "", "`host[:port]` of the DNS server to ask instead of those in /etc/resolv.conf")
	cmd.Flags().BoolVar(&strict, "strict", false, "exit with status 1 for a warning, too")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object instead of text")
	cmd.Flags().StringVar(&opts.To, "to", "", "outside `address` that next hops are asked about; nothing is sent (default postmaster@example.net)")
	return cmd
}
