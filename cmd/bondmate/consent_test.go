package main

import (
	"strings"
	"testing"

	"github.com/google/uuid"
)

// The configured age and terms are demanded of a registration, and the export shows them.
func TestMinimumAgeAndConsent(t *testing.T) {
	t.Parallel()
	w := newTown(t, "MIN_AGE=16", "CONSENT_VERSION=2026-05")
	register := func(birthDate, version string) reply {
		t.Helper()
		p := &person{t: t, in: w, name: "Ana"}
		body := map[string]any{"email": uuid.NewString() + "@example.org", "password": secret, "displayName": "Ana"}
		if birthDate != "" {
			body["birthDate"] = birthDate
		}
		if version != "" {
			body["consent"] = map[string]any{"version": version}
		}
		return p.call("POST", "/api/auth/register", body)
	}
	for _, tt := range []struct{ birthDate, version, pointers string }{
		{"", "", "/birthDate /consent"},
		{"2024-02-29", "2026-05", "/birthDate"},
		{"1990-02-28", "2025-01", "/consent/version"},
	} {
		got := register(tt.birthDate, tt.version).refused(400, "invalid_request")
		var pointers []string
		for _, e := range got.list("errors") {
			pointers = append(pointers, e["pointer"].(string))
		}
		same(t, "what is wrong", tt.pointers, strings.Join(pointers, " "))
	}
	ana := &person{t: t, in: w, name: "Ana", token: register("1990-02-28", "2026-05").want(201).text("accessToken")}
	export := ana.get("/api/account/export").want(200)
	same(t, "the export", "1990-02-28 2026-05", export.text("account", "birthDate")+" "+export.text("account", "consent", "version"))
}
