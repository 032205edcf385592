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
)

// pss is the server's share of memory in KiB.
func (p *postern) pss(t *testing.T) int {
	t.Helper()
	return p.vital(t, "smaps_rollup", "Pss")
}

// mostMemory is the most KiB of memory that the server has had at any moment.
func (p *postern) mostMemory(t *testing.T) int {
	t.Helper()
	return p.vital(t, "status", "VmHWM")
}

// heap is the KiB of memory that are the server's own: what of its program is in
// memory is left out, since other servers share that.
func (p *postern) heap(t *testing.T) int {
	t.Helper()
	return p.vital(t, "smaps_rollup", "Anonymous")
}

// files is the number of its open files and connections.
func (p *postern) files(t *testing.T) int {
	t.Helper()
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(open)
}

// vital is a number in one of the kernel's files about the server's process.
func (p *postern) vital(t *testing.T, file, name string) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.cmd.Process.Pid, file))
	if err != nil {
		t.Fatal(err)
	}
	field := regexp.MustCompile(`(?m)^` + name + `:\s+(\d+)`).FindSubmatch(text)
	if field == nil {
		t.Fatalf("no %s in %s", name, text)
	}
	n, err := strconv.Atoi(string(field[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// goroutines ends the server with SIGQUIT, upon which a program in Go prints
// what each goroutine is doing, and counts them by the function that started
// them.
func (p *postern) goroutines(t *testing.T) census {
	t.Helper()
	p.signal(t, syscall.SIGQUIT)
	select {
	case <-p.ended:
		p.ended <- nil // finish has nothing to object to
	case <-time.After(time.Minute):
		t.Fatal("postern has not ended after SIGQUIT")
	}
	_, dump, found := strings.Cut(p.log(), "SIGQUIT: quit")
	if !found {
		t.Fatal("postern has said nothing after SIGQUIT")
	}
	c := census{}
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

// A census is a number of goroutines for each function that starts some.
type census map[string]int

func (c census) total() int {
	n := 0
	for _, m := range c {
		n += m
	}
	return n
}

func (c census) String() string {
	var all []string
	for _, starter := range slices.Sorted(maps.Keys(c)) {
		all = append(all, fmt.Sprintf("%d of %s", c[starter], starter))
	}
	return strings.Join(all, ", ")
}

// A work is CPU time since the start of the machine, in ticks of the kernel: what
// the server and this process have used, what others have, and what nobody has.
type work struct{ ours, others, idle int }

func (p *postern) workSoFar(t *testing.T) work {
	t.Helper()
	var w work
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

// ticks are the numbers behind a mark in a file of the kernel; words count as 0.
func ticks(t *testing.T, file, mark string) []int {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), mark)
	line, _, _ := strings.Cut(after, "\n")
	var numbers []int
	for _, field := range strings.Fields(line) {
		n, _ := strconv.Atoi(field)
		numbers = append(numbers, n)
	}
	return numbers
}

// share is the part of the machine that others have left since begun.
func (w work) share(begun work) float64 {
	ours, others, idle := w.ours-begun.ours, w.others-begun.others, w.idle-begun.idle
	return float64(ours+idle) / float64(ours+others+idle)
}
