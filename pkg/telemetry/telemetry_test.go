package telemetry

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestNewLogger(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		cfg  LogConfig
		want string // the start of the line
		err  bool
	}{
		"json":                            {cfg: LogConfig{Level: "info", Format: "json"}, want: "{"},
		"text":                            {cfg: LogConfig{Level: "info", Format: "text"}, want: "time="},
		"auto into a file is json":        {cfg: LogConfig{Level: "info", Format: "auto", Development: true}, want: "{"},
		"below the level nothing is said": {cfg: LogConfig{Level: "error", Format: "text"}, want: ""},
		"unknown level":                   {cfg: LogConfig{Level: "loud"}, err: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			test.cfg.To = &out
			log, err := NewLogger(test.cfg)
			if (err != nil) != test.err {
				t.Fatalf("error: got %v, want one: %v", err, test.err)
			}
			if err != nil {
				return
			}
			log.Info("hello")
			if got := out.String(); !strings.HasPrefix(got, test.want) || (test.want == "") != (got == "") {
				t.Errorf("got %q, want it to start with %q", got, test.want)
			}
		})
	}
}

func TestNewRegistryGathers(t *testing.T) {
	t.Parallel()
	families, err := NewRegistry("v1").Gather()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, family := range families {
		names = append(names, family.GetName())
	}
	for _, want := range []string{"bondmate_build_info", "go_goroutines"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is not among %v", want, names)
		}
	}
}
