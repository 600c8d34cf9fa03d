package main

import (
	"bytes"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/bondmate/backend/pkg/identity"
)

func TestKeysRotate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	keys := func(args ...string) (string, error) {
		var out bytes.Buffer
		err := run(t.Context(), append([]string{"keys"}, args...), terminal{environ: []string{"DATA_DIR=" + dir}, stdout: &out, stderr: &out})
		return out.String(), err
	}
	if _, err := keys("list"); err == nil {
		t.Error("lists the keys of a directory without any")
	}
	if _, err := identity.LoadOrCreateDevelopmentKeys(dir); err != nil {
		t.Fatal(err)
	}
	before, err := keys("list")
	if err != nil || !regexp.MustCompile(`^KEY +BITS  USE\n(\S{43})  2048  signs\n$`).MatchString(before) {
		t.Fatalf("list: %q, %v", before, err)
	}
	id := strings.Fields(before)[3]
	after, err := keys("rotate")
	if err != nil || !regexp.MustCompile(`\n\S{43}  2048  accepted\n`+regexp.QuoteMeta(id)+`  2048  signs\n$`).MatchString(after) {
		t.Errorf("rotate: %q, %v", after, err)
	}
	if _, err := keys("rotate"); err == nil || !strings.Contains(err.Error(), "too recent") {
		t.Errorf("rotate again: %v", err)
	}
	long := time.Now().Add(-time.Hour)
	if err := os.Chtimes(identity.DevelopmentKeyFile(dir), long, long); err != nil {
		t.Fatal(err)
	}
	if again, err := keys("rotate"); err != nil || strings.Contains(again, id) {
		t.Errorf("an hour later: %q, %v", again, err)
	}
}
