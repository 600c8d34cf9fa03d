package admin

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/identity"
	"github.com/bondmate/backend/pkg/partner"
)

// User is an account as operators see it.
type User struct {
	ID          uuid.UUID
	DisplayName string
	Email       string // empty for an account without a password
	Role        identity.Role
	Tier        Tier
	Status      partner.UserStatus
	CreatedAt   time.Time
	Slots       Slots
	SlotsSet    int // how many an operator has set; zero: as many as the tier brings
	Sessions    int // live ones
	Devices     int // push addresses
	Reports     ReportCount
}

// Slots counts a user's places for partnerships.
type Slots struct {
	Total, Occupied int
}

// ReportCount says how many reports there are.
type ReportCount struct {
	About int // of others about the user
	Open  int // of these
	By    int // of the user about others
}

// querier is a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

var errNoUser = fault.New(fault.NotFound, "user_not_found", "There is no such user.")

const findUserSQL = `
SELECT user_id
FROM credentials
WHERE email = $1`

// FindUser returns the id of the user with this e-mail address, or whose id it is. It says
// nothing of whether an id is anybody's.
func (s *Service) FindUser(ctx context.Context, who string) (uuid.UUID, error) {
	if id, err := uuid.Parse(who); err == nil {
		return id, nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Within)
	defer cancel()
	var id uuid.UUID
	err := s.pool.QueryRow(ctx, findUserSQL, strings.ToLower(strings.TrimSpace(who))).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return uuid.Nil, errNoUser
	}
	if err != nil {
		return uuid.Nil, fmt.Errorf("find user: %w", err)
	}
	return id, nil
}

const userSQL = `
SELECT u.id, u.display_name, COALESCE(c.email, ''), u.role, u.tier, u.status, u.created_at, COALESCE(u.slots_total, 0),
    (SELECT count(*) FROM user_slots o WHERE o.user_id = u.id),
    (SELECT count(*) FROM partnership_members m WHERE m.user_id = u.id AND m.active),
    (SELECT count(*) FROM sessions s WHERE s.user_id = u.id AND s.revoked_at IS NULL AND s.expires_at > $2),
    (SELECT count(*) FROM devices d WHERE d.user_id = u.id),
    (SELECT count(*) FROM reports r WHERE r.target = u.id),
    (SELECT count(*) FROM reports r WHERE r.target = u.id AND r.status = 1),
    (SELECT count(*) FROM reports r WHERE r.reporter = u.id)
FROM users u LEFT JOIN credentials c ON c.user_id = u.id
WHERE u.id = $1`

func (s *Service) userIn(ctx context.Context, q querier, id uuid.UUID) (User, error) {
	rows, err := q.Query(ctx, userSQL, id, s.now())
	if err != nil {
		return User{}, fmt.Errorf("load user %s: %w", id, err)
	}
	u, err := pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (User, error) {
		var u User
		err := row.Scan(&u.ID, &u.DisplayName, &u.Email, &u.Role, &u.Tier, &u.Status, &u.CreatedAt, &u.SlotsSet, &u.Slots.Total,
			&u.Slots.Occupied, &u.Sessions, &u.Devices, &u.Reports.About, &u.Reports.Open, &u.Reports.By)
		return u, err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return User{}, errNoUser
	}
	if err != nil {
		return User{}, fmt.Errorf("load user %s: %w", id, err)
	}
	return u, nil
}

// User returns an account. The gate has taken the look-up down. Of reports about themselves
// nobody learns.
func (s *Service) User(ctx context.Context, actor Actor, id uuid.UUID) (User, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Within)
	defer cancel()
	u, err := s.userIn(ctx, s.pool, id)
	if id == actor.UserID {
		u.Reports.About, u.Reports.Open = 0, 0
	}
	return u, err
}

// ShowUser is User for a console: it takes itself down.
func (s *Service) ShowUser(ctx context.Context, actor Actor, id uuid.UUID) (u User, err error) {
	line := entry{actor: actor, action: permissions["showUser"].Action, severity: partner.SeverityInfo, target: id}
	err = s.act(ctx, line, func(tx pgx.Tx, _ *entry) error {
		u, err = s.userIn(ctx, tx, id)
		return err
	})
	return u, err
}

const setRoleSQL = `UPDATE users SET role = $2 WHERE id = $1`

// SetRole gives an account a role. It holds from the next call on, also for sessions that
// are open. Only a console can: the first administrator comes from somewhere, and a stolen
// session makes no further ones.
func (s *Service) SetRole(ctx context.Context, actor Actor, id uuid.UUID, role identity.Role) (u User, err error) {
	line := entry{actor: actor, action: "ops.user.role", severity: partner.SeverityWarning, target: id}
	err = s.act(ctx, line, func(tx pgx.Tx, line *entry) error {
		before, err := lockUser(ctx, tx, id)
		if err != nil {
			return err
		}
		line.metadata = map[string]string{"from": before.role.String(), "to": role.String()}
		if _, err := tx.Exec(ctx, setRoleSQL, id, role); err != nil {
			return fmt.Errorf("set role of %s: %w", id, err)
		}
		u, err = s.userIn(ctx, tx, id)
		return err
	})
	return u, err
}
