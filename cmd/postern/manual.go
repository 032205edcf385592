package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"postern/cmd/postern/internal/manual"
)

// manualCommand is for those who make packages, so it is not listed. It is part of every
// build, because only the program knows its commands.
func manualCommand() *cobra.Command {
	var example string
	cmd := &cobra.Command{
		Use:   "manual FOLDER",
		Short: "Write the manual pages and shell completions",
		Long: `Writes man8/postern.8, a page for each command, and the completions for bash, zsh and
fish into FOLDER. With --example it also writes man5/postern.toml.5.`,
		Example: `  postern manual --example config.toml.example build`,
		Args:    operands("FOLDER"),
		Hidden:  true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := writeManual(cmd.Root(), args[0]); err != nil || example == "" {
				return err
			}
			return writeExample(example, args[0])
		},
	}
	cmd.Flags().StringVar(&example, "example", "", "`file` with every key of the configuration: config.toml.example")
	return cmd
}

// writeManual writes the pages of all commands that the help lists, and the completions.
func writeManual(root *cobra.Command, folder string) error {
	if err := writePages(root, filepath.Join(folder, "man8")); err != nil {
		return err
	}
	completions := filepath.Join(folder, "completions")
	for name, generate := range map[string]func(io.Writer) error{
		"postern.bash": func(out io.Writer) error { return root.GenBashCompletionV2(out, true) },
		"postern.fish": func(out io.Writer) error { return root.GenFishCompletion(out, true) },
		"_postern":     root.GenZshCompletion,
	} {
		var text strings.Builder
		if err := generate(&text); err != nil {
			return err
		}
		if err := writePage(filepath.Join(completions, name), text.String()); err != nil {
			return err
		}
	}
	return nil
}

// writePages writes the page of cmd and those of its commands. cobra's own commands have
// no page.
func writePages(cmd *cobra.Command, folder string) error {
	name := pageName(cmd)
	if err := writePage(filepath.Join(folder, name+".8"), commandPage(cmd)); err != nil {
		return err
	}
	for _, sub := range pagedCommands(cmd) {
		if err := writePages(sub, folder); err != nil {
			return err
		}
	}
	return nil
}

func pagedCommands(cmd *cobra.Command) []*cobra.Command {
	var paged []*cobra.Command
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() && sub.Name() != "help" && sub.Name() != "completion" {
			paged = append(paged, sub)
		}
	}
	return paged
}

// pageName returns the name of a command's page, such as postern-auth-test.
func pageName(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

func commandPage(cmd *cobra.Command) string {
	page := manual.NewPage(pageName(cmd), 8, "postern "+versionString(), cmd.Short)
	page.Section("Synopsis")
	page.Bold(synopsis(cmd))
	page.Section("Description")
	page.Text(description(cmd))
	if subs := pagedCommands(cmd); len(subs) > 0 {
		page.Section("Commands")
		for _, sub := range subs {
			page.Tagged(pageName(sub), "(8)", sub.Short+".")
		}
	}
	if cmd.HasAvailableFlags() {
		page.Section("Options")
		addFlags(page, cmd.NonInheritedFlags())
		addFlags(page, cmd.InheritedFlags())
	}
	if cmd.Example != "" {
		page.Section("Examples")
		page.Literal(cmd.Example)
	}
	if !cmd.HasParent() {
		page.Section("Files")
		page.Tagged(defaultConfig, "", "The configuration. See postern.toml(5).")
	}
	page.Section("See also")
	page.Text(seeAlso(cmd))
	return page.String()
}

// synopsis returns the command line of a command.
func synopsis(cmd *cobra.Command) string {
	if len(pagedCommands(cmd)) > 0 {
		return cmd.CommandPath() + " COMMAND [flags]"
	}
	return cmd.UseLine()
}

// description returns the long text of a command. That of the root is here, because the
// help of a program is shorter than its page.
func description(cmd *cobra.Command) string {
	if cmd.HasParent() {
		if cmd.Long == "" {
			return cmd.Short + "."
		}
		return cmd.Long
	}
	return `Mail clients connect to port 587 (STARTTLS) or 465 (TLS) and log in with their passwords.
postern applies a policy in the syntax of Postfix, and relays the messages to the Postfix
on the same machine.

"postern serve" is the server. "postern check" tests the configuration, and prints the
next step for each mistake.`
}

// addFlags adds the options that the help lists.
func addFlags(page *manual.Page, flags *pflag.FlagSet) {
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		tag := "--" + f.Name
		if f.Shorthand != "" {
			tag = "-" + f.Shorthand + ", " + tag
		}
		value, usage := pflag.UnquoteUsage(f)
		if value != "" {
			value = " " + value
		}
		if d := f.DefValue; value != "" && d != "" && d != "[]" && !strings.Contains(usage, "(default") {
			usage += fmt.Sprintf(" (default: %s)", strings.Trim(d, "[]"))
		}
		page.Tagged(tag, value, usage)
	})
}

// seeAlso names the parent, or the pages that the root does not list.
func seeAlso(cmd *cobra.Command) string {
	if cmd.HasParent() {
		return pageName(cmd.Parent()) + "(8), postern.toml(5)"
	}
	return "postern.toml(5), postconf(5), systemd.unit(5)"
}

// writeExample writes the page of the configuration file.
func writeExample(example, folder string) error {
	text, err := os.ReadFile(example)
	if err != nil {
		return err
	}
	page := manual.NewPage("postern.toml", 5, "postern "+versionString(), "configuration of postern")
	page.Section("Synopsis")
	page.Bold(defaultConfig)
	page.Section("Description")
	if err := page.Example(string(text)); err != nil {
		return fmt.Errorf("%s: %w", example, err)
	}
	page.Section("See also")
	page.Text("postern(8), postern-check(8), postconf(5)")
	return writePage(filepath.Join(folder, "man5", "postern.toml.5"), page.String())
}

func writePage(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o644)
}
