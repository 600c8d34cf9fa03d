package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"
)

func healthcheckCommand(term terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "healthcheck",
		Short: "Ask the role that runs beside it, on ADMIN_PORT, whether it is ready; for container health checks",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := term.load()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), 3*time.Second)
			defer cancel()
			url := fmt.Sprintf("http://127.0.0.1:%d/ready", adminPort(cfg, defaultAdminPort))
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
			if err != nil {
				return fmt.Errorf("ask %s: %w", url, err)
			}
			answer, err := http.DefaultClient.Do(request)
			if err != nil {
				return fmt.Errorf("ask whether ready: %w", err)
			}
			defer answer.Body.Close()
			body, err := io.ReadAll(io.LimitReader(answer.Body, 4096))
			if err != nil {
				return fmt.Errorf("read %s: %w", url, err)
			}
			if answer.StatusCode != http.StatusOK {
				return fmt.Errorf("not ready: %s", body)
			}
			return nil
		},
	}
}
