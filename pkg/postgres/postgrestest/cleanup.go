package postgrestest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// removeAtExit has dir removed when this process ends, however it ends: the write end of
// the pipe closes with the process. The short wait lets the server's own end come first.
func removeAtExit(dir string) error {
	reader, writer, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	defer reader.Close()
	// It must outlive every context: it acts when this process is gone.
	cmd := exec.CommandContext(context.Background(), "/bin/sh", "-c", `cat; sleep 1; rm -rf -- "$1"`, "sh", dir) // #nosec G204 -- our directory
	cmd.Stdin = reader
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt from the terminal is not for it
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start clean-up: %w", err)
	}
	// Held open on purpose; without a reference the collector would close it.
	keep = append(keep, writer)
	return nil
}

var keep []*os.File
