package contract_test

import (
	"errors"
	"testing"

	"github.com/google/uuid"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
)

func TestEncodeCommandRefusesWhatNobodyReads(t *testing.T) {
	t.Parallel()
	solo := func(c *partner.Command) { c.Pair = partner.PairOf(id(1), id(1)) }
	couple := func(c *partner.Command) { c.Pair = partner.PairOf(id(1), id(2)) }
	tests := map[string]struct {
		of   string
		edit func(*partner.Command)
	}{
		"an answer to no breakup":           {"breakup-accept", func(c *partner.Command) { c.BreakupID = uuid.Nil }},
		"a refusal of no breakup":           {"breakup-decline", func(c *partner.Command) { c.BreakupID = uuid.Nil }},
		"no breakup withdrawn":              {"breakup-withdraw", func(c *partner.Command) { c.BreakupID = uuid.Nil }},
		"no partnership forfeited":          {"forfeit", func(c *partner.Command) { c.PartnershipID = uuid.Nil }},
		"an empty nickname":                 {"nickname-set", func(c *partner.Command) { c.Nickname = "" }},
		"a profile of two":                  {"profile-update", couple},
		"no profile":                        {"profile-update", func(c *partner.Command) { c.Profile = nil }},
		"a partner code by the way":         {"profile-update", func(c *partner.Command) { c.Profile = &partner.ProfilePatch{PartnerCode: new("7Q2M0KX4ZP")} }},
		"a partner code of two":             {"partner-code-change", couple},
		"no partner code":                   {"partner-code-change", func(c *partner.Command) { c.Profile = &partner.ProfilePatch{} }},
		"more than a partner code":          {"partner-code-change", func(c *partner.Command) { c.Profile = &partner.ProfilePatch{PartnerCode: new("7"), Locale: new("en")} }},
		"the deletion of two":               {"account-delete", couple},
		"an inbox of two":                   {"notifications-read", couple},
		"a mark before the beginning":       {"notifications-read", func(c *partner.Command) { c.ReadSeq = -1 }},
		"a user who closes pairs":           {"pair-close", func(c *partner.Command) { c.Cause = uuid.Nil }},
		"a pair of one closed":              {"pair-close", solo},
		"a user who erases":                 {"account-erase", func(c *partner.Command) { c.Cause = uuid.Nil }},
		"the erasure of two":                {"account-erase", couple},
		"a type of the future":              {"block", func(c *partner.Command) { c.Type = 200 }},
		"a command by somebody else":        {"block", func(c *partner.Command) { c.Issuer = id(3) }},
		"a pair that is not in its own way": {"block", func(c *partner.Command) { c.Pair = partner.Pair{Low: id(2), High: id(1)} }},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := commands()[tt.of]
			if _, err := contract.EncodeCommand(topics(), 12, cmd, ""); err != nil {
				t.Fatal(err)
			}
			tt.edit(&cmd)
			if _, err := contract.EncodeCommand(topics(), 12, cmd, ""); !errors.Is(err, contract.ErrMalformed) {
				t.Errorf("error %v, want ErrMalformed", err)
			}
		})
	}
}
