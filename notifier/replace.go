package notifier

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
)

// kindWithdrawn is the type that a replacement's data show, as the inbox shows it.
const kindWithdrawn = "withdrawn"

// endingOf returns the pair of an event that may come of a decision which took something
// back. There are no events of cuts: the tables know them, and the event is committed with
// them, so who reads it finds them.
func endingOf(rules map[partner.EventType]rule, rec contract.Record) (partner.Pair, bool) {
	kind, ok := partner.ParseEventType(rec.Header("ce_type"))
	if !ok || !rules[kind].ends {
		return partner.Pair{}, false
	}
	pair, err := partner.ParsePair(string(rec.Key))
	return pair, err == nil
}

// Deliveries whose push may be on a phone become due again, as replacements of it, each
// once: cut_at says so for good. One whose call is under way (sending) is only marked, and
// due when its result is written: the mark and the result meet at the row's lock, and
// whichever is second sees the first. What is not inserted or not claimed yet needs no
// mark: claiming looks at the cuts, and these are committed.
//
// attempts goes on from where it was: it proves a claim, and must not repeat.
const markCut = `
UPDATE push_deliveries p
SET cut_at = $4,
    handed_at = CASE WHEN p.outcome = 'delivered' THEN coalesce(p.handed_at, p.settled_at) ELSE p.handed_at END,
    status = CASE WHEN p.status = 2 THEN 2 ELSE 1 END,
    due_at = CASE WHEN p.status = 2 THEN p.due_at ELSE $4 END,
    outcome = NULL, settled_at = NULL, untold = true
WHERE p.cut_at IS NULL AND (p.status = 2 OR p.handed_at IS NOT NULL OR p.outcome = 'delivered')
  AND p.id = ANY (ARRAY(
	SELECT d.id
	FROM (
		SELECT c.recipient, c.origin, c.after_seq, c.last_seq
		FROM unnest($1::uuid[], $2::uuid[]) AS k (recipient, origin)
		JOIN cuts c ON c.recipient = k.recipient AND c.origin = k.origin
		UNION
		SELECT c.recipient, c.origin, c.after_seq, c.last_seq
		FROM unnest($3::uuid[]) AS g (origin) JOIN cuts c ON c.origin = g.origin
	) c
	CROSS JOIN LATERAL (
		SELECT x.id, x.seq FROM push_deliveries x
		WHERE x.user_id = c.recipient AND x.seq > c.after_seq AND x.seq <= c.last_seq AND x.expires_at > $4
		  AND x.cut_at IS NULL AND (x.status = 2 OR x.handed_at IS NOT NULL OR x.outcome = 'delivered')
	) d
	JOIN inbox_entries i ON i.user_id = c.recipient AND i.seq = d.seq AND i.origin = c.origin AND i.withdrawn))`

// mark makes due what takes the place of pushes that the endings took back, and returns
// how many it concerns.
func mark(ctx context.Context, tx pgx.Tx, now time.Time, endings []partner.Pair) (int64, error) {
	var recipients, origins, gone []uuid.UUID
	for _, p := range endings {
		if p.Solo() { // an account's end: whoever has something of it
			gone = append(gone, p.Low)
			continue
		}
		recipients, origins = append(recipients, p.Low, p.High), append(origins, p.High, p.Low)
	}
	tag, err := tx.Exec(ctx, markCut, recipients, origins, gone, now)
	if err != nil {
		return 0, fmt.Errorf("mark pushes that %d endings may have taken back: %w", len(endings), err)
	}
	return tag.RowsAffected(), nil
}

// messageOf returns what a claim sends: its push, or what takes that one's place.
func (t texts) messageOf(job claimed, now time.Time) Message {
	msg := Message{
		Token: job.Token, Title: t.text(job.Locale, textTitle), Body: t.body(job.Locale, job.Preview, job.Payload.Text),
		Data: job.Payload.Data, Category: job.Payload.Category, CollapseID: job.Payload.CollapseID,
		High: job.Payload.High, Silent: job.Payload.Quietly, Badge: job.Unread, TTL: job.ExpiresAt.Sub(now).Truncate(time.Second), ExpiresAt: job.ExpiresAt,
	}
	if !msg.Silent && !job.Replaces {
		return msg
	}
	msg.Silent, msg.Title, msg.Body, msg.Category = true, "", "", ""
	msg.Data = maps.Clone(msg.Data)
	msg.Data["unread"] = strconv.Itoa(job.Unread)
	if job.Replaces {
		// No word of what it was: the place in the inbox, and what to take off the screen. No
		// badge either: that would make an alert of it, which asks Apple to show something.
		msg.Data["type"], msg.Data["link"], msg.Data["replaces"] = kindWithdrawn, linkList, msg.CollapseID
		msg.Badge = noBadge
	}
	return msg
}

// mayBeOnPhone reports whether a call with this result may have reached the phone. FCM has
// answered 5xx for pushes that it delivered.
func mayBeOnPhone(err error) bool {
	if err == nil {
		return true
	}
	switch verdictOf(err) {
	case Unavailable, Unknown, Cancelled:
		return true
	case Gone, Refused, Throttled, Denied, Held:
		return false
	}
	return true
}
