package fileperm

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// A host is what the rules depend on besides the file.
type host struct {
	uid       int      // of this process
	container bool     // it has no other users, and its files often come from outside
	secrets   []string // folders in which a service manager puts secrets for this process

	modes func(path string) modes // of the file system of path
	known func(uid int) bool      // whether the number names a user outside this namespace, too
}

// modes is whether a file system stores modes.
type modes int

const (
	unknown   modes = iota // a file system that is not in the list
	stored                 // the mode is what chmod has set
	invented               // the mount options decide
	sometimes              // depends on the other side: FUSE and 9p, used by Docker Desktop and WSL
)

// thisHost returns the host of this process.
func thisHost() *host {
	return &host{
		uid:       os.Geteuid(),
		container: InContainer(),
		secrets:   secretFolders(),
		modes:     modesOf,
		known:     knownUser,
	}
}

// InContainer reports whether this process runs in an application container: Docker, Podman or
// Kubernetes.
func InContainer() bool {
	for _, mark := range []string{"/.dockerenv", "/run/.containerenv"} {
		if _, err := os.Lstat(mark); err == nil {
			return true
		}
	}
	return os.Getenv("KUBERNETES_SERVICE_HOST") != "" || os.Getenv("container") != "" // podman, lxc
}

// secretFolders returns the folder of Docker's secrets and that of systemd's credentials
// (systemd.exec(5)). Their files have mode 0444 or an access control list.
func secretFolders() []string {
	folders := []string{"/run/secrets"}
	for _, dir := range []string{"/run/secrets", os.Getenv("CREDENTIALS_DIRECTORY")} {
		if real, err := filepath.EvalSymlinks(dir); err == nil && filepath.IsAbs(dir) {
			folders = append(folders, real)
		}
	}
	return folders
}

// knownUser reports whether a number is that of a user. In a user namespace (a rootless
// container, PrivateUsers= of systemd) all users outside it have the number of nobody
// (user_namespaces(7)).
func knownUser(uid int) bool {
	const nobody = 65534
	if uid != nobody {
		return true
	}
	all, err := os.ReadFile("/proc/self/uid_map")
	return err != nil || strings.Join(strings.Fields(string(all)), " ") == "0 0 4294967295"
}

// trustsUser reports whether the check accepts that a user can change a file: root and the user
// of this process can in any case. A container gets files from a host whose users it does not
// know, and a command that runs as root does not know the user of the server.
func (h *host) trustsUser(uid int) bool {
	return uid == 0 || uid == h.uid || h.uid == 0 || h.container || !h.known(uid)
}

// trustsGroup reports whether the check accepts that a group can change a file: root's, or the
// group of the same name as the owner or as the user of this process, which by convention has
// no other members.
func (h *host) trustsGroup(e entry) bool {
	if e.gid == 0 {
		return true
	}
	name := GroupName(e.gid)
	return name == UserName(e.uid) || name == UserName(h.uid)
}

// secretFolder reports whether a file is in one of the folders for secrets.
func (h *host) secretFolder(path string) bool {
	for _, dir := range h.secrets {
		if strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/") {
			return true
		}
	}
	return false
}

// modeless reports whether the mode of e, which every user can write to, comes from a file
// system without modes, so that chmod cannot change it. e is an entry of t.
func (h *host) modeless(e entry, t trail) bool {
	switch h.modes(e.path) {
	case invented:
		return true
	case sometimes: // the folder of a file that is mounted alone may be another file system
		return e.open()
	case unknown:
		return uniform(e, t)
	}
	// A folder of a NAS or of Docker Desktop in a container may look like any file system.
	return h.container && uniform(e, t)
}

// uniform reports whether the file and its folder have the mode 0777 and the owner of e. On
// purpose that is only set for programs.
func uniform(e entry, t trail) bool {
	alike := 0
	for _, other := range t.entries {
		if (other.path == t.at || other.path == filepath.Dir(t.at)) && other.open() && other.uid == e.uid && other.gid == e.gid {
			alike++
		}
	}
	return alike == 2 && e.open()
}

// open reports whether an entry has the mode 0777 and no other bits.
func (e entry) open() bool {
	return e.mode&(fs.ModePerm|fs.ModeSticky|fs.ModeSetgid|fs.ModeSetuid) == fs.ModePerm
}
