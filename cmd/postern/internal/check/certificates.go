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
		_, err := sign.New([]sign.Key{k}, sign.NewLog(c.log))
		c.report.Result("DKIM key", fmt.Sprintf("%s, selector %s: %s%s", k.Domain, k.Selector, k.File, suffix), process.ExplainUnreadable(err))
	}
}
