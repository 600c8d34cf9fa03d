package embedded

import (
	"os"
	"strconv"
	"strings"
	"syscall"
)

// processAttributes has the kernel send SIGQUIT when the thread that forked ends, which
// for Postgres means: stop now, recover at the next start.
func processAttributes(user *account) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGQUIT}
	if user != nil {
		attr.Credential = &syscall.Credential{Uid: user.uid, Gid: user.gid}
	}
	return attr
}

// isPostgres reports whether the process is alive and a Postgres server: a pid in a lock
// file that was left behind may belong to anyone by now.
func isPostgres(pid int) bool {
	name, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
	if err != nil {
		return false
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	zombie := strings.HasPrefix(rest, "Z")
	return !zombie && strings.HasPrefix(strings.TrimSpace(string(name)), "postgres")
}
