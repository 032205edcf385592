package main

import (
	"os"
	"strings"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
)

// What a folder is allowed for. No rule allows to execute, or to make links,
// sockets or devices; only the spool may make folders, and move its files from
// one to another.
const (
	mayRead  = ll.AccessFSReadFile | ll.AccessFSReadDir
	mayWrite = mayRead | ll.AccessFSWriteFile | ll.AccessFSTruncate | ll.AccessFSMakeReg | ll.AccessFSRemoveFile
	mayKeep  = mayWrite | ll.AccessFSMakeDir | ll.AccessFSRefer
	onFiles  = ll.AccessFSReadFile | ll.AccessFSWriteFile | ll.AccessFSTruncate
)

// landlockVersion is what the kernel has; 0 is none.
func landlockVersion() int {
	version, err := ll.LandlockGetABIVersion()
	if err != nil || version < 1 {
		return 0
	}
	return version
}

// confine restricts all threads to s, as far as the kernel can, and returns the
// version of Landlock that it has; 0 is none.
//
// Later versions than the eighth restrict connections to Unix sockets and
// UDP, which carry the questions to stores, to the DNS and to the system log.
func confine(s *sandbox) (version int, err error) {
	version = landlockVersion()
	if version == 0 {
		return 0, nil
	}
	most := landlock.V8
	if strings.HasPrefix(os.Getenv("NOTIFY_SOCKET"), "@") {
		most.Scoped &^= ll.ScopeAbstractUnixSocket // systemd listens there
	}
	return version, most.BestEffort().Restrict(s.rules()...)
}

func (s *sandbox) rules() (rules []landlock.Rule) {
	for _, p := range s.reads {
		rules = append(rules, allow(p, mayRead))
	}
	for _, p := range s.writes {
		rules = append(rules, allow(p, mayWrite))
	}
	for _, p := range s.trees {
		rules = append(rules, allow(p, mayKeep))
	}
	for _, p := range s.ports {
		rules = append(rules, landlock.ConnectTCP(p))
	}
	return rules
}

// allow is the rule for what a path can be used for, if it is there at all.
func allow(path string, rights landlock.AccessFSSet) landlock.Rule {
	if info, err := os.Stat(path); err == nil && !info.IsDir() {
		rights &= onFiles
	}
	return landlock.PathAccess(rights, path).IgnoreIfMissing()
}
