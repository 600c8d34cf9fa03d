//go:build unix

package embedded

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// LockedError says that another process holds a data directory.
type LockedError struct {
	Dir string
	PID string // "" when the holder has not written it yet
}

func (e *LockedError) Error() string {
	holder := "another process"
	if e.PID != "" {
		holder = "process " + e.PID
	}
	return fmt.Sprintf("data directory %s is in use by %s: stop it, or set DATA_DIR to another directory", e.Dir, holder)
}

// DirLock is the hold on a data directory.
type DirLock struct{ file *os.File }

// LockDir creates dir when needed and takes it for this process, or fails with a
// *LockedError. The kernel lets go when the process ends, however it ends.
func LockDir(dir string) (*DirLock, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil { // #nosec G301 -- the Postgres user passes through
		return nil, fmt.Errorf("create data directory: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o644) // #nosec G302 G304 -- holds a pid
	if err != nil {
		return nil, fmt.Errorf("open lock of data directory: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer file.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			pid, _ := io.ReadAll(io.LimitReader(file, 32)) // best effort: the error is clear without it
			return nil, &LockedError{Dir: dir, PID: strings.TrimSpace(string(pid))}
		}
		return nil, fmt.Errorf("lock data directory %s: %w", dir, err)
	}
	pid := fmt.Sprintf("%d\n", os.Getpid())
	if err := errors.Join(file.Truncate(0), writeAt(file, pid)); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("write lock of data directory: %w", err)
	}
	return &DirLock{file}, nil
}

func writeAt(file *os.File, s string) error {
	_, err := file.WriteAt([]byte(s), 0)
	return err
}

// Close lets go of the directory. The file stays: removing it would let two processes
// lock two files of the same name.
func (l *DirLock) Close() error { return l.file.Close() }
