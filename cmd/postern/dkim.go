package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"postern/cmd/postern/internal/process"
	"postern/relay/sign"
)

func dkimCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dkim",
		Short: "Generate keys for DKIM signatures",
		Args:  knownCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(keygenCommand())
	return cmd
}

func keygenCommand() *cobra.Command {
	var k keygen
	cmd := &cobra.Command{
		Use:   "keygen DOMAIN",
		Short: "Generate a signing key and its TXT record",
		Long: `Writes a private key (mode 0600) and prints the TXT record that publishes it, and
the lines for the configuration. "both" generates an RSA key, which every
verifier supports, and an Ed25519 key (RFC 8463).`,
		Example: "  postern dkim keygen example.org\n  postern dkim keygen example.org --type both --selector 2027",
		Args:    operands("DOMAIN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			k.domain = args[0]
			return k.run(cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&k.selector, "selector", "postern", "`name` of the key in DNS; \"both\" appends -rsa and -ed25519")
	cmd.Flags().StringVar(&k.kind, "type", string(sign.RSA), "rsa, ed25519 or both")
	cmd.Flags().StringVar(&k.dir, "out", ".", "`folder` for the private key")
	return cmd
}

// A keygen generates the keys of one domain.
type keygen struct{ domain, selector, kind, dir string }

func (k keygen) run(out io.Writer) error {
	keys, err := k.plan()
	if err != nil {
		return err
	}
	for _, key := range keys {
		if err := key.generate(out); err != nil {
			return err
		}
	}
	return nil
}

// A plannedKey is a key as it will be in the configuration.
type plannedKey struct {
	sign.Key
	algorithm sign.Algorithm
}

// plan chooses the names of the keys. It reports invalid names before a file is
// written.
func (k keygen) plan() ([]plannedKey, error) {
	dir, err := filepath.Abs(k.dir)
	if err != nil {
		return nil, err
	}
	algorithms := []sign.Algorithm{sign.Algorithm(k.kind)}
	if k.kind == "both" {
		algorithms = []sign.Algorithm{sign.RSA, sign.Ed25519}
	}
	var keys []plannedKey
	var wrong []string
	for _, a := range algorithms {
		if a != sign.RSA && a != sign.Ed25519 {
			return nil, usageError("--type must be rsa, ed25519 or both, not %q", k.kind)
		}
		selector := k.selector
		if len(algorithms) > 1 {
			selector += "-" + string(a)
		}
		key := sign.Key{Domain: k.domain, Selector: selector}
		key.File = filepath.Join(dir, fmt.Sprintf("%s.%s.pem", filepath.Base(k.domain), filepath.Base(selector)))
		sign.Validate([]sign.Key{key}, func(_, why string) { wrong = append(wrong, why) })
		keys = append(keys, plannedKey{key, a})
	}
	if len(wrong) > 0 {
		return nil, usageError("%s", strings.Join(wrong, "\n"))
	}
	return keys, nil
}

// generate writes the private key. It prints what to do with it as lines of a zone
// file and of the configuration, which can be copied as they are.
func (k plannedKey) generate(out io.Writer) error {
	public, err := sign.GenerateKey(k.File, k.algorithm)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists already, and its record may have been published: choose another --selector, or move the file away", k.File)
	}
	if err != nil {
		return process.ExplainUnreadable(err)
	}
	record, err := sign.TXTRecord(k.Domain, k.Selector, public)
	if err != nil {
		return errors.Join(err, os.Remove(k.File))
	}
	_, err = fmt.Fprintf(out, `; for the zone of %[1]s
%[2]s

# for the configuration, after the record has been published
# (%[4]s has mode 0600: its owner must be the user that postern runs as)
[[relay.dkim]]
domain = %[1]q
selector = %[3]q
key = %[4]q

`, k.Domain, record, k.Selector, k.File)
	return err
}
