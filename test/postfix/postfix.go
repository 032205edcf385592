// Package postfix writes the files of private instances of Postfix, for tests and
// measurements. Configuration, queue and data are in one folder; nothing below /etc is
// read or changed. All messages are relayed to one port on loopback. The caller starts
// and stops an instance:
//
//	postfix -c DIR/etc start
package postfix

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
)

// An Instance is the configuration of one instance.
type Instance struct {
	// Dir is its folder. Users other than root must have access to it.
	Dir string

	// Services are the lines of master.cf for services that receive messages.
	Services []string

	// Settings are lines of main.cf.
	Settings []string

	// NextHop is the port on loopback that takes all messages.
	NextHop int
}

// services are the services that process a received message, without chroot.
const services = `
pickup     unix  n - n 60 1 pickup
cleanup    unix  n - n - 0 cleanup
qmgr       unix  n - n 300 1 qmgr
rewrite    unix  - - n - - trivial-rewrite
bounce     unix  - - n - 0 bounce
defer      unix  - - n - 0 bounce
trace      unix  - - n - 0 bounce
verify     unix  - - n - 1 verify
smtp       unix  - - n - - smtp
error      unix  - - n - - error
retry      unix  - - n - - error
proxymap   unix  - - n - - proxymap
tlsmgr     unix  - - n 1000? 1 tlsmgr
anvil      unix  - - n - 1 anvil
scache     unix  - - n - 1 scache
postlog    unix-dgram n - n - 1 postlogd
`

// settings are the settings for folders and for the destination of messages; the others
// have Postfix's defaults.
const settings = `
compatibility_level = 3.6
queue_directory = %[1]s/spool
data_directory = %[1]s/data
maillog_file = %[1]s/maillog
maillog_file_prefixes = %[1]s
mydestination =
local_recipient_maps =
alias_maps =
alias_database =
inet_interfaces = loopback-only
inet_protocols = ipv4
relayhost = [127.0.0.1]:%[2]d
`

// Conf is the folder for "postfix -c".
func (i Instance) Conf() string { return filepath.Join(i.Dir, "etc") }

// Write makes the folders that Postfix needs, and its configuration. It needs root, since
// the data folder belongs to the user postfix.
func (i Instance) Write() error {
	owner, err := user.Lookup("postfix")
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(owner.Uid)
	if err != nil {
		return err
	}
	for _, name := range []string{"etc", "spool", "data"} {
		if err := os.MkdirAll(filepath.Join(i.Dir, name), 0o755); err != nil {
			return err
		}
	}
	main := lastOf(fmt.Sprintf(settings, i.Dir, i.NextHop) + strings.Join(i.Settings, "\n"))
	master := strings.Join(i.Services, "\n") + services
	return errors.Join(
		os.Chown(filepath.Join(i.Dir, "data"), uid, -1),
		os.WriteFile(filepath.Join(i.Conf(), "main.cf"), []byte(main), 0o644),
		os.WriteFile(filepath.Join(i.Conf(), "master.cf"), []byte(master), 0o644),
	)
}

// lastOf keeps the last line for each name. Every process of Postfix warns of a name that is
// set twice, and with a few of them the first processes fill the socket of postlogd before it
// runs, and wait for it for ever.
func lastOf(lines string) string {
	value := make(map[string]string)
	var names []string
	for line := range strings.Lines(lines) {
		name, _, ok := strings.Cut(line, "=")
		if name = strings.TrimSpace(name); !ok {
			continue
		}
		if _, known := value[name]; !known {
			names = append(names, name)
		}
		value[name] = strings.TrimSuffix(line, "\n")
	}
	var b strings.Builder
	for _, name := range names {
		fmt.Fprintln(&b, value[name])
	}
	return b.String()
}
