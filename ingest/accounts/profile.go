package accounts

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/identity"
	"github.com/bondmate/backend/pkg/partner"
)

// Profile is what a user sees of their own account.
type Profile struct {
	ID          uuid.UUID
	DisplayName string
	PartnerCode string
	Theme       string
	// ThemeEntries are what the custom theme is made of, nil when there are none.
	ThemeEntries map[string]string
	Timezone     string
	Locale       string
	Tier         string // free or premium
	Slots        Slots
	Privacy      Privacy
	Seq          int64 // head of the user's inbox
}

// Slots counts a user's places for partnerships.
type Slots struct {
	Total, Occupied, Vacant int
}

// Privacy is what others may see of a user.
type Privacy struct {
	Presence bool   // partners see whether the user is online
	Preview  string // what a push shows on the lock screen: discreet or full
}

// Querier is a pool or a transaction: who reads several things in one snapshot passes
// the transaction.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// Profile returns the profile of a user, as it is now.
func (s *Service) Profile(ctx context.Context, userID uuid.UUID) (Profile, error) {
	return s.ProfileIn(ctx, s.pool, userID)
}

const profileSQL = `
SELECT u.id, u.display_name, u.partner_code, u.theme, u.theme_entries, u.timezone, u.locale, u.tier,
    u.show_presence, u.push_preview,
    (SELECT count(*) FROM user_slots o WHERE o.user_id = u.id),
    (SELECT count(*) FROM partnership_members m WHERE m.user_id = u.id AND m.active),
    COALESCE((SELECT st.last_seq FROM user_streams st WHERE st.user_id = u.id), 0)
FROM users u
WHERE u.id = $1`

// ProfileIn returns the profile of a user as q sees it.
func (s *Service) ProfileIn(ctx context.Context, q Querier, userID uuid.UUID) (Profile, error) {
	rows, err := q.Query(ctx, profileSQL, userID)
	if err != nil {
		return Profile{}, fmt.Errorf("load profile of %s: %w", userID, err)
	}
	p, err := pgx.CollectExactlyOneRow(rows, scanProfile)
	if errors.Is(err, pgx.ErrNoRows) {
		return Profile{}, fault.New(fault.NotFound, "user_not_found", "There is no such user.")
	}
	if err != nil {
		return Profile{}, fmt.Errorf("load profile of %s: %w", userID, err)
	}
	return p, nil
}

// tierPremium is users.tier of a paying user; 1 is free.
const tierPremium = 2

func scanProfile(row pgx.CollectableRow) (Profile, error) {
	var p Profile
	var tier int16
	err := row.Scan(&p.ID, &p.DisplayName, &p.PartnerCode, &p.Theme, &p.ThemeEntries, &p.Timezone, &p.Locale, &tier,
		&p.Privacy.Presence, &p.Privacy.Preview, &p.Slots.Total, &p.Slots.Occupied, &p.Seq)
	p.Slots.Vacant = max(p.Slots.Total-p.Slots.Occupied, 0)
	p.Tier = "free"
	if tier == tierPremium {
		p.Tier = "premium"
	}
	return p, err
}

// Person is what others see of a user.
type Person struct {
	ID          uuid.UUID
	DisplayName string
}

const personByCodeSQL = `
SELECT id, display_name
FROM users
WHERE partner_code = $1 AND status <> $2`

// FindByPartnerCode returns the user with exactly this code, as typed by a person. It
// knows nothing of the asker, so that its answer cannot tell a block.
func (s *Service) FindByPartnerCode(ctx context.Context, typed string) (Person, error) {
	code, ok := identity.NormalizePartnerCode(typed)
	if !ok {
		return Person{}, errNoPerson
	}
	var p Person
	err := s.pool.QueryRow(ctx, personByCodeSQL, code, partner.UserDeleting).Scan(&p.ID, &p.DisplayName)
	if errors.Is(err, pgx.ErrNoRows) {
		return Person{}, errNoPerson
	}
	if err != nil {
		return Person{}, fmt.Errorf("find user by partner code: %w", err)
	}
	return p, nil
}

var errNoPerson = fault.New(fault.NotFound, "user_not_found", "Nobody has this partner code.")
