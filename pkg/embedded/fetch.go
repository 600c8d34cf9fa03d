package embedded

import (
	"context"
	"errors"
)

func binaries(_ context.Context, cfg PostgresConfig) (string, error) {
	dir, err := findBinaries(cfg.BinDir)
	if err == nil || !errors.Is(err, errNoBinaries) {
		return dir, err
	}
	return "", err
}
