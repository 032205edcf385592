package check

import (
	"fmt"
	"strings"
	"time"

	"postern/certs"
	"postern/cmd/postern/internal/process"
	"postern/relay/sign"
)

// certificates opens each pair alone, so that each has a result.
func (c *checker) certificates(cfg certs.Config, suffix string) {
	for _, p := range cfg.Certificates {
		one := certs.Config{Certificates: []certs.Pair{p}, MinVersion: cfg.MinVersion}
		files, err := certs.OpenFiles(one, certs.NewLog(c.log), process.ExplainUnreadable)
		if err != nil {
			c.report.Result("certificate", p.Cert+suffix, err)
			continue
		}
		for _, i := range files.Infos() {
			text := fmt.Sprintf("%s: %s, %s, until %s%s", i.Cert, strings.Join(i.Names, " "), i.Algorithm, i.NotAfter.Format(time.DateOnly), suffix)
			if i.Warning != "" {
				c.report.Warn("certificate", text+"\n"+i.Warning)
			} else {
				c.report.Result("certificate", text, nil)
			}
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
