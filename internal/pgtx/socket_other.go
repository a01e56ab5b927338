//go:build !unix

package pgtx

var peek func(fd int, b []byte) (n int, wait bool)
