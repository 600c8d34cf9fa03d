package e2e

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The walk through the API in the README, with curl alone, as a newcomer would do it.
// What the README says is printed is what is printed.
func TestReadmeWalkThrough(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	script := regexp.MustCompile("(?s)<!-- walk-through -->\n+```sh\n(.*?)```").FindSubmatch(readme)
	if script == nil {
		t.Fatal("README.md has no walk-through")
	}
	p := launch(t, []string{"all"}, "DATA_DIR="+t.TempDir(), "RATE_LIMITS=on") // as a newcomer has it
	text := strings.ReplaceAll(string(script[1]), "http://localhost:3000", p.url)
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", text)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("walk-through: %v\n%s", err, out)
	}
	// The answers, in order: the request, the acceptance, current on both sides, the end,
	// the second request, and the acceptance that restores.
	answers := string(out)
	for _, want := range []string{
		`"status":"pending"`,
		`"restored":false`,
		`"displayName":"Ben"`,
		`"displayName":"Ada"`,
		`"restorableUntil":`,
		`"status":"pending"`,
		`"restored":true`,
	} {
		_, after, found := strings.Cut(answers, want)
		if !found {
			t.Fatalf("the walk-through does not print %s where it should:\n%s", want, out)
		}
		answers = after
	}
	starts := regexp.MustCompile(`"startedAt":"([^"]+)"`).FindAllStringSubmatch(string(out), -1)
	if len(starts) < 2 || starts[0][1] != starts[len(starts)-1][1] {
		t.Errorf("a restored partnership must keep its first startedAt: %v", starts)
	}
}
