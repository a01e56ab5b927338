package localpg

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// copyTree copies the directories and files of src to the new directory dst, for
// who alone. It works on open roots: the owner of one of the trees may be another
// user than we are, and must not lead us out of it by a symbolic link.
func copyTree(dst string, src *os.Root, who *account) (manifest, error) {
	var made manifest
	if err := os.Mkdir(dst, 0o700); err != nil {
		return made, err
	}
	to, err := os.OpenRoot(dst)
	if err != nil {
		return made, err
	}
	defer to.Close()
	own := func(name string) error {
		if who == nil {
			return nil
		}
		return to.Lchown(name, who.uid, who.gid)
	}
	err = fs.WalkDir(src.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		name := filepath.FromSlash(path)
		switch {
		case err != nil:
			return err
		case path == ".":
		case d.IsDir():
			if err := to.Mkdir(name, 0o700); err != nil {
				return err
			}
		case d.Type().IsRegular():
			n, err := copyFile(to, src, name)
			if err != nil {
				return err
			}
			made.Files++
			made.Bytes += n
		default:
			return fmt.Errorf("%s is neither a file nor a directory", path)
		}
		return own(name)
	})
	return made, err
}

func copyFile(to, from *os.Root, name string) (int64, error) {
	in, err := from.Open(name)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	out, err := to.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(out, in)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	return n, err
}
