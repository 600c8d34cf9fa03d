package e2e

import (
	"os/exec"
	"regexp"
	"testing"
)

// `bondmate load` measures a running system and prints one line, without a failure. What
// the figures are is no matter of a test: docs/benchmarks.md has them.
func TestLoadPrintsItsFigures(t *testing.T) {
	t.Parallel()
	p := launch(t, []string{"all"}, "DATA_DIR="+t.TempDir())
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"latency": {
			[]string{"--rate", "20", "--pairs", "3"},
			`^20/s offered, [0-9.]+/s achieved, 0 failed: POST to other phone's socket p50 [0-9.]+ ms, p99 [0-9.]+ ms`,
		},
		"throughput": {
			[]string{"--callers", "4"},
			`^4 waiting callers: [1-9][0-9]* commands/s applied, 0 failed; POST to outcome p50 [0-9.]+ ms, p99 [0-9.]+ ms`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"load", "--quiet", "--url", p.url, "--duration", "2s", "--warmup", "500ms"}, tc.args...)
			out, err := exec.Command(program, args...).Output()
			if err != nil {
				t.Fatalf("bondmate %v: %v", args, err)
			}
			if !regexp.MustCompile(tc.want).Match(out) {
				t.Errorf("printed %q, want %s", out, tc.want)
			}
		})
	}
}
