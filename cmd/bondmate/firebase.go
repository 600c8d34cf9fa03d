package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/bondmate/backend/ingest/accounts"
	"github.com/bondmate/backend/pkg/config"
	"github.com/bondmate/backend/pkg/identity"
)

// firebaseLogins verifies ID tokens of the Firebase project that is configured; nil without
// one.
func (p *process) firebaseLogins() (accounts.Firebase, error) {
	project := p.cfg.FirebaseProjectID
	if project == "" && p.cfg.FirebaseCredentialsFile != "" {
		var err error
		if project, err = projectOf(p.cfg.FirebaseCredentialsFile); err != nil {
			return nil, fmt.Errorf("FIREBASE_CREDENTIALS_FILE: %w", err)
		}
	}
	if project == "" {
		return nil, nil
	}
	emulator := p.cfg.FirebaseEmulator != "" && p.cfg.Env != config.Production
	if emulator {
		p.log.Warn("ID tokens are taken from Firebase's emulator: anybody can log in as anybody", "variable", "FIREBASE_AUTH_EMULATOR_HOST")
	}
	return identity.NewFirebase(context.Background(), identity.FirebaseConfig{ProjectID: project, Emulator: emulator})
}

// projectOf returns whose service account a file holds.
func projectOf(file string) (string, error) {
	text, err := os.ReadFile(file) // #nosec G304 -- the operator names it
	if err != nil {
		return "", err
	}
	var account struct {
		ProjectID string `json:"project_id"`
	}
	if err := json.Unmarshal(text, &account); err != nil {
		return "", fmt.Errorf("read %s: it is no service account in JSON", file)
	}
	return account.ProjectID, nil
}
