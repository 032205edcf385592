package check

import (
	"fmt"
	"os"
	"time"
)

// oldest is before the first release of postern: an earlier time is wrong.
var oldest = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// maxAhead is how far in the future the time of a file may be, which can come from another
// machine.
const maxAhead = 24 * time.Hour

// clock reports a clock that is behind: then certificates are not valid yet, and other servers
// take messages for delayed ones. Nothing on a machine shows that its clock is ahead.
func (c *checker) clock(now time.Time) {
	const remedy = "\nset the clock: timedatectl set-ntp true, or on the host of a container or virtual machine"
	shown := now.UTC().Format(time.DateTime) + " UTC"
	if now.Before(oldest) {
		c.report.Fail("clock", fmt.Errorf("the clock of this machine is behind: it shows %s%s", shown, remedy))
		return
	}
	for _, f := range c.cfg.Access(c.file).Reads {
		info, err := os.Stat(f.Path)
		if err == nil && info.Mode().IsRegular() && info.ModTime().Sub(now) > maxAhead {
			c.report.Warn("clock", fmt.Sprintf("the clock of this machine is behind: it shows %s, and %s was changed at %s%s",
				shown, f.Path, info.ModTime().UTC().Format(time.DateTime), remedy))
			return
		}
	}
}
