package check

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"postern/certs"
	"postern/cmd/postern/internal/process"
	"postern/internal/pemfile"
	"postern/relay/sign"
)

// certificates opens each pair alone, so that each has a result.
func (c *checker) certificates(cfg certs.Config, suffix string) {
	var opened []certs.Info
	sound := true
	for _, p := range cfg.Certificates {
		one := certs.Config{Certificates: []certs.Pair{p}, MinVersion: cfg.MinVersion}
		files, err := certs.OpenFiles(one, certs.NewLog(c.log), process.ExplainUnreadable)
		if err != nil {
			c.report.Fail("certificate", err)
			c.wrongFiles = append(c.wrongFiles, p.Key) // advice about its mode would not help
			continue
		}
		for _, i := range files.Infos() {
			sound = c.certificate(i, suffix) && sound
			opened = append(opened, i)
		}
	}
	if len(opened) < len(cfg.Certificates) {
		return
	}
	c.certificateNames(cfg, suffix)
	if sound && !slices.ContainsFunc(opened, func(i certs.Info) bool { return i.Algorithm != "RSA" }) {
		c.report.Note("certificate", "RSA only: a handshake costs the server about four times as much as with ECDSA"+suffix+
			"\nget one with an ECDSA key (certbot: --key-type ecdsa) and name it beside this one, or instead")
	}
}

// certificate reports one certificate and its problems. It is sound if they are notes only.
func (c *checker) certificate(i certs.Info, suffix string) (sound bool) {
	sound = true
	for _, p := range i.Problems {
		sound = sound && p.Level == certs.Note
		text := p.Cause
		if !strings.HasPrefix(text, i.Cert) && !strings.HasPrefix(text, i.Key) {
			text = i.Cert + ": " + text
		}
		if text += suffix; p.Step != "" {
			text += "\n" + p.Step
		}
		c.report.add(map[certs.Level]Level{certs.Note: Note, certs.Warning: Warn, certs.Serious: Fail}[p.Level], "certificate", text)
	}
	if sound {
		c.report.OK("certificate", fmt.Sprintf("%s: %s, %s, until %s%s", i.Cert, strings.Join(i.Names, " "), i.Algorithm, i.NotAfter.Format(time.DateOnly), suffix))
	}
	return sound
}

// certificateNames checks that one of the certificates is for the name of the server. A
// listener with certificates of its own can have another name, and the name of the machine
// may not be the one that clients use.
func (c *checker) certificateNames(cfg certs.Config, suffix string) {
	files, err := certs.OpenFiles(cfg, certs.NewLog(c.log), process.ExplainUnreadable)
	if err != nil {
		return // changed at this moment
	}
	host, _ := c.cfg.Server.Names()
	p := files.CheckName(host)
	if p == nil {
		return
	}
	text := p.Cause + suffix + "\n" + p.Step
	switch {
	case suffix != "":
		c.report.Note("certificate", text)
	case c.cfg.Server.Hostname == "":
		c.report.Warn("certificate", text)
	default:
		c.report.add(Fail, "certificate", text)
	}
}

// authorities reports what was repaired or ignored in the files of trusted authorities. Errors
// are reported by the parts that use them.
func (c *checker) authorities() {
	for _, f := range c.cfg.Access(c.file).Reads {
		if !strings.HasSuffix(f.Key, "ca_file") {
			continue
		}
		_, warnings, err := pemfile.ReadAuthorities(f.Path)
		if err != nil {
			continue
		}
		for _, w := range warnings {
			c.report.Warn("authorities", f.Key+": "+w)
		}
	}
}

// keys opens each DKIM key alone, so that each has a result.
func (c *checker) keys(keys []sign.Key, suffix string) {
	for _, k := range keys {
		var found keyEvents
		_, err := sign.New([]sign.Key{k}, &found)
		text := fmt.Sprintf("%s, selector %s: %s%s", k.Domain, k.Selector, k.File, suffix)
		if err == nil && len(found) > 0 {
			c.report.Warn("DKIM key", text+"\n"+strings.Join(found, "\n"))
			continue
		}
		c.report.Result("DKIM key", text, process.ExplainUnreadable(err))
	}
}

// keyEvents are the reasons of the warnings about a DKIM key.
type keyEvents []string

func (e *keyEvents) WeakKey(_, _, reason string) {
	*e = append(*e, reason+"\nrun \"postern dkim keygen\" to make a key of this size under another selector")
}
func (e *keyEvents) RepairedKey(_, _, reason string) { *e = append(*e, reason) }
func (e *keyEvents) NotSigned(string, string)        {}
