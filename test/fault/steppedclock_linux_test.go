package fault

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A steppedClock runs a process whose real-time clock can be stepped, as settimeofday(2)
// does for the whole machine. Go reads the clock in the vDSO, where neither faketime nor
// seccomp can intercept it. Therefore the process is traced: its vDSO is hidden when it
// starts, so that it asks the kernel, and the time that the kernel returns is changed.
// The monotonic clock and the timestamps of files do not change.
type steppedClock struct {
	step  atomic.Int64 // seconds
	reads atomic.Int64 // of the real-time clock
}

// set sets the difference from the real clock.
func (k *steppedClock) set(to time.Duration) { k.step.Store(int64(to / time.Second)) }

// run starts cmd and traces it until it ends. It sends the result to ended.
func (k *steppedClock) run(cmd *exec.Cmd, ended chan<- error) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // only the thread that started a process may trace it
		defer runtime.UnlockOSThread()
		if cmd.SysProcAttr == nil {
			cmd.SysProcAttr = &syscall.SysProcAttr{}
		}
		cmd.SysProcAttr.Ptrace = true
		cmd.SysProcAttr.Setpgid = true // trace waits for this group only
		err := cmd.Start()
		started <- err
		if err == nil {
			ended <- k.trace(cmd.Process.Pid)
		}
	}()
	return <-started
}

// trace stops the process at each system call of each thread. The first stop is after
// execve. It waits for the process group of leader only: this thread may be the parent
// of other processes, whose status their Wait needs.
func (k *steppedClock) trace(leader int) error {
	const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_EXITKILL
	timespec := map[int]uintptr{} // by thread: the address that its clock_gettime writes to
	known := false
	for {
		var status unix.WaitStatus
		tid, err := unix.Wait4(-leader, &status, unix.WALL|unix.WNOTHREAD, nil)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return fmt.Errorf("wait4: %w", err)
		case status.Exited() || status.Signaled():
			if tid == leader {
				return outcome(status)
			}
			continue
		}
		pass := 0
		switch sig := status.StopSignal(); {
		case !known:
			known = true
			if err := begin(tid, options); err != nil {
				return err
			}
		case sig == unix.SIGTRAP|0x80:
			k.systemCall(tid, timespec)
		case sig != unix.SIGTRAP && sig != unix.SIGSTOP: // clone, and the first stop of a new thread
			pass = int(sig)
		}
		if err := unix.PtraceSyscall(tid, pass); err != nil && err != unix.ESRCH {
			return fmt.Errorf("ptrace: %w", err)
		}
	}
}

func outcome(status unix.WaitStatus) error {
	if status.Exited() && status.ExitStatus() == 0 {
		return nil
	}
	return fmt.Errorf("ended with status %#x", uint32(status))
}

func begin(tid, options int) error {
	if err := unix.PtraceSetOptions(tid, options); err != nil {
		return fmt.Errorf("ptrace options: %w", err)
	}
	return hideVDSO(tid)
}

// A callInfo is struct ptrace_syscall_info.
type callInfo struct {
	op    uint8 // 1: a call begins, 2: it returns
	_     [3]uint8
	arch  uint32
	ip    uint64
	stack uint64
	data  [8]uint64 // of a call: its number and its arguments
}

func infoOf(tid int) (callInfo, error) {
	const getSyscallInfo = 0x420e // PTRACE_GET_SYSCALL_INFO
	var info callInfo
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, getSyscallInfo, uintptr(tid), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0)
	if errno != 0 {
		return info, fmt.Errorf("PTRACE_GET_SYSCALL_INFO: %w", errno)
	}
	return info, nil
}

// systemCall adds the step to the result of clock_gettime(CLOCK_REALTIME).
func (k *steppedClock) systemCall(tid int, timespec map[int]uintptr) {
	info, err := infoOf(tid)
	if err != nil {
		return // the thread has ended
	}
	if info.op == 1 {
		delete(timespec, tid)
		if info.data[0] == unix.SYS_CLOCK_GETTIME && info.data[1] == unix.CLOCK_REALTIME {
			timespec[tid] = uintptr(info.data[2])
		}
		return
	}
	at, ok := timespec[tid]
	if !ok {
		return
	}
	delete(timespec, tid)
	seconds, err := peek(tid, at)
	if err == nil {
		err = poke(tid, at, seconds+uint64(k.step.Load()))
	}
	if err == nil {
		k.reads.Add(1)
	}
}

func peek(tid int, at uintptr) (uint64, error) {
	var word [8]byte
	_, err := unix.PtracePeekData(tid, at, word[:])
	return binary.NativeEndian.Uint64(word[:]), err
}

func poke(tid int, at uintptr, value uint64) error {
	_, err := unix.PtracePokeData(tid, at, binary.NativeEndian.AppendUint64(nil, value))
	return err
}

// hideVDSO removes the vDSO from the auxiliary vector, which follows the arguments and
// the environment on the first stack.
func hideVDSO(tid int) error {
	const ignore, vdso = 1, 33 // AT_IGNORE, AT_SYSINFO_EHDR
	info, err := infoOf(tid)
	if err != nil {
		return err
	}
	at := uintptr(info.stack) + 8 // after argc
	for ends := 0; ends < 2; at += 8 {
		word, err := peek(tid, at)
		if err != nil {
			return err
		}
		if word == 0 {
			ends++
		}
	}
	for ; ; at += 16 {
		switch kind, err := peek(tid, at); {
		case err != nil:
			return err
		case kind == vdso:
			return poke(tid, at, ignore)
		case kind == 0:
			return errors.New("the process has no vDSO to hide")
		}
	}
}
