package main

import (
	"net"
	"os"
	"strings"
	"testing"
)

// check tells a port that is free from one that is taken, and ourselves from
// others.
func TestCheckOfPorts(t *testing.T) {
	s := newServing(t)
	_, stdout, _ := command(t, "", "check", "--config", s.config())
	wantLines(t, stdout, "ok    port           "+s.address+" (listener submission) is free\n")

	l, err := net.Listen("tcp", s.address)
	must(t, err)
	defer l.Close()
	status, stdout, _ := command(t, "", "check", "--config", s.config())
	if status != exitOK {
		t.Errorf("status %d", status)
	}
	wantLines(t, stdout, "port           "+s.address+" (listener submission) is ")
	if strings.Contains(stdout, "is free") {
		t.Errorf("taken, and said to be free:\n%s", stdout)
	}
	if _, err := os.Stat("/proc/self/fd"); err == nil { // postern is who runs this test
		wantLines(t, stdout, "ok    port", "is postern's already: postern")
	}
}

func TestStranger(t *testing.T) {
	if got := stranger([]holder{{812, "master"}, {1, "systemd"}}); got != "master (pid 812), systemd (pid 1)" {
		t.Error(got)
	}
	if got := stranger(nil); !strings.Contains(got, "not known") || !strings.Contains(got, "ss -ltnp") {
		t.Error(got)
	}
	if (holder{812, "master"}).isPostern() {
		t.Error("Postfix is taken for postern")
	}
}

func TestListeningAt(t *testing.T) {
	const rest = " 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000000000000000 100 0 0 10 0"
	tests := []struct {
		line string
		want string
	}{
		{"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode", ""},
		{"   0: 0100007F:024B 00000000:0000 0A" + rest, "4711"},
		{"   0: 00000000000000000000000000000000:024B 00000000000000000000000000000000:0000 0A" + rest, "4711"},
		{"   1: 0100007F:024B 0100007F:9C40 01" + rest, ""}, // a connection
		{"   2: 0100007F:1024 00000000:0000 0A" + rest, ""},
		{"", ""},
	}
	for _, tt := range tests {
		if inode, ok := listeningAt(tt.line, 587); ok != (tt.want != "") || ok && inode != tt.want {
			t.Errorf("%s: %q, %v", tt.line, inode, ok)
		}
	}
}
