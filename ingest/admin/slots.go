package admin

import (
	"context"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/ingest/accounts"
	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/fault"
	"github.com/bondmate/backend/pkg/partner"
)

// MaxSlots is the most slots that an operator can give a user.
const MaxSlots = 50

// slotsOf is how many slots a user should have: what an operator has set, else what the
// tier brings.
func (s *Service) slotsOf(u locked) int {
	switch {
	case u.total > 0:
		return u.total
	case u.tier == TierPremium:
		return s.cfg.SlotsPremium
	default:
		return s.cfg.SlotsFree
	}
}

const setTierSQL = `UPDATE users SET tier = $2 WHERE id = $1`

// SetTier changes what a user pays for, and with it the slots, unless an operator has set
// their number. Slots that are occupied stay, also those beyond what the tier brings.
func (s *Service) SetTier(ctx context.Context, actor Actor, id uuid.UUID, tier Tier) (u User, err error) {
	line := entry{actor: actor, action: permissions["setTier"].Action, severity: partner.SeverityNotice, target: id}
	err = s.act(ctx, line, func(tx pgx.Tx, line *entry) error {
		before, err := lockUser(ctx, tx, id)
		if err != nil {
			return err
		}
		line.metadata = map[string]string{"from": before.tier.String(), "to": tier.String()}
		var batch pgx.Batch
		batch.Queue(setTierSQL, id, tier)
		accounts.Announce(&batch, id, s.cfg.Partitions, s.now())
		if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
			return fmt.Errorf("set tier of %s: %w", id, err)
		}
		after := before
		after.tier = tier
		changed, err := s.adjust(ctx, tx, id, adjustment{want: s.slotsOf(after)})
		if err != nil {
			return err
		}
		if changed || tier != before.tier {
			if err := s.tellAllowance(ctx, tx, id); err != nil {
				return err
			}
		}
		u, err = s.userIn(ctx, tx, id)
		return err
	})
	return u, err
}

const setTotalSQL = `UPDATE users SET slots_total = NULLIF($2::int, 0) WHERE id = $1`

// SetSlots sets how many slots a user has, whatever their tier; zero leaves it to the tier
// again. Only vacant ones go: with fewer than are occupied it is the fault no_vacant_slot,
// which says how many are.
func (s *Service) SetSlots(ctx context.Context, actor Actor, id uuid.UUID, total int) (u User, err error) {
	if total < 0 || total > MaxSlots {
		e := fault.New(fault.Invalid, "invalid_request", "The request is not valid.")
		e.Fields = []fault.Field{{Pointer: "/total", Code: "out_of_range", Detail: fmt.Sprintf("Between 1 and %d.", MaxSlots)}}
		return User{}, e
	}
	line := entry{actor: actor, action: permissions["setSlots"].Action, severity: partner.SeverityNotice, target: id}
	err = s.act(ctx, line, func(tx pgx.Tx, line *entry) error {
		after, err := lockUser(ctx, tx, id)
		if err != nil {
			return err
		}
		after.total = total
		want := s.slotsOf(after)
		line.metadata = map[string]string{"total": fmt.Sprint(want)}
		if _, err := tx.Exec(ctx, setTotalSQL, id, total); err != nil {
			return fmt.Errorf("set slots of %s: %w", id, err)
		}
		changed, err := s.adjust(ctx, tx, id, adjustment{want: want, strict: total > 0})
		if err != nil {
			return err
		}
		if changed {
			if err := s.tellAllowance(ctx, tx, id); err != nil {
				return err
			}
		}
		u, err = s.userIn(ctx, tx, id)
		return err
	})
	return u, err
}

const slotsSQL = `
SELECT s.slot, EXISTS (SELECT FROM partnership_members m WHERE m.user_id = s.user_id AND m.slot = s.slot AND m.active)
FROM user_slots s
WHERE s.user_id = $1
ORDER BY s.slot`

const (
	// The slot of an ended partnership is the one that it would like to have back; any does.
	moveEndedSQL = `UPDATE partnership_members SET slot = $3 WHERE user_id = $1 AND slot = ANY ($2) AND NOT active`
	dropSlotsSQL = `DELETE FROM user_slots WHERE user_id = $1 AND slot = ANY ($2)`
	addSlotsSQL  = `INSERT INTO user_slots (user_id, slot) SELECT $1, n FROM unnest($2::smallint[]) AS n`
)

// adjustment is a wish for a number of slots.
type adjustment struct {
	want   int
	strict bool // fewer than are occupied is a fault; otherwise those stay
}

// adjust brings a user's slots to the number that is wanted and reports whether that
// changed any. The caller holds the stream's lock, under which every partnership begins and
// ends: so a slot that is vacant here is vacant until the commit (G3).
func (s *Service) adjust(ctx context.Context, tx pgx.Tx, id uuid.UUID, a adjustment) (changed bool, err error) {
	rows, err := tx.Query(ctx, slotsSQL, id)
	if err != nil {
		return false, fmt.Errorf("load slots of %s: %w", id, err)
	}
	var all, vacant []int16
	var slot int16
	var occupied bool
	if _, err := pgx.ForEachRow(rows, []any{&slot, &occupied}, func() error {
		if all = append(all, slot); !occupied {
			vacant = append(vacant, slot)
		}
		return nil
	}); err != nil {
		return false, fmt.Errorf("load slots of %s: %w", id, err)
	}
	if used := len(all) - len(vacant); a.want < used {
		if a.strict {
			e := fault.New(fault.Conflict, "no_vacant_slot", fmt.Sprintf("%d of %d slots are occupied; only vacant ones can go.", used, len(all)))
			e.Fields = []fault.Field{{Pointer: "/total", Code: "occupied", Detail: fmt.Sprintf("%d are occupied.", used)}}
			return false, e
		}
		a.want = used
	}
	var batch pgx.Batch
	switch more := a.want - len(all); {
	case more == 0:
		return false, nil
	case more > 0:
		var added []int16
		for n := int16(1); len(added) < more; n++ {
			if !slices.Contains(all, n) {
				added = append(added, n)
			}
		}
		batch.Queue(addSlotsSQL, id, added)
	default:
		gone := vacant[len(vacant)+more:] // the highest
		kept := all[slices.IndexFunc(all, func(n int16) bool { return !slices.Contains(gone, n) })]
		batch.Queue(moveEndedSQL, id, gone, kept)
		batch.Queue(dropSlotsSQL, id, gone)
	}
	if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
		return false, fmt.Errorf("change slots of %s: %w", id, err)
	}
	return true, nil
}

// A new ref makes the events of this change its own. Whoever lets the timer go off holds the
// stream's lock as well, and decides on all that was changed by then.
const allowanceTimerSQL = `
INSERT INTO timers (low, high, kind, partition, due_at, ref)
VALUES ($1, $1, $2, $3, $4, gen_random_uuid())
ON CONFLICT (low, high, kind) DO UPDATE SET
    ref = excluded.ref, due_at = excluded.due_at, retry_at = NULL, error = NULL`

// tellAllowance has the owner of the user's partition tell the user, and close their pending
// requests when there is no vacant slot any more.
func (s *Service) tellAllowance(ctx context.Context, tx pgx.Tx, id uuid.UUID) error {
	on := contract.PartitionOf([]byte(partner.PairOf(id, id).String()), s.cfg.Partitions)
	if _, err := tx.Exec(ctx, allowanceTimerSQL, id, partner.TimerAllowance, on, s.now()); err != nil {
		return fmt.Errorf("set timer of %s: %w", id, err)
	}
	return nil
}
