package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"postern/cmd/postern/internal/config"
	"postern/internal/access"
)

// The sandbox (server.sandbox) is Landlock: from then on the kernel lets this
// process open only what its configuration names, connect to no other TCP port,
// bind none, execute nothing, and send no signal to others. It is entered when
// the ports are bound, the PAM helper has been started, which stays outside,
// and root is given up; it cannot be left, and not be widened either. So a
// reload that needs more is refused.
//
// Files are allowed by their folders: a rule holds for the file that was there,
// and dies when another one is renamed over it. Renewed certificates and
// rewritten user files come that way.
//
// What a configuration uses is listed in an access.List (sandboxneeds.go, and
// Access of each kind of store); a test finds keys that name files or hosts and
// are missing there.

// A sandbox is what the process is confined to. It is used by one goroutine.
type sandbox struct {
	config string // the configuration file, which is read again at each reload

	entered bool
	reads   []string // folders, and files that are never replaced; links resolved
	writes  []string
	trees   []string // written to, and arranged
	ports   []uint16 // to connect to
	tcp     bool     // the kernel can restrict them
}

// enter confines the process for good, as far as the kernel can, and logs how
// far that is.
func (s *sandbox) enter(cfg *config.Config, log *slog.Logger) error {
	if !cfg.Server.Sandbox {
		log.Warn("no sandbox, as server.sandbox = false asks for: what this process may open and connect to " +
			"is not restricted beyond its user's rights")
		return nil
	}
	s.plan(cfg)
	applied, err := confine(s)
	switch {
	case err != nil:
		return fmt.Errorf("cannot enter the sandbox: %w; server.sandbox = false goes without", err)
	case applied == 0:
		log.Warn("no sandbox: " + noLandlock + "; server.sandbox = false ends this warning")
		return nil
	}
	s.entered, s.tcp = true, applied >= restrictsTCP
	log.Info("sandbox entered", "landlock", applied, "read", s.reads, "write", slices.Concat(s.writes, s.trees), "connect", s.connects())
	return nil
}

const noLandlock = "this kernel has no Landlock (Linux 5.13, and \"landlock\" in /sys/kernel/security/lsm), " +
	"or a seccomp filter keeps it from us"

// plan is what the process would be confined to.
func (s *sandbox) plan(cfg *config.Config) {
	n := cfg.Access(s.config)
	s.reads = roots(slices.Concat(systemReads(), folders(n.Reads)))
	s.writes = roots(folders(n.Writes))
	s.trees = roots(folders(n.Trees))
	s.ports = n.PortNumbers()
}

// connects are the ports to connect to, for a person.
func (s *sandbox) connects() any {
	if !s.tcp {
		return "any (restricted from Linux 6.7 on)"
	}
	return s.ports
}

// sandbox says what serve would be confined to. Nothing is applied.
func (c *checkup) sandbox(cfg *config.Config, file string) {
	version := landlockVersion()
	switch {
	case !cfg.Server.Sandbox:
		c.warn("sandbox", "none, as server.sandbox = false asks for")
		return
	case version == 0:
		c.warn("sandbox", "none: "+noLandlock)
		return
	}
	s := &sandbox{config: file, tcp: version >= restrictsTCP}
	s.plan(cfg)
	c.result("sandbox", fmt.Sprintf("Landlock %d, once it serves\nreads     %s\nwrites    %s\nconnects  to TCP ports %s", version,
		strings.Join(s.reads, " "), strings.Join(slices.Concat(s.writes, s.trees), " "), strings.Trim(fmt.Sprint(s.connects()), "[]")), nil)
}

// restrictsTCP is the version of Landlock that knows of TCP.
const restrictsTCP = 4

// admits says what cfg needs beyond the sandbox, or nothing.
func (s *sandbox) admits(cfg *config.Config) error {
	if s == nil || !s.entered {
		return nil
	}
	n := cfg.Access(s.config)
	for _, f := range n.Reads {
		if at := resolved(f.Path); !beneath(at, slices.Concat(s.reads, s.writes, s.trees)) {
			return outside(f.Key, "reading "+at)
		}
	}
	for _, f := range n.Writes {
		if at := resolved(f.Path); !beneath(at, s.writes) {
			return outside(f.Key, "writing to "+at)
		}
	}
	for _, f := range n.Trees {
		if at := resolved(f.Path); !beneath(at, s.trees) {
			return outside(f.Key, "writing to "+at)
		}
	}
	for _, p := range n.Ports {
		if s.tcp && !slices.Contains(s.ports, p.Port) {
			return outside(p.Key, fmt.Sprintf("connecting to TCP port %d", p.Port))
		}
	}
	return nil
}

func outside(key, what string) error {
	return fmt.Errorf("%s: %s is outside of the sandbox that was entered at start, and nothing can widen it; "+
		"restart postern for this configuration", key, what)
}

// folders are the places to allow for files that may be replaced: the folder of
// each, that of each link on the way to it, and the one that it leads to.
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
		all = append(all, around(abs))
		for p := filepath.Dir(abs); p != filepath.Dir(p); p = filepath.Dir(p) {
			if isLink(p) {
				all = append(all, filepath.Dir(p))
			}
		}
		all = append(all, around(resolved(abs)))
	}
	return all
}

// around is the folder of a file. For one in the root folder it is the file
// alone.
func around(file string) string {
	if dir := filepath.Dir(file); dir != "/" {
		return dir
	}
	return file
}

func isLink(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode()&os.ModeSymlink != 0
}

// roots resolves the links in paths, and leaves out what is missing or beneath
// another one, and the root folder, which would allow everything.
func roots(paths []string) (all []string) {
	for _, p := range paths {
		if !filepath.IsAbs(p) {
			continue // none: an empty path would be the folder that we stand in
		}
		at, err := filepath.EvalSymlinks(p)
		if err == nil && at != "/" {
			all = append(all, at)
		}
	}
	slices.Sort(all)
	all = slices.Compact(all)
	return slices.DeleteFunc(slices.Clone(all), func(p string) bool {
		return slices.ContainsFunc(all, func(q string) bool { return p != q && beneath(p, []string{q}) })
	})
}

// beneath says whether path is one of roots or below one of them.
func beneath(path string, roots []string) bool {
	return slices.ContainsFunc(roots, func(r string) bool {
		return path == r || strings.HasPrefix(path, strings.TrimSuffix(r, "/")+"/")
	})
}

// resolved is where path leads to. What is not there yet is looked for where it
// would be.
func resolved(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	if at, err := filepath.EvalSymlinks(path); err == nil {
		return at
	}
	if dir := filepath.Dir(path); dir != path {
		return filepath.Join(resolved(dir), filepath.Base(path))
	}
	return path
}
