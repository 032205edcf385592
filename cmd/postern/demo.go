package main

import (
	"github.com/spf13/cobra"

	"postern/cmd/postern/internal/demo"
	"postern/cmd/postern/internal/process"
	"postern/relay"
)

func demoCommand() *cobra.Command {
	d := new(demo.Demo)
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run a trial server on this machine",
		Long: `Creates a folder "postern-demo" with a self-signed certificate, a user with a
random password and a configuration, and runs a server with it on loopback, on
ports 587 and 465, or on 1587 and 1465 if those are not available. Messages are
written to postern-demo/mail. A later run uses the same folder.

As the first process of a container it listens on all addresses, since published
ports do not reach loopback, and the folder is in $TMPDIR or /tmp if the working
directory is read-only.`,
		Args: operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if d.Once && d.Relay != "" {
				return usageError("--once searches the demo's own mailbox for its message, so it cannot be combined with --relay")
			}
			if err := new(relay.HopURL).UnmarshalText([]byte(d.Relay)); d.Relay != "" && err != nil {
				return usageError("--relay: %w", err)
			}
			d.Version, d.Out, d.Errs = versionString(), cmd.OutOrStdout(), cmd.ErrOrStderr()
			return d.Run(cmd.Context())
		},
	}
	cmd.Flags().BoolVar(&d.Once, "once", false, "send one message through the server, print the dialogue, and exit")
	cmd.Flags().StringVar(&d.Relay, "relay", "", "relay messages to this next hop, such as smtp://localhost:25, instead of writing them to the mailbox")
	cmd.Flags().BoolVar(&d.Public, "public", process.FirstInContainer(), "listen on all addresses, for a published port of a container")
	return cmd
}
