package process

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"postern/internal/access"
)

// ErrNoLandlock means that the kernel cannot restrict the process.
var ErrNoLandlock = errors.New("this kernel has no Landlock (Linux 5.13, and \"landlock\" in /sys/kernel/security/lsm), " +
	"or a seccomp filter disables it")

// LandlockTCP is the first version of Landlock that restricts TCP (Linux 6.7).
const LandlockTCP = 4

// A Sandbox restricts the process by Landlock. In it, the kernel lets the process
// open only the files and folders of an [access.List] and those of the C and Go
// libraries, and connect only to the TCP ports of that list. The process cannot
// bind ports, execute programs or send signals to other processes. A sandbox cannot
// be left or widened, so a configuration that needs more needs a restart.
//
// Rules are for the folders of files. A rule for a file applies to the file that
// was there when the rule was made, and not to one that is later renamed over it,
// as a renewed certificate and a rewritten user file are.
//
// A Sandbox is not safe for concurrent use. A nil Sandbox restricts nothing.
type Sandbox struct {
	reads         []string // folders, and files that are never replaced; links resolved
	writes        []string // folders to create, write and remove files in
	writableTrees []string // the same, with subfolders and moves between them
	ports         []uint16 // TCP ports to connect to
	version       int      // of Landlock; 0 is none
	entered       bool
}

// NewSandbox returns the sandbox for what list contains. The process is not
// restricted before Enter.
func NewSandbox(list *access.List) *Sandbox {
	return &Sandbox{
		reads:         roots(slices.Concat(systemReads(), folders(list.Reads))),
		writes:        roots(folders(list.Writes)),
		writableTrees: roots(folders(list.Trees)),
		ports:         list.PortNumbers(),
		version:       landlockVersion(),
	}
}

// Enter restricts all threads of the process, as far as the kernel can, and logs
// the result. A kernel without Landlock, or a system that does not list the threads, is no
// error.
func (s *Sandbox) Enter(log *slog.Logger) error {
	if err := s.unavailable(); err != nil {
		log.Warn("no sandbox: " + err.Error() + "; set server.sandbox = false to end this warning")
		return nil
	}
	if err := s.restrict(); err != nil {
		return fmt.Errorf("cannot enter the sandbox: %w; set server.sandbox = false to start without it", err)
	}
	s.entered = true
	log.Info("sandbox entered", "landlock", s.version, "read", s.reads, "write", slices.Concat(s.writes, s.writableTrees), "connect", s.connects())
	return nil
}

// Describe returns what the process can do in the sandbox, in several lines. It
// fails if there can be no sandbox, for example with ErrNoLandlock.
func (s *Sandbox) Describe() (string, error) {
	if err := s.unavailable(); err != nil {
		return "", err
	}
	return fmt.Sprintf("Landlock %d, entered by serve\nreads     %s\nwrites    %s\nconnects  to TCP ports %s", s.version,
		strings.Join(s.reads, " "), strings.Join(slices.Concat(s.writes, s.writableTrees), " "), strings.Trim(fmt.Sprint(s.connects()), "[]")), nil
}

// unavailable returns why there can be no sandbox, or nil.
func (s *Sandbox) unavailable() error {
	if s.version == 0 {
		return ErrNoLandlock
	}
	return listThreads()
}

func (s *Sandbox) connects() any {
	if s.version < LandlockTCP {
		return "any (restricted from Linux 6.7 on)"
	}
	return s.ports
}

// Allows returns an error for the first entry of list that the sandbox does not
// allow. It allows everything before Enter.
func (s *Sandbox) Allows(list *access.List) error {
	if s == nil || !s.entered {
		return nil
	}
	for _, paths := range []struct {
		entries []access.Path
		allowed []string
		what    string
	}{
		{list.Reads, slices.Concat(s.reads, s.writes, s.writableTrees), "reading "},
		{list.Writes, s.writes, "writing to "},
		{list.Trees, s.writableTrees, "writing to "},
	} {
		for _, f := range paths.entries {
			if at := resolve(f.Path); !within(at, paths.allowed) {
				return outside(f.Key, paths.what+at)
			}
		}
	}
	for _, p := range list.Ports {
		if s.version >= LandlockTCP && !slices.Contains(s.ports, p.Port) {
			return outside(p.Key, fmt.Sprintf("connecting to TCP port %d", p.Port))
		}
	}
	return nil
}

func outside(key, what string) error {
	return fmt.Errorf("%s: %s is not allowed in the sandbox that was entered at start, which cannot be widened; "+
		"restart postern to use this configuration", key, what)
}

// systemReads returns what libraries read. /etc is allowed as a whole, as far as
// the modes of its files allow an unprivileged user: DHCP clients and
// administrators replace hosts, resolv.conf and nsswitch.conf by renaming while the
// server runs, and only a rule for the folder covers that. InaccessiblePaths= in
// the systemd unit restricts the process further.
func systemReads() []string {
	paths := []string{
		"/etc",
		// Targets of a link from resolv.conf.
		"/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager",
		// Targets of links from /etc/ssl/certs.
		"/usr/share/ca-certificates", "/usr/local/share/ca-certificates", "/var/lib/ca-certificates",
		"/usr/share/zoneinfo",
		// The modules of nsswitch.conf, in a build with cgo.
		"/lib", "/lib64", "/usr/lib", "/usr/lib64", "/var/lib/sss/mc",
		"/dev/null", "/dev/urandom",
		os.Getenv("SSL_CERT_DIR"), // usually one folder
	}
	for _, file := range []string{os.Getenv("SSL_CERT_FILE"), "/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf"} {
		if file != "" {
			paths = append(paths, folders([]access.Path{{Path: file}})...)
		}
	}
	return paths
}

// folders returns the folders to allow for files that may be replaced: the folder
// of each file, of each link on its path, and of the file that the links lead to.
func folders(files []access.Path) (all []string) {
	for _, f := range files {
		abs, err := filepath.Abs(f.Path)
		if err != nil {
			continue
		}
		if f.Folder {
			all = append(all, abs)
			continue
		}
		all = append(all, folderOf(abs))
		for p := filepath.Dir(abs); p != filepath.Dir(p); p = filepath.Dir(p) {
			if info, err := os.Lstat(p); err == nil && info.Mode()&os.ModeSymlink != 0 {
				all = append(all, filepath.Dir(p))
			}
		}
		all = append(all, folderOf(resolve(abs)))
	}
	return all
}

// folderOf returns the folder of a file. For a file in the root folder it returns
// the file.
func folderOf(file string) string {
	if dir := filepath.Dir(file); dir != "/" {
		return dir
	}
	return file
}

// roots resolves the links in paths. It leaves out paths that do not exist, that
// are within another one, or that are relative (an empty path would be the working
// directory), and the root folder, which would allow everything.
func roots(paths []string) (all []string) {
	for _, p := range paths {
		if !filepath.IsAbs(p) {
			continue
		}
		at, err := filepath.EvalSymlinks(p)
		if err == nil && at != "/" {
			all = append(all, at)
		}
	}
	slices.Sort(all)
	all = slices.Compact(all)
	return slices.DeleteFunc(slices.Clone(all), func(p string) bool {
		return slices.ContainsFunc(all, func(q string) bool { return p != q && within(p, []string{q}) })
	})
}

// within reports whether path is one of roots or below one of them.
func within(path string, roots []string) bool {
	return slices.ContainsFunc(roots, func(r string) bool {
		return path == r || strings.HasPrefix(path, strings.TrimSuffix(r, "/")+"/")
	})
}

// resolve returns the absolute path without links. The part of the path that does
// not exist is kept.
func resolve(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	if at, err := filepath.EvalSymlinks(path); err == nil {
		return at
	}
	if dir := filepath.Dir(path); dir != path {
		return filepath.Join(resolve(dir), filepath.Base(path))
	}
	return path
}
