//go:build !linux

package pgbouncer

import (
	"errors"
	"os/exec"
)

func dieWithParent(*exec.Cmd) {}

func setUser(*exec.Cmd, int, int) error {
	return errors.New("PgBouncer refuses to run as root: run the tests as somebody else")
}
