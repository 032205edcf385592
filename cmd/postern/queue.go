package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"postern/cmd/postern/internal/process"
	"postern/relay/spool"
)

// allMessages stands for every message, as in postsuper and postqueue.
const allMessages = "ALL"

func queueCommand() *cobra.Command {
	q := &queueCommands{}
	cmd := &cobra.Command{
		Use:   "queue",
		Short: "Look after the messages in the spool",
		Long: `The spool (relay.spool) holds messages that no next hop has answered for. These
commands work on its folder, as root or as the user of the server, whether the
server runs or not; it notices within a few seconds. A message that is being
handed on in that very moment goes its way.`,
		Args: knownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.PersistentFlags().StringVarP(&q.config, "config", "c", defaultConfig, "configuration `file`")
	cmd.AddCommand(
		q.list(),
		q.show(),
		q.each("flush [ID...]", "Try messages now: those named, or all", spool.Queued, (*spool.Browser).Flush),
		q.each("hold ID...", "Leave messages alone until they are released", spool.Queued, (*spool.Browser).Hold),
		q.each("release ID...", "Undo hold, and try the messages", spool.Held, (*spool.Browser).Release),
		q.each("remove ID...", "Throw messages away; nobody is told", "", (*spool.Browser).Remove),
	)
	return cmd
}

type queueCommands struct{ config string }

// open finds the folder in the configuration.
func (q *queueCommands) open() (*spool.Browser, error) {
	cfg, err := loadConfig(q.config)
	if err != nil {
		return nil, process.WithStatus(process.ExitConfig, err)
	}
	if cfg.Relay.Dir == "" {
		return nil, errors.New(`there is no spool: relay.spool is not set`)
	}
	b, err := spool.Browse(cfg.Relay.Dir)
	return b, process.ExplainUnreadable(err)
}

func (q *queueCommands) list() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the messages, the oldest first",
		Args:  operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			b, err := q.open()
			if err != nil {
				return err
			}
			items, err := b.List()
			if err != nil {
				return process.ExplainUnreadable(err)
			}
			return printItems(cmd.OutOrStdout(), items)
		},
	}
}

func printItems(out io.Writer, items []spool.Item) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if len(items) > 0 {
		fmt.Fprintln(t, "ID\tSTATE\tSIZE\tARRIVED\tTRIES\tSENDER\tWAITING")
	}
	for _, i := range items {
		arrived := ""
		if !i.Arrived.IsZero() {
			arrived = i.Arrived.Local().Format(time.DateTime)
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%d\t<%s>\t%s\n", i.ID, stateName(i), i.Size, arrived, i.Tries, i.Sender, waiting(i.Pending))
	}
	return t.Flush()
}

func stateName(i spool.Item) string {
	switch i.State {
	case spool.Held:
		return "held"
	case spool.Bad:
		return "damaged"
	}
	return "queued"
}

// waiting names the first recipients.
func waiting(to []string) string {
	const most = 3
	if len(to) <= most {
		return strings.Join(to, " ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(to[:most], " "), len(to)-most)
}

func (q *queueCommands) show() *cobra.Command {
	var text bool
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show one message and why it is still there",
		Args:  operands("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := q.open()
			if err != nil {
				return err
			}
			if text {
				_, err := b.Show(args[0], cmd.OutOrStdout())
				return process.ExplainUnreadable(err)
			}
			item, err := b.Show(args[0], nil)
			if err != nil {
				return process.ExplainUnreadable(err)
			}
			return printItem(cmd.OutOrStdout(), item)
		},
	}
	cmd.Flags().BoolVar(&text, "message", false, "print the message itself instead")
	return cmd
}

func printItem(out io.Writer, i spool.Item) error {
	next := "as soon as the next hop answers"
	if i.State != spool.Queued {
		next = "none"
	} else if time.Until(i.Next) > 0 {
		next = i.Next.Local().Format(time.DateTime)
	}
	_, err := fmt.Fprintf(out, "id            %s\nstate         %s\nsize          %d\narrived       %s\nlogin         %s\nsender        <%s>\n"+
		"tries         %d\nnext attempt  %s\nreason        %s\ndone with     %d recipients\nwaiting       %s\n",
		i.ID, stateName(i), i.Size, i.Arrived.Local().Format(time.DateTime), cmp.Or(i.Login, "none"), i.Sender,
		i.Tries, next, i.Reason, i.Done, strings.Join(i.Pending, "\n              "))
	return err
}

// each is a command that does something to each message named, or, with ALL,
// to all in the state that it applies to ("" is any).
func (q *queueCommands) each(use, short string, in spool.State, do func(*spool.Browser, string) error) *cobra.Command {
	optional := strings.Contains(use, "[")
	return &cobra.Command{
		Use:   use,
		Short: short,
		Long:  short + ". ALL in the place of an ID means all of them.",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 && !optional {
				return usageError("ID is missing; see \"postern queue list\"")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, ids []string) error {
			b, err := q.open()
			if err != nil {
				return err
			}
			all := len(ids) == 0 || len(ids) == 1 && ids[0] == allMessages
			if all {
				if ids, err = idsIn(b, in); err != nil {
					return process.ExplainUnreadable(err)
				}
			}
			return doEach(cmd.OutOrStdout(), ids, all, func(id string) error { return do(b, id) })
		},
	}
}

func idsIn(b *spool.Browser, in spool.State) (ids []string, err error) {
	items, err := b.List()
	for _, i := range items {
		if in == "" || i.State == in {
			ids = append(ids, i.ID)
		}
	}
	return ids, err
}

// doEach goes on after a failure, and reports them all. Of all that there were,
// some may be delivered by the time that it is their turn.
func doEach(out io.Writer, ids []string, all bool, do func(string) error) error {
	var failures []error
	done := 0
	for _, id := range ids {
		switch err := do(id); {
		case err == nil:
			done++
		case !all || !errors.Is(err, spool.ErrGone):
			failures = append(failures, process.ExplainUnreadable(err))
		}
	}
	fmt.Fprintf(out, "%d messages\n", done)
	return errors.Join(failures...)
}
