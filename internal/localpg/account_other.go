//go:build !unix

package localpg

import "os"

// account has a meaning on Unix only; elsewhere it is always nil.
type account struct {
	name     string
	uid, gid int
}

func serverUser() (*account, error)        { return nil, nil }
func (a *account) as() string              { return "" }
func (a *account) own(string) error        { return nil }
func (a *account) mayRun(path string) bool { return true }
func (a *account) mayFill(string) bool     { return true }

// onlyOurs is true: the cache lies in the user's profile, which others cannot write to.
func onlyOurs(os.FileInfo) bool { return true }
