package processor

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/bondmate/backend/pkg/contract"
	"github.com/bondmate/backend/pkg/partner"
)

// The couples and users topics hold one record a key: what there is now. A couple's
// follows from the event that changed it (see row.records). All others are written when a
// timer of the key says so, from what the tables hold by then: users, whose rows ingest
// changes as well; the erased; and what has to be written again (see again).

// userState is what is told of a user: the data of a row that goes to the users topic. A
// row whose data is null is a tombstone.
type userState struct {
	CreatedDay string `json:"createdDay"`
	Tier       string `json:"tier"`
	Locale     string `json:"locale"`
	Timezone   string `json:"timezone"`
	Status     string `json:"status"`

	erased bool
}

// coupleState is what is told of a pair, in the data of a row that goes to the couples
// topic and, among other things, in that of an event of a partnership.
type coupleState struct {
	PartnershipID uuid.UUID  `json:"partnershipId"`
	Status        string     `json:"status,omitempty"` // of an event its type says it
	StartedAt     *time.Time `json:"startedAt"`
	EndedAt       *time.Time `json:"endedAt,omitempty"`
	RestoredCount *int       `json:"restoredCount"`
	Silent        bool       `json:"silent,omitempty"` // of an event: told to both apart

	erased bool
}

// tiers are the names of users.tier.
var tiers = map[int16]string{1: "free", 2: "premium"} //nolint:gochecknoglobals // a table

// Who is erased is known by the partner code that erasure leaves.
const loadUserStatesSQL = `
SELECT u.id, u.status, u.tier, u.locale, u.timezone, u.created_at, u.partner_code LIKE 'erased-%'
FROM unnest($1::uuid[]) AS k (id)
CROSS JOIN LATERAL (
    SELECT x.id, x.status, x.tier, x.locale, x.timezone, x.created_at, x.partner_code
    FROM users x WHERE x.id = k.id LIMIT 1) AS u`

// The latest partnership of each pair: versions rise over all of a pair's. By the members,
// for only what is not archived is indexed by pair.
const loadCoupleStatesSQL = `
SELECT k.low, k.high, p.id, p.status, p.started_at, p.ended_at, p.restored_count, l.erased OR h.erased
FROM unnest($1::uuid[], $2::uuid[]) AS k (low, high)
CROSS JOIN LATERAL (
    SELECT x.id, x.status, x.started_at, x.ended_at, x.restored_count
    FROM partnership_members m
    CROSS JOIN LATERAL (
        SELECT y.id, y.high, y.status, y.started_at, y.ended_at, y.restored_count, y.version
        FROM partnerships y WHERE y.id = m.partnership_id LIMIT 1) AS x
    WHERE m.user_id = k.low AND x.high = k.high
    ORDER BY x.version DESC LIMIT 1) AS p
CROSS JOIN LATERAL (SELECT u.partner_code LIKE 'erased-%' AS erased FROM users u WHERE u.id = k.low LIMIT 1) AS l
CROSS JOIN LATERAL (SELECT u.partner_code LIKE 'erased-%' AS erased FROM users u WHERE u.id = k.high LIMIT 1) AS h`

// Every pair that ever was a couple of a user who is being erased.
const loadCouplesOfSQL = `
SELECT DISTINCT p.low, p.high
FROM unnest($1::uuid[]) AS k (id)
CROSS JOIN LATERAL (
    SELECT x.low, x.high
    FROM partnership_members m
    CROSS JOIN LATERAL (SELECT y.low, y.high FROM partnerships y WHERE y.id = m.partnership_id LIMIT 1) AS x
    WHERE m.user_id = k.id) AS p`

func (w *world) scanUserStates(rows pgx.Rows) error {
	var (
		id           uuid.UUID
		status, tier int16
		created      time.Time
		u            userState
	)
	_, err := pgx.ForEachRow(rows, []any{raw(&id), &status, &tier, &u.Locale, &u.Timezone, &created, &u.erased}, func() error {
		u.CreatedDay, u.Status = created.UTC().Format(time.DateOnly), partner.UserStatus(status).String()
		if u.Tier = tiers[tier]; u.Tier == "" {
			return fmt.Errorf("user %s has tier %d", id, tier)
		}
		w.userStates[id] = u
		return nil
	})
	return err
}

func (w *world) scanCoupleStates(rows pgx.Rows) error {
	var (
		pair     partner.Pair
		status   int16
		started  time.Time
		ended    pgtype.Timestamptz
		restored int
		c        coupleState
	)
	dest := []any{raw(&pair.Low), raw(&pair.High), raw(&c.PartnershipID), &status, &started, &ended, &restored, &c.erased}
	_, err := pgx.ForEachRow(rows, dest, func() error {
		state, from, count := c, started.UTC(), restored
		state.Status, state.StartedAt, state.EndedAt, state.RestoredCount = partner.PartnershipStatus(status).String(), &from, nullable(instant(ended)), &count
		w.coupleStates[pair] = state
		return nil
	})
	return err
}

func (w *world) scanCouplesOf(rows pgx.Rows) error {
	var pair partner.Pair
	_, err := pgx.ForEachRow(rows, []any{raw(&pair.Low), raw(&pair.High)}, func() error {
		w.couplesOf = append(w.couplesOf, pair)
		return nil
	})
	return err
}

// publish gives the record of a timer's key its place in the partition's sequence. The
// timer's row goes, unless somebody has set it again since it was read.
func (w *world) publish(b *batch, it *item) error {
	var (
		topic int16
		state any
		known bool
	)
	switch it.timer.Kind {
	case partner.TimerUser, partner.TimerUserAgain:
		var u userState
		if u, known = w.userStates[it.timer.Pair.Low]; !u.erased {
			state = u
		}
		topic = toUsers
	case partner.TimerCouple, partner.TimerCoupleAgain:
		var c coupleState
		if c, known = w.coupleStates[it.timer.Pair]; !c.erased {
			state = c
		}
		topic = toCouples
	case partner.TimerRequest, partner.TimerArchive, partner.TimerBreakup, partner.TimerAllowance:
		return fmt.Errorf("timer of kind %d publishes nothing", it.timer.Kind)
	}
	w.changes.publications = append(w.changes.publications, it.timer.Timer)
	outcome := "nothing_due"
	if known {
		outcome = "published"
		data, err := json.Marshal(state)
		if err != nil {
			return fmt.Errorf("encode state of %s: %w", it.timer.Pair, err)
		}
		w.append(b, it, &row{
			topic: topic, id: partner.EventID(it.cmd.ID, 0), kind: int16(it.timer.Kind), commandID: it.cmd.ID, pair: it.timer.Pair,
			acceptedAt: it.cmd.AcceptedAt, data: string(data),
		})
	}
	w.changes.tallies = append(w.changes.tallies, tally{kind: tallyTimer, outcome: outcome})
	return nil
}

// announce sets the timers of the records that a decision makes due.
func (w *world) announce(b *batch, it *item, d partner.Decision) {
	due := func(kind partner.TimerKind, pair partner.Pair, partition int) {
		w.changes.announced[timerKey{pair, kind}] = timerRow{
			Timer:     partner.Timer{Kind: kind, Pair: pair, Ref: uuid.NewSHA1(it.cmd.ID, []byte(pair.String())), Due: b.now},
			partition: partition,
		}
	}
	user := func(id uuid.UUID) {
		pair := partner.PairOf(id, id)
		due(partner.TimerUser, pair, contract.PartitionOf([]byte(pair.String()), b.partitions))
	}
	for _, p := range d.Profiles {
		if p.Patch.Locale != nil || p.Patch.Timezone != nil {
			user(p.UserID)
		}
	}
	for _, a := range d.Accounts {
		user(a.UserID)
		if !a.Erase || a.More {
			continue
		}
		// The partitions of these pairs may be others': each pair's owner writes its record,
		// after all that it wrote of the pair before.
		for _, pair := range w.couplesOf {
			due(partner.TimerCouple, pair, contract.PartitionOf([]byte(pair.String()), b.partitions))
		}
	}
}

// What was set again meanwhile, by whoever changed the user's row, has another ref: the
// condition is looked at again when the row was locked, and it stays.
const deletePublishedSQL = `
DELETE FROM timers t WHERE t.ref = ANY ($4::uuid[]) AND t.ctid = ANY (ARRAY(
    SELECT s.ctid FROM unnest($1::uuid[], $2::uuid[], $3::smallint[]) AS k (low, high, kind)
    CROSS JOIN LATERAL (
        SELECT x.ctid FROM timers x WHERE x.low = k.low AND x.high = k.high AND x.kind = k.kind LIMIT 1) AS s))`

// queuePublications comes after all else that the transaction writes: ingest locks a
// user's row before the user's timer, and so does this.
func (c *changes) queuePublications(q *pgx.Batch) {
	if n := len(c.publications); n > 0 {
		lows, highs, kinds, refs := make([]uuid.UUID, n), make([]uuid.UUID, n), make([]int16, n), make([]uuid.UUID, n)
		for i, t := range c.publications {
			lows[i], highs[i], kinds[i], refs[i] = t.Pair.Low, t.Pair.High, int16(t.Kind), t.Ref
		}
		q.Queue("delete_published", lows, highs, kinds, refs)
	}
	rows := make([]timerRow, 0, len(c.announced))
	for _, t := range c.announced {
		rows = append(rows, t)
	}
	queueTimerRows(q, rows)
}
