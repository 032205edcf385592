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

	"postern/cmd/postern/internal/config"
	"postern/cmd/postern/internal/process"
	"postern/relay/spool"
)

// allMessages is the ID of all messages, as in postsuper.
const allMessages = "ALL"

func queueCommand() *cobra.Command {
	q := new(queue)
	cmd := &cobra.Command{
		Use:   "queue",
		Short: "Manage the messages in the spool",
		Long: `The spool (relay.spool) has the messages that no next hop has accepted yet. These
commands change its folder; run them as root or as the user of the server. A
running server applies a change within a few seconds. A delivery that is in
progress is not affected.`,
		Args: knownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.PersistentFlags().StringVarP(&q.file, "config", "c", defaultConfig, "configuration `file`")
	cmd.AddCommand(
		q.list(),
		q.show(),
		q.each("flush [ID...]", "Deliver the named messages now, or all", spool.Queued, (*spool.Browser).Flush),
		q.each("hold ID...", "Do not deliver the named messages until they are released", spool.Queued, (*spool.Browser).Hold),
		q.each("release ID...", "Undo a hold, and deliver the named messages", spool.Held, (*spool.Browser).Release),
		q.each("remove ID...", "Delete the named messages without a report to the sender", "", (*spool.Browser).Remove),
	)
	return cmd
}

// A queue is the spool of a configuration file.
type queue struct{ file string }

func (q *queue) open() (*spool.Browser, error) {
	cfg, err := config.LoadOnce(q.file)
	if err != nil {
		return nil, process.WithStatus(process.ExitConfig, err)
	}
	if cfg.Relay.Dir == "" {
		return nil, fmt.Errorf("%s has no spool; set relay.spool to use one", q.file)
	}
	b, err := spool.Browse(cfg.Relay.Dir)
	return b, process.ExplainUnreadable(err)
}

func (q *queue) list() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the messages, oldest first",
		Args:  operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			b, err := q.open()
			if err != nil {
				return err
			}
			defer b.Close()
			items, err := b.List()
			if err != nil {
				return process.ExplainUnreadable(err)
			}
			return printSafely(cmd.OutOrStdout(), func(out io.Writer) error { return printItems(out, items) })
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
		const shown = 3
		waiting := strings.Join(i.Pending[:min(shown, len(i.Pending))], " ")
		if more := len(i.Pending) - shown; more > 0 {
			waiting = fmt.Sprintf("%s and %d more", waiting, more)
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%d\t<%s>\t%s\n", i.ID, stateName(i), i.Size, arrived, i.Tries, i.Sender, waiting)
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

func (q *queue) show() *cobra.Command {
	var text bool
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show a message and why it is in the spool",
		Long: `Shows a message and why it is in the spool. If standard output is a terminal,
control characters of the message are escaped; in a pipe or a file it is unchanged.`,
		Args: operands("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := q.open()
			if err != nil {
				return err
			}
			defer b.Close()
			if text {
				return printSafely(cmd.OutOrStdout(), func(out io.Writer) error {
					_, err := b.Show(args[0], out)
					return process.ExplainUnreadable(err)
				})
			}
			item, err := b.Show(args[0], nil)
			if err != nil {
				return process.ExplainUnreadable(err)
			}
			return printSafely(cmd.OutOrStdout(), func(out io.Writer) error { return printItem(out, item) })
		},
	}
	cmd.Flags().BoolVar(&text, "message", false, "print the message itself")
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
		"tries         %d\nnext attempt  %s\nreason        %s\ndone          %d recipients\nwaiting       %s\n",
		i.ID, stateName(i), i.Size, i.Arrived.Local().Format(time.DateTime), cmp.Or(i.Login, "none"), i.Sender,
		i.Tries, next, i.Reason, i.Done, strings.Join(i.Pending, "\n              "))
	return err
}

// each returns a command that changes every named message. With ALL it changes all
// messages in the state in; "" is any state.
func (q *queue) each(use, short string, in spool.State, do func(*spool.Browser, string) error) *cobra.Command {
	optional := strings.Contains(use, "[")
	return &cobra.Command{
		Use:   use,
		Short: short,
		Long:  short + ". The ID ALL names all messages.",
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
			defer b.Close()
			all := len(ids) == 0 || len(ids) == 1 && ids[0] == allMessages
			if all {
				items, err := b.List()
				if err != nil {
					return process.ExplainUnreadable(err)
				}
				ids = nil
				for _, i := range items {
					if in == "" || i.State == in {
						ids = append(ids, i.ID)
					}
				}
			}
			return doEach(cmd.OutOrStdout(), ids, all, func(id string) error { return do(b, id) })
		},
	}
}

// doEach continues after an error, and returns all of them. With all, it is no error
// that a message has been delivered since the list was read.
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
