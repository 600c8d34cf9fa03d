package e2e

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Where the broker's jars cannot be fetched, the tests run without them after one loud
// line; CI demands them.
func TestMissingJarsAreSaidInOneLine(t *testing.T) {
	t.Parallel()
	tools := t.TempDir()
	for name, script := range map[string]string{"mvn": "exit 1", "java": "exit 0"} {
		if err := os.WriteFile(filepath.Join(tools, name), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	withKafka := func(ci string) (stdout, stderr string, code int) {
		cmd := exec.Command("../../../.ci/with-kafka", "echo", "ran")
		cmd.Env = append(os.Environ(), "PATH="+tools+":"+os.Getenv("PATH"), "BONDMATE_CACHE="+t.TempDir(),
			"TEST_KAFKA_BROKERS=", "TEST_KAFKA_LIBS=", "CI="+ci)
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		if err := cmd.Run(); err != nil {
			exit, ok := errors.AsType[*exec.ExitError](err)
			if !ok {
				t.Fatal(err)
			}
			code = exit.ExitCode()
		}
		return out.String(), errs.String(), code
	}

	stdout, stderr, code := withKafka("")
	if code != 0 || stdout != "ran\n" {
		t.Errorf("without CI: exit code %d, output %q; want the command to run", code, stdout)
	}
	if strings.Count(stderr, "\n") != 1 || !strings.HasPrefix(stderr, "!!! NOT TESTED AGAINST APACHE KAFKA: ") {
		t.Errorf("without CI it said %q, want one loud line", stderr)
	}
	stdout, stderr, code = withKafka("true")
	if code == 0 || stdout != "" {
		t.Errorf("with CI: exit code %d, output %q; want a failure", code, stdout)
	}
	if !strings.Contains(stderr, "!!! NOT TESTED AGAINST APACHE KAFKA: ") {
		t.Errorf("with CI it said %q", stderr)
	}
}
