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

// A cage is a control group with all processes of one server. The kernel adds
// up their CPU time, including that of processes which are gone.
type cage struct {
	dir string
	cpu func() (time.Duration, error)
}

// newCage makes one in the hierarchy of version 2 or, where there is none with
// the cpu controller, in cpuacct of version 1.
func newCage(name string) (*cage, error) {
	c := &cage{}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		c.dir, c.cpu = filepath.Join("/sys/fs/cgroup", name), c.cpuStat
	} else {
		c.dir, c.cpu = filepath.Join("/sys/fs/cgroup/cpuacct", name), c.cpuacct
	}
	if err := os.Mkdir(c.dir, 0o755); err != nil {
		return nil, fmt.Errorf("no control group, are you root? %w", err)
	}
	return c, nil
}

func (c *cage) cpuStat() (time.Duration, error) {
	text, err := os.ReadFile(filepath.Join(c.dir, "cpu.stat"))
	if err != nil {
		return 0, err
	}
	return number(regexp.MustCompile(`usage_usec (\d+)`), text, time.Microsecond)
}

func (c *cage) cpuacct() (time.Duration, error) {
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

// settled is the CPU time used so far, once nothing is done any more: what has
// been accepted is then on its way, out of the queue, or its process is gone.
func (c *cage) settled(ctx context.Context) (time.Duration, error) {
	const calm, look = 2 * time.Millisecond, 300 * time.Millisecond
	before, err := c.cpu()
	for range 200 {
		if err != nil {
			return 0, err
		}
		if err := pause(ctx, look); err != nil {
			return 0, err
		}
		var now time.Duration
		if now, err = c.cpu(); err == nil && now-before < calm {
			return now, nil
		}
		before = now
	}
	return before, errors.New("the server does not come to rest")
}

// start runs a command in the cage and leaves it there. What it prints goes to
// the file.
func (c *cage) start(log string, args ...string) error {
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
	go func() { _ = cmd.Wait() }() // it is killed in the end
	return nil
}

func (c *cage) pids() ([]int, error) {
	text, err := os.ReadFile(filepath.Join(c.dir, "cgroup.procs"))
	var all []int
	for _, field := range strings.Fields(string(text)) {
		pid, _ := strconv.Atoi(field)
		all = append(all, pid)
	}
	return all, err
}

var pssLine = regexp.MustCompile(`(?m)^Pss:\s+(\d+) kB$`)

// pss is the memory of all processes in KiB, what they share counted once.
func (c *cage) pss() (int, error) {
	pids, err := c.pids()
	sum := 0
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			continue // gone meanwhile
		}
		if found := pssLine.FindSubmatch(text); found != nil {
			n, _ := strconv.Atoi(string(found[1]))
			sum += n
		}
	}
	return sum, err
}

// kill ends all processes in the cage, but for those that are being born.
func (c *cage) kill() {
	pids, _ := c.pids()
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// destroy ends all processes in the cage, and the cage.
func (c *cage) destroy() error {
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
