package embedded

import (
	"cmp"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
)

// MinPostgres is the oldest major version of PostgreSQL that the schema runs on.
const MinPostgres = 15

// errNoBinaries says that no PostgreSQL server was found on this machine.
var errNoBinaries = errors.New("no PostgreSQL server found")

// findBinaries returns the directory that holds initdb and postgres: dir when it is set,
// else what PATH leads to, else the newest of the places where packages put it.
func findBinaries(dir string) (string, error) {
	if dir != "" {
		if !hasServer(dir) {
			return "", errors.New("POSTGRES_BIN_DIR " + dir + " has no initdb and postgres")
		}
		return dir, nil
	}
	if path, err := exec.LookPath("initdb"); err == nil {
		// Through symlinks: the server finds its libraries next to the real file, and
		// /usr/local/bin often holds only a few of the programs.
		if real, err := filepath.EvalSymlinks(path); err == nil {
			if found := newest([]string{filepath.Dir(real)}); found != "" {
				return found, nil
			}
		}
	}
	if found := newest(installed()); found != "" {
		return found, nil
	}
	return "", errNoBinaries
}

func installed() []string {
	var dirs []string
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin",          // Debian, Ubuntu
		"/usr/pgsql-*/bin",                   // PGDG on Red Hat
		"/opt/homebrew/opt/postgresql@*/bin", // Homebrew on Apple silicon
		"/usr/local/opt/postgresql@*/bin",    // Homebrew on Intel
		"/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
		"/Applications/Postgres.app/Contents/Versions/*/bin",
		"/usr/local/pgsql/bin", // from source
	} {
		found, _ := filepath.Glob(pattern) // the only error is a bad pattern
		dirs = append(dirs, found...)
	}
	return dirs
}

var majorInPath = regexp.MustCompile(`(?:/|@|-)(\d+)(?:\.\d+)?/bin$`)

// newest picks the highest major version, at least MinPostgres, whose server is there.
func newest(dirs []string) string {
	major := func(dir string) int {
		m := majorInPath.FindStringSubmatch(dir)
		if m == nil {
			return MinPostgres // unversioned place: assume it fits, prefer any newer one
		}
		n, _ := strconv.Atoi(m[1]) // digits by the pattern
		return n
	}
	dirs = slices.DeleteFunc(slices.Clone(dirs), func(dir string) bool {
		return major(dir) < MinPostgres || !hasServer(dir)
	})
	if len(dirs) == 0 {
		return ""
	}
	return slices.MaxFunc(dirs, func(a, b string) int { return cmp.Compare(major(a), major(b)) })
}

func hasServer(dir string) bool {
	for _, name := range []string{"initdb", "postgres"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
			return false
		}
	}
	return true
}
