package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A document that names a test names one that there is.
func TestNamedTestsExist(t *testing.T) {
	t.Parallel()
	const root = "../.."
	declared := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w+)\(`)
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, found := range function.FindAllStringSubmatch(string(source), -1) {
			declared[found[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile(`\b(?:Test|Fuzz|Benchmark)[A-Z]\w+`)
	for _, document := range []string{"security.md", "reliability.md", "benchmarks.md", "privacy.md", "operations.md"} {
		text, err := os.ReadFile(filepath.Join(root, "docs", document))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range named.FindAllString(string(text), -1) {
			if !declared[name] && !begins(declared, name) {
				t.Errorf("%s names %s, and there is no such test", document, name)
			}
		}
	}
}

// begins reports whether a name is the beginning of some: documents quote patterns of -run.
func begins(declared map[string]bool, name string) bool {
	for one := range declared {
		if strings.HasPrefix(one, name) {
			return true
		}
	}
	return false
}
