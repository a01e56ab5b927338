//go:build !unix

package pgtx

var peek func(fd int) bool
