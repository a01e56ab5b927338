//go:build unix

package localpg

import (
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// account is the user the server runs as where that is not ourselves; nil is ourselves.
type account struct {
	name     string
	uid, gid int
}

// serverUser decides who the server runs as: PostgreSQL refuses to run as root.
func serverUser() (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.Atoi(u.Uid)
		gid, err2 := strconv.Atoi(u.Gid)
		if err1 == nil && err2 == nil && uid != 0 {
			return &account{name: name, uid: uid, gid: gid}, nil
		}
	}
	return nil, errors.New("localpg: PostgreSQL does not run as root, and there is neither a user postgres nor nobody to run it as")
}

// as is for error messages.
func (a *account) as() string {
	if a == nil {
		return ""
	}
	return " by user " + a.name
}

func (a *account) own(path string) error {
	if a == nil {
		return nil
	}
	return os.Chown(path, a.uid, a.gid)
}

// mayRun reports whether a can execute a file: /root/bin/postgres is of no use to nobody.
func (a *account) mayRun(path string) bool { return a.may(path, 0o5) }

// mayFill reports whether a can create and remove entries of a directory.
func (a *account) mayFill(dir string) bool { return a.may(dir, 0o3) }

func (a *account) may(path string, bits os.FileMode) bool {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return false
	}
	if path, err = filepath.Abs(path); err != nil {
		return false
	}
	for {
		info, err := os.Stat(path)
		if err != nil || a.bits(info)&bits != bits {
			return false
		}
		parent := filepath.Dir(path)
		if parent == path {
			return true
		}
		path, bits = parent, 0o1 // to pass through
	}
}

// bits are the permissions (rwx) that a has on a file.
func (a *account) bits(info os.FileInfo) os.FileMode {
	if a == nil {
		return 0o7 // the system will tell
	}
	mode := info.Mode().Perm()
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case ok && int(stat.Uid) == a.uid:
		mode >>= 6
	case ok && int(stat.Gid) == a.gid:
		mode >>= 3
	}
	return mode & 0o7
}

// onlyOurs reports whether nobody but us (and root) can change what info describes.
func onlyOurs(info os.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid() && info.Mode().Perm()&0o022 == 0
}
