package notifier

import (
	"context"
	"fmt"
	"time"
	_ "time/tzdata" // what a time zone is must not depend on the machine

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/partner"
)

// dueRow is a locked delivery, with its user's quiet hours when they have some.
type dueRow struct {
	ID       uuid.UUID
	Timezone *string
	From, To *int16 // minutes of the user's own day
}

// quietUntil returns the end of the quiet hours that hold at now; false when none do.
func (d dueRow) quietUntil(now time.Time) (time.Time, bool) {
	if d.Timezone == nil || d.From == nil || d.To == nil {
		return time.Time{}, false
	}
	zone, err := time.LoadLocation(*d.Timezone)
	if err != nil {
		zone = time.UTC // a name of a newer release; a push an hour off is better than none
	}
	from, to := int(*d.From), int(*d.To)
	local := now.In(zone)
	minute := local.Hour()*60 + local.Minute()
	holds := from <= minute && minute < to
	if to < from { // over midnight
		holds = from <= minute || minute < to
	}
	if !holds {
		return time.Time{}, false
	}
	days := 0
	if minute >= to {
		days = 1
	}
	end := time.Date(local.Year(), local.Month(), local.Day()+days, to/60, to%60, 0, 0, zone)
	if !end.After(now) {
		// The clocks go back and this time of day comes twice: it is the second one.
		end = now.Truncate(time.Minute).Add(time.Duration(to-minute) * time.Minute)
	}
	return end, true
}

// A delivery whose time is over before the hours are is looked at again when it is, to be
// settled. A claim whose result never came may have reached the phone (handed_at). What
// takes a push off the phone, or sets its badge alone, does not wait.
const putOffDue = `
UPDATE push_deliveries p
SET status = 1, due_at = LEAST(k.until, p.expires_at),
    handed_at = CASE WHEN p.status = 2 THEN coalesce(p.handed_at, $3) ELSE p.handed_at END
FROM unnest($1::uuid[], $2::timestamptz[]) AS k (id, until)
WHERE p.id = k.id AND p.expires_at > $3
  AND NOT p.payload ? 'quietly'
  AND NOT EXISTS (SELECT FROM inbox_entries i WHERE i.user_id = p.user_id AND i.seq = p.seq AND i.withdrawn)
RETURNING p.id, p.type`

// putOff moves what is due in its user's quiet hours to their end. It returns what remains
// due, and what it moved.
func putOff(ctx context.Context, tx pgx.Tx, now time.Time, due []dueRow) (remain []uuid.UUID, moved []closure, err error) {
	var (
		quiet []uuid.UUID
		until []time.Time
	)
	for _, d := range due {
		if end, ok := d.quietUntil(now); ok {
			quiet, until = append(quiet, d.ID), append(until, end)
		}
	}
	later := make(map[uuid.UUID]bool, len(quiet))
	if len(quiet) > 0 {
		rows, err := tx.Query(ctx, putOffDue, quiet, until, now)
		if err != nil {
			return nil, nil, fmt.Errorf("put off: %w", err)
		}
		var (
			id   uuid.UUID
			kind int16
		)
		_, err = pgx.ForEachRow(rows, []any{&id, &kind}, func() error {
			later[id] = true
			moved = append(moved, closure{Kind: partner.EventType(kind)})
			return nil
		})
		if err != nil {
			return nil, nil, fmt.Errorf("put off: %w", err)
		}
	}
	for _, d := range due {
		if !later[d.ID] {
			remain = append(remain, d.ID)
		}
	}
	return remain, moved, nil
}
