//go:build unix

package pgtx

import "syscall"

// peek reports whether a read would not wait. It takes nothing away.
var peek = func(fd int) bool {
	var b [1]byte
	for {
		_, _, err := syscall.Recvfrom(fd, b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		if err != syscall.EINTR {
			return err != syscall.EAGAIN
		}
	}
}
