package main

import (
	"net"
	"os"
	"strings"
	"testing"

	"postern/cmd/postern/internal/process"
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
	if status != process.ExitOK {
		t.Errorf("status %d", status)
	}
	wantLines(t, stdout, "port           "+s.address+" (listener submission) is ")
	if strings.Contains(stdout, "is free") {
		t.Errorf("taken, and said to be free:\n%s", stdout)
	}
	if _, err := os.Stat("/proc/self/fd"); err == nil { // this test is the postern that listens
		wantLines(t, stdout, "ok    port", "is in use by postern already: postern")
	}
}

func TestPortHolder(t *testing.T) {
	if got := portHolder([]process.PortHolder{{PID: 812, Name: "master"}, {PID: 1, Name: "systemd"}}); got != "master (pid 812), systemd (pid 1)" {
		t.Error(got)
	}
	if got := portHolder(nil); !strings.Contains(got, "cannot see") || !strings.Contains(got, "ss -ltnp") {
		t.Error(got)
	}
	if isPostern(process.PortHolder{PID: 812, Name: "master"}) {
		t.Error("isPostern is true for Postfix")
	}
}
