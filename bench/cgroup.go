package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A cgroup is a control group with all processes of one server. The kernel adds up their
// CPU time, including that of processes that have ended.
type cgroup struct {
	dir string
	cpu func() (time.Duration, error)
}

// newCgroup makes a control group in the hierarchy of version 2 or, if there is none with
// the cpu controller, in cpuacct of version 1.
func newCgroup(name string) (*cgroup, error) {
	c := &cgroup{}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		c.dir, c.cpu = filepath.Join("/sys/fs/cgroup", name), c.cpuStat
	} else {
		c.dir, c.cpu = filepath.Join("/sys/fs/cgroup/cpuacct", name), c.cpuacct
	}
	if err := os.Mkdir(c.dir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make a control group: run this as root: %w", err)
	}
	return c, nil
}

func (c *cgroup) cpuStat() (time.Duration, error) {
	text, err := os.ReadFile(filepath.Join(c.dir, "cpu.stat"))
	if err != nil {
		return 0, err
	}
	return number(regexp.MustCompile(`usage_usec (\d+)`), text, time.Microsecond)
}

func (c *cgroup) cpuacct() (time.Duration, error) {
	text, err := os.ReadFile(filepath.Join(c.dir, "cpuacct.usage"))
	if err != nil {
		return 0, err
	}
	return number(regexp.MustCompile(`^(\d+)`), text, time.Nanosecond)
}

func number(field *regexp.Regexp, text []byte, unit time.Duration) (time.Duration, error) {
	found := field.FindSubmatch(text)
	if found == nil {
		return 0, fmt.Errorf("%v not found", field)
	}
	n, err := strconv.ParseInt(string(found[1]), 10, 64)
	return time.Duration(n) * unit, err
}

// settled returns the CPU time used so far, when the server does nothing any more: then it
// has processed all messages that it accepted.
func (c *cgroup) settled(ctx context.Context) (time.Duration, error) {
	const idle, interval = 2 * time.Millisecond, 300 * time.Millisecond
	before, err := c.cpu()
	for range 200 {
		if err != nil {
			return 0, err
		}
		if err := pause(ctx, interval); err != nil {
			return 0, err
		}
		var now time.Duration
		if now, err = c.cpu(); err == nil && now-before < idle {
			return now, nil
		}
		before = now
	}
	return before, errors.New("the server does not become idle")
}

// start starts a command in the control group. Its output is written to the file log.
func (c *cgroup) start(log string, args ...string) error {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	enter := `echo $$ >"$0/cgroup.procs" && ulimit -n "$(ulimit -H -n)" && exec "$@"`
	cmd := exec.Command("sh", append([]string{"-c", enter, c.dir}, args...)...)
	cmd.Stdout, cmd.Stderr = f, f
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }() // destroy kills it
	return nil
}

func (c *cgroup) pids() ([]int, error) {
	text, err := os.ReadFile(filepath.Join(c.dir, "cgroup.procs"))
	var all []int
	for _, field := range strings.Fields(string(text)) {
		pid, _ := strconv.Atoi(field)
		all = append(all, pid)
	}
	return all, err
}

var pssLine = regexp.MustCompile(`(?m)^Pss:\s+(\d+) kB$`)

// pss returns the memory of all processes in KiB; shared memory counts once.
func (c *cgroup) pss() (int, error) {
	pids, err := c.pids()
	sum := 0
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			continue // the process has ended
		}
		if found := pssLine.FindSubmatch(text); found != nil {
			n, _ := strconv.Atoi(string(found[1]))
			sum += n
		}
	}
	return sum, err
}

// kill ends all processes in the control group, except those that start at this moment.
func (c *cgroup) kill() {
	pids, _ := c.pids()
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// destroy ends all processes in the control group and removes it.
func (c *cgroup) destroy() error {
	for range 200 {
		c.kill()
		err := os.Remove(c.dir)
		if err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("%s cannot be removed", c.dir)
}
