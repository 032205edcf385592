package main

import (
	"context"
	"io"
	"os/signal"

	"github.com/spf13/cobra"

	"postern/cmd/postern/internal/app"
	"postern/cmd/postern/internal/config"
	"postern/cmd/postern/internal/process"
)

func serveCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the server",
		Long: `Runs in the foreground and logs to stderr, as systemd and Docker expect.

SIGHUP   reads the configuration again, with all files that it names
SIGTERM  (or SIGINT) ends the server: it accepts no new connections, and waits up
         to server.shutdown_timeout for transactions in flight; a second signal
         ends it at once`,
		Args: operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return serve(cmd.Context(), file, cmd.ErrOrStderr())
		},
	}
	configFlag(cmd, &file)
	return cmd
}

func serve(ctx context.Context, file string, stderr io.Writer) error {
	signals := process.CatchSignals()
	defer signal.Stop(signals)
	d, err := app.NewDaemon(func() (*config.Config, error) { return config.Load(file) }, stderr)
	if err != nil {
		return err
	}
	defer d.Close()
	d.File, d.Version = file, versionString()
	become, err := process.ChooseAccount(d.Config().Server.User)
	if err != nil {
		return process.WithStatus(process.ExitConfig, err)
	}
	if err := d.Start(become); err != nil {
		return err
	}
	return d.Run(ctx, signals)
}
