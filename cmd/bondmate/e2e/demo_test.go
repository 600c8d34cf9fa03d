package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// A person clicks through the demo page in Chromium: sends, accepts, goes offline, leaves,
// comes back to everything that was missed, restores.
func TestDemoPage(t *testing.T) {
	t.Parallel()
	modules := browserModules(t)
	p := launch(t, []string{"all"}, "DATA_DIR="+t.TempDir(), "RATE_LIMITS=on")
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "testdata/demo.mjs", p.url+"/demo/")
	cmd.Env = append(os.Environ(), "MODULES="+modules, "SCREENSHOTS="+os.Getenv("SCREENSHOTS"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("demo page: %v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// browserModules finds playwright-core where .ci/browser-setup put it.
func browserModules(t *testing.T) string {
	t.Helper()
	cache := os.Getenv("BONDMATE_CACHE")
	if cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		cache = filepath.Join(dir, "bondmate")
	}
	modules := filepath.Join(cache, "browser", "node_modules")
	if _, err := os.Stat(filepath.Join(modules, "playwright-core")); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("playwright-core is not installed; run .ci/browser-setup")
		}
		t.Skip("!!! PAGES NOT TESTED: run .ci/browser-setup first")
	}
	return modules
}
