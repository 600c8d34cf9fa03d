package e2e

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/bondmate/backend/cmd/bondmate/phone"
)

// The same calls are made up each time: SCHEMATHESIS_SEED is for others, and
// SCHEMATHESIS_EXAMPLES for more than these few of each operation, beside the many that
// step over each bound of its parameters and body.
const (
	documentSeed     = "20260314"
	documentExamples = "5"
)

// The OpenAPI document against the server that serves it: calls made up from it, well and
// badly formed, to every operation, as a user, as an administrator, and for what ends a
// session as somebody who may lose it. No answer is a fault, each has a status, headers, a
// content type and a body that the document has for it, what the document forbids is
// refused, and without a token so is what needs one.
func TestDocumentAgainstServer(t *testing.T) {
	tool := schemathesis(t)
	dir := t.TempDir()
	p := launch(t, []string{"all"}, "DATA_DIR="+dir)
	server := p.server()
	ctx, cancel := context.WithTimeout(t.Context(), 14*time.Minute)
	defer cancel()
	people, err := server.RegisterAll(ctx, "document", 4)
	if err != nil {
		t.Fatal(err)
	}
	user, partner, admin, leaver := people[0], people[1], people[2], people[3]
	// So that there is something to read.
	var sent struct{ RequestID uuid.UUID }
	answer, err := user.Send(ctx, partner.UserID, phone.Wait(10))
	if err != nil {
		t.Fatal(err)
	}
	if err := answer.Decode(http.StatusOK, &sent); err != nil {
		t.Fatal(err)
	}
	if answer, err = partner.Accept(ctx, sent.RequestID, phone.Wait(10)); err != nil || answer.Status != http.StatusOK {
		t.Fatalf("accept: %d, %v", answer.Status, err)
	}
	promote := exec.CommandContext(ctx, program, "users", "promote", admin.Email, "--role", "admin")
	promote.Env = append(os.Environ(), "DATABASE_URL="+read(t, filepath.Join(dir, "postgres.dsn")))
	if out, err := promote.CombinedOutput(); err != nil {
		t.Fatalf("promote: %v\n%s", err, out)
	}

	// Who calls these is nobody afterwards. The WebSocket has a document and tests of its own:
	// what follows its handshake is not HTTP.
	ending := []string{"logout", "logoutAll", "deleteAccount", "endSession"}
	all := []string{"--exclude-operation-id", "realtime"}
	for _, id := range ending {
		all = append(all, "--exclude-operation-id", id)
	}
	var last []string
	for _, id := range ending {
		last = append(last, "--include-operation-id", id)
	}
	for _, run := range []struct {
		name   string
		caller *phone.Phone
		which  []string
	}{
		{"user", user, all},
		{"admin", admin, all},
		{"leaver", leaver, last},
	} {
		t.Run(run.name, func(t *testing.T) {
			out := tool.run(t, p.url, run.caller.AccessToken, run.which)
			t.Log(out)
			if run.caller == leaver {
				return
			}
			// All of it was asked by somebody who may ask.
			answer, err := run.caller.Do(ctx, http.MethodGet, "/api/profile", nil)
			if err != nil || answer.Status != http.StatusOK {
				t.Errorf("the session did not last: %d, %v", answer.Status, err)
			}
		})
	}
}

// propertyTester is schemathesis where .ci/schemathesis-setup put it.
type propertyTester struct {
	program, hooks string
}

func schemathesis(t *testing.T) propertyTester {
	t.Helper()
	cache := os.Getenv("BONDMATE_CACHE")
	if cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		cache = filepath.Join(dir, "bondmate")
	}
	hooks, err := filepath.Abs("../../../.ci/schemathesis")
	if err != nil {
		t.Fatal(err)
	}
	tool := propertyTester{program: filepath.Join(cache, "schemathesis", "bin", "st"), hooks: hooks}
	if _, err := os.Stat(tool.program); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("schemathesis is not installed; run .ci/schemathesis-setup")
		}
		t.Skip("!!! OPENAPI DOCUMENT NOT TESTED AGAINST THE SERVER: run .ci/schemathesis-setup first")
	}
	return tool
}

// run makes calls to all of the operations and returns how many; it fails the test with what
// is wrong.
func (p propertyTester) run(t *testing.T, url, token string, args []string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	seed := cmp.Or(os.Getenv("SCHEMATHESIS_SEED"), documentSeed)
	cmd := exec.CommandContext(ctx, p.program, append([]string{
		"run", url + "/openapi.yaml", "--header", "Authorization: Bearer " + token, "--seed", seed,
		"--max-examples", cmp.Or(os.Getenv("SCHEMATHESIS_EXAMPLES"), documentExamples),
		"--phases", "examples,coverage,fuzzing", "--mode", "all", "--continue-on-failure", "--request-timeout", "30",
		"--warnings", "off", "--no-color", "--checks", strings.Join([]string{
			"no_fault_of_the_server", "every_answer_has_an_id", // of the hooks
			"status_code_conformance", "content_type_conformance", "response_headers_conformance", "response_schema_conformance",
			"negative_data_rejection", "missing_required_header", "unsupported_method", "ignored_auth",
		}, ","),
	}, args...)...)
	cmd.Dir = t.TempDir() // it leaves reports behind
	cmd.Env = append(os.Environ(), "SCHEMATHESIS_HOOKS=hooks", "PYTHONPATH="+p.hooks, "PYTHONDONTWRITEBYTECODE=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("seed %s: %v\n%s", seed, err, out)
	}
	summary := regexp.MustCompile(`(?s)Selected: (\d+)/.*Tested: (\d+)\n.*?(\d+ generated)`).FindStringSubmatch(string(out))
	if summary == nil || summary[1] != summary[2] {
		t.Fatalf("not all of the operations were called:\n%s", out)
	}
	return fmt.Sprintf("seed %s, %s operations, %s", seed, summary[2], summary[3])
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}
