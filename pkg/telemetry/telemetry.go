// Package telemetry makes the logger and the metrics registry of a process. There is one
// of each a process; main makes them and passes them on.
package telemetry

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"

	"github.com/mattn/go-isatty"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// LogConfig says how lines look.
type LogConfig struct {
	Level  string // debug, info, warn, error
	Format string // text, json, or auto: text when To is a terminal and Development is set
	// Development allows auto to choose text.
	Development bool
	To          io.Writer
}

// NewLogger returns the process's logger.
func NewLogger(cfg LogConfig) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Level)); err != nil {
		return nil, fmt.Errorf("read log level: %w", err)
	}
	opts := &slog.HandlerOptions{Level: level}
	if cfg.Format == "text" || (cfg.Format == "auto" && cfg.Development && isTerminal(cfg.To)) {
		return slog.New(slog.NewTextHandler(cfg.To, opts)), nil
	}
	return slog.New(slog.NewJSONHandler(cfg.To, opts)), nil
}

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && isatty.IsTerminal(file.Fd())
}

// NewRegistry returns a registry with the figures of the Go runtime, the process and the
// build. version is the program's own.
func NewRegistry(version string) *prometheus.Registry {
	registry := prometheus.NewRegistry()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "bondmate_build_info",
		Help: "Always 1; the labels name the build.",
		ConstLabels: prometheus.Labels{
			"version": version, "revision": revision(), "go": goVersion(),
		},
	})
	build.Set(1)
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		build,
	)
	return registry
}

func revision() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, setting := range info.Settings {
			if setting.Key == "vcs.revision" {
				return setting.Value
			}
		}
	}
	return "unknown"
}

func goVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.GoVersion
	}
	return "unknown"
}
