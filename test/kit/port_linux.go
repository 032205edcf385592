package kit

import (
	"os"
	"syscall"
)

// keepPort has a socket keep the port that is bound to it and does not listen.
// It is bound without SO_REUSEADDR, so that nobody else has the port, and gets
// that option afterwards, so that servers, which all set it, can listen beside
// it: socket(7).
func keepPort() (port int, free func(), err error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, nil, os.NewSyscallError("socket", err)
	}
	free = func() { syscall.Close(fd) }
	if port, err = bindAny(fd); err != nil {
		free()
	}
	return port, free, err
}

func bindAny(fd int) (port int, err error) {
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return 0, os.NewSyscallError("bind", err)
	}
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return 0, os.NewSyscallError("setsockopt", err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		return 0, os.NewSyscallError("getsockname", err)
	}
	return name.(*syscall.SockaddrInet4).Port, nil
}
