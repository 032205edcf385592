// Package access lists the files, folders and TCP ports that the parts of the
// server use while it runs.
//
// Every part that opens files or connects to hosts adds them to a [List], each
// with the configuration key that names it. The sandbox is built from the list,
// and an error about one entry can name the key to change.
package access

import (
	"net"
	"slices"
	"strings"

	"postern/internal/fileperm"
)

// A List is what the server opens and connects to. The zero value is empty. It is
// not safe for concurrent use.
type List struct {
	Reads  []Path // files to read
	Writes []Path // folders to create, write and remove files in
	Trees  []Path // folders with subfolders between which files are moved
	Ports  []Port // TCP ports to connect to
}

// A Path is a file or a folder.
type Path struct {
	Key    string // the configuration key that names it
	Path   string
	Folder bool // the folder with everything in it

	Kind fileperm.Kind // what a file contains
}

// A Port is a TCP port on any host.
type Port struct {
	Key  string // the configuration key that names it
	Port uint16
}

// Read adds a file to be read that every user of the machine may read. An empty path adds
// nothing.
func (l *List) Read(key, path string) { l.ReadAs(fileperm.Public, key, path) }

// ReadAs is Read for a file with this content.
func (l *List) ReadAs(k fileperm.Kind, key, path string) {
	if path != "" {
		l.Reads = append(l.Reads, Path{Key: key, Path: path, Kind: k})
	}
}

// Write adds a folder in which files are created, written and removed. An empty
// path adds nothing.
func (l *List) Write(key, dir string) {
	if dir != "" {
		l.Writes = append(l.Writes, Path{Key: key, Path: dir, Folder: true})
	}
}

// Tree adds a folder with subfolders between which files are moved. An empty path
// adds nothing.
func (l *List) Tree(key, dir string) {
	if dir != "" {
		l.Trees = append(l.Trees, Path{Key: key, Path: dir, Folder: true})
	}
}

// Connect adds the TCP port of address, which is HOST:PORT, a URL with a port, or
// "inet:HOST:PORT". The path of a Unix socket adds nothing, since the sandbox does
// not restrict Unix sockets. Neither does an address that cannot be parsed: the
// part that connects to it reports the error.
func (l *List) Connect(key, address string) {
	if _, rest, ok := strings.Cut(address, "://"); ok {
		address = rest
	}
	if strings.HasPrefix(address, "/") {
		return
	}
	_, service, err := net.SplitHostPort(strings.TrimPrefix(address, "inet:"))
	if err != nil {
		return
	}
	if port, err := net.LookupPort("tcp", service); err == nil {
		l.Ports = append(l.Ports, Port{key, uint16(port)})
	}
}

// PortNumbers returns the ports in ascending order, each of them once.
func (l *List) PortNumbers() []uint16 {
	var numbers []uint16
	for _, p := range l.Ports {
		numbers = append(numbers, p.Port)
	}
	slices.Sort(numbers)
	return slices.Compact(numbers)
}
