//go:build unix

package pgtx

import "syscall"

// peek copies what can be read to b without taking it away, and reports whether one would have to wait for anything.
var peek = func(fd int, b []byte) (n int, wait bool) {
	for {
		n, _, err := syscall.Recvfrom(fd, b, syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		if err != syscall.EINTR {
			return n, err == syscall.EAGAIN
		}
	}
}
