package embedded

import (
	"errors"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// account is the user that a server runs as when this process is root.
type account struct{ uid, gid uint32 }

// unprivileged picks the account that runs the server in root's place.
func unprivileged() (*account, error) {
	for _, name := range []string{"postgres", "nobody"} {
		found, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(found.Uid, 10, 32)
		if err != nil {
			continue
		}
		gid, err := strconv.ParseUint(found.Gid, 10, 32)
		if err != nil {
			continue
		}
		return &account{uint32(uid), uint32(gid)}, nil
	}
	return nil, errors.New("PostgreSQL does not run as root, and there is neither a user postgres nor a user nobody to run it as")
}

// chownTree gives dir to the account. Only the top is looked at when it is theirs
// already: walking a large database would cost more than the start.
func chownTree(dir string, to *account) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid == to.uid {
		return nil
	}
	var below []string
	err = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if path != dir {
			below = append(below, path)
		}
		return err
	})
	if err != nil {
		return err
	}
	// The top comes last, so that an interrupted walk is repeated.
	for _, path := range append(below, dir) {
		if err := os.Lchown(path, int(to.uid), int(to.gid)); err != nil {
			return err
		}
	}
	return nil
}

// impassable returns the first directory from dir upwards that others may not enter.
func impassable(dir string) string {
	for {
		info, err := os.Stat(dir)
		if err != nil || info.Mode().Perm()&0o001 == 0 {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return ""
		}
		dir = parent
	}
}
