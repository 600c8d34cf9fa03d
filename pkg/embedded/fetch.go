package embedded

import (
	"archive/tar"
	"archive/zip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/ulikunitz/xz"
)

// defaultRepository is where the server's programs are fetched from: Maven Central holds
// relocatable builds of PostgreSQL (github.com/zonkyio/embedded-postgres-binaries).
const defaultRepository = "https://repo1.maven.org/maven2"

const (
	fetchedVersion = "17.5.0"
	fetchWithin    = 5 * time.Minute
	// maxArchive and maxUnpacked bound what is believed of a server; the real ones are 15
	// and 60 MB.
	maxArchive  = 100 << 20
	maxUnpacked = 500 << 20
)

// archive is one build, with the checksum that it must have.
type archive struct{ platform, sha256 string }

func fetchable() map[string]archive {
	return map[string]archive{
		"linux/amd64":  {"linux-amd64", "646f3269075d1a23904127374e3cdbcef96beb32979fedee25d835877400fcbe"},
		"linux/arm64":  {"linux-arm64v8", "e02f27ff50ff2d90b6541d54f3f108505aacd84ea53c2890e976a684bfea2752"},
		"darwin/amd64": {"darwin-amd64", "fb70f783928e77c3d6ef5ca8ed644f1ac502f740fcfc032a375c8347820f2bdd"},
		"darwin/arm64": {"darwin-arm64v8", "e9d3398e10c2ec926395498b03e75ad1a24eeaed82895e756a7e173b202cf6de"},
	}
}

// programs returns the directory of the server's programs: found on this machine, or
// fetched before, or fetched now.
func programs(ctx context.Context, cfg PostgresConfig) (string, error) {
	dir, err := findBinaries(cfg.BinDir)
	if err == nil || !errors.Is(err, errNoBinaries) {
		return dir, err
	}
	platform := runtime.GOOS + "/" + runtime.GOARCH
	build, ok := fetchable()[platform]
	if !ok {
		return "", fmt.Errorf("%w, and there is none to fetch for %s: install PostgreSQL %d or newer, or set DATABASE_URL", err, platform, MinPostgres)
	}
	cache, cacheErr := cacheDir(cfg.CacheDir)
	if cacheErr != nil {
		return "", cacheErr
	}
	home := filepath.Join(cache, "postgres-"+fetchedVersion+"-"+build.platform)
	if hasServer(filepath.Join(home, "bin")) {
		return filepath.Join(home, "bin"), nil
	}
	cfg.Log.InfoContext(ctx, "no PostgreSQL found, fetching it once", "version", fetchedVersion, "into", home)
	ctx, cancel := context.WithTimeout(ctx, fetchWithin)
	defer cancel()
	if fetchErr := fetch(ctx, build, cfg.Repository, home); fetchErr != nil {
		return "", fmt.Errorf("%w, and fetching it: %w", err, fetchErr)
	}
	return filepath.Join(home, "bin"), nil
}

// cacheDir is the user's cache. Root's own is closed to the user that runs the server.
func cacheDir(configured string) (string, error) {
	if configured != "" {
		return configured, nil
	}
	dir, err := os.UserCacheDir()
	if os.Geteuid() == 0 && (err != nil || impassable(filepath.Dir(dir)) != "") {
		return "/var/cache/bondmate", nil
	}
	if err != nil {
		return "", fmt.Errorf("find cache directory: %w", err)
	}
	return filepath.Join(dir, "bondmate"), nil
}

// fetch downloads a build, checks it, and unpacks it into home, which appears complete or
// not at all.
func fetch(ctx context.Context, build archive, repository, home string) error {
	if repository == "" {
		repository = defaultRepository
	}
	if err := os.MkdirAll(filepath.Dir(home), 0o755); err != nil { // #nosec G301 -- the Postgres user reads it
		return err
	}
	work, err := os.MkdirTemp(filepath.Dir(home), ".fetch-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }() // never looked at again
	jar := filepath.Join(work, "postgres.jar")
	name := "embedded-postgres-binaries-" + build.platform
	url := fmt.Sprintf("%s/io/zonky/test/postgres/%s/%s/%s-%s.jar", strings.TrimSuffix(repository, "/"), name, fetchedVersion, name, fetchedVersion)
	if err := download(ctx, url, jar, build.sha256); err != nil {
		return fmt.Errorf("download %s: %w", url, err)
	}
	fresh := filepath.Join(work, "home")
	if err := unpack(jar, fresh); err != nil {
		return fmt.Errorf("unpack %s: %w", url, err)
	}
	if err := os.Rename(fresh, home); err != nil && !hasServer(filepath.Join(home, "bin")) {
		return err // no other process was faster
	}
	return nil
}

func download(ctx context.Context, url, into, want string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("answered %s", answer.Status)
	}
	file, err := os.Create(into) // #nosec G304 -- our directory
	if err != nil {
		return err
	}
	defer file.Close()
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(file, sum), io.LimitReader(answer.Body, maxArchive)); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != want {
		return fmt.Errorf("checksum is %s, expected %s", got, want)
	}
	return file.Close()
}

// unpack extracts the one .txz of a jar.
func unpack(jar, into string) error {
	outer, err := zip.OpenReader(jar)
	if err != nil {
		return err
	}
	defer outer.Close()
	for _, entry := range outer.File {
		if path.Ext(entry.Name) != ".txz" {
			continue
		}
		packed, err := entry.Open()
		if err != nil {
			return err
		}
		defer packed.Close()
		unpacked, err := xz.NewReader(packed)
		if err != nil {
			return err
		}
		return extract(tar.NewReader(io.LimitReader(unpacked, maxUnpacked)), into)
	}
	return errors.New("holds no .txz")
}

// extract writes the files of an archive. os.Root keeps names and links from leading out.
func extract(archive *tar.Reader, into string) error {
	if err := os.MkdirAll(into, 0o755); err != nil { // #nosec G301 -- programs for everybody
		return err
	}
	root, err := os.OpenRoot(into)
	if err != nil {
		return err
	}
	defer root.Close()
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := filepath.FromSlash(path.Clean(header.Name))
		if dir := filepath.Dir(name); dir != "." {
			if err := root.MkdirAll(dir, 0o755); err != nil {
				return err
			}
		}
		switch header.Typeflag {
		case tar.TypeDir:
			err = root.MkdirAll(name, 0o755)
		case tar.TypeSymlink:
			err = root.Symlink(header.Linkname, name)
		case tar.TypeReg:
			err = extractFile(root, name, header.FileInfo().Mode().Perm()&0o111, archive)
		default:
			err = fmt.Errorf("%s has type %q", header.Name, header.Typeflag)
		}
		if err != nil {
			return fmt.Errorf("extract %s: %w", header.Name, err)
		}
	}
}

func extractFile(root *os.Root, name string, executable os.FileMode, content io.Reader) error {
	mode := os.FileMode(0o644)
	if executable != 0 {
		mode = 0o755
	}
	file, err := root.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(file, content); err != nil { // #nosec G110 -- bounded by maxUnpacked
		return errors.Join(err, file.Close())
	}
	return file.Close()
}
