package test

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"postern/test/kit"
)

// pss returns the memory of the server in KiB, with its share of shared pages.
func (p *postern) pss(t *testing.T) int {
	t.Helper()
	return p.procField(t, "smaps_rollup", "Pss")
}

// peakMemory returns the highest memory use of the server so far, in KiB.
func (p *postern) peakMemory(t *testing.T) int {
	t.Helper()
	return p.procField(t, "status", "VmHWM")
}

// heap returns the private memory of the server in KiB, without the pages of its program,
// which other servers share.
func (p *postern) heap(t *testing.T) int {
	t.Helper()
	return p.procField(t, "smaps_rollup", "Anonymous")
}

// files returns the number of open files and connections of the server.
func (p *postern) files(t *testing.T) int {
	t.Helper()
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	kit.Must(t, err)
	return len(open)
}

// procField returns a number in one of the files in /proc about the server.
func (p *postern) procField(t *testing.T, file, name string) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.cmd.Process.Pid, file))
	kit.Must(t, err)
	field := regexp.MustCompile(`(?m)^` + name + `:\s+(\d+)`).FindSubmatch(text)
	if field == nil {
		t.Fatalf("no %s in %s", name, text)
	}
	n, err := strconv.Atoi(string(field[1]))
	kit.Must(t, err)
	return n
}

// goroutines ends the server with SIGQUIT, which makes a Go program print all goroutines,
// and counts them by the function that started them.
func (p *postern) goroutines(t *testing.T) goroutineCount {
	t.Helper()
	p.signal(t, syscall.SIGQUIT)
	select {
	case <-p.ended:
		p.ended <- nil // for finish
	case <-time.After(time.Minute):
		t.Fatal("postern did not end after SIGQUIT")
	}
	_, dump, found := strings.Cut(p.log(), "SIGQUIT: quit")
	if !found {
		t.Fatal("postern printed nothing after SIGQUIT")
	}
	c := goroutineCount{}
	for _, block := range strings.Split(dump, "\n\n") {
		if !strings.HasPrefix(block, "goroutine ") {
			continue
		}
		starter := "main"
		if by := regexp.MustCompile(`(?m)^created by (\S+)`).FindStringSubmatch(block); by != nil {
			starter = by[1]
		}
		c[starter]++
	}
	return c
}

// A goroutineCount is the number of goroutines by the function that started them.
type goroutineCount map[string]int

func (c goroutineCount) total() int {
	n := 0
	for _, m := range c {
		n += m
	}
	return n
}

func (c goroutineCount) String() string {
	var all []string
	for _, starter := range slices.Sorted(maps.Keys(c)) {
		all = append(all, fmt.Sprintf("%d of %s", c[starter], starter))
	}
	return strings.Join(all, ", ")
}

// cpuTime is CPU time since the start of the machine, in ticks of the kernel: of the
// server and this process, of other processes, and idle.
type cpuTime struct{ ours, others, idle int }

func (p *postern) cpuTime(t *testing.T) cpuTime {
	t.Helper()
	var w cpuTime
	for i, n := range ticks(t, "/proc/stat", "cpu ")[:8] { // proc_stat(5): user nice system idle iowait irq softirq steal
		if i == 3 || i == 4 {
			w.idle += n
		} else {
			w.others += n
		}
	}
	for _, process := range []string{"self", strconv.Itoa(p.cmd.Process.Pid)} {
		used := ticks(t, "/proc/"+process+"/stat", ") ") // proc_pid_stat(5): utime is field 14, the name 2
		w.ours += used[14-3] + used[15-3]
	}
	w.others -= w.ours
	return w
}

// ticks returns the numbers after a mark in a file of the kernel; words count as 0.
func ticks(t *testing.T, file, mark string) []int {
	t.Helper()
	text, err := os.ReadFile(file)
	kit.Must(t, err)
	_, after, _ := strings.Cut(string(text), mark)
	line, _, _ := strings.Cut(after, "\n")
	var numbers []int
	for _, field := range strings.Fields(line) {
		n, _ := strconv.Atoi(field)
		numbers = append(numbers, n)
	}
	return numbers
}

// share returns the part of the CPU time since begun that other processes did not use.
func (w cpuTime) share(begun cpuTime) float64 {
	ours, others, idle := w.ours-begun.ours, w.others-begun.others, w.idle-begun.idle
	return float64(ours+idle) / float64(ours+others+idle)
}
