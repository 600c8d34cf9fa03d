package ingest

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/ingest/cursor"
	"github.com/bondmate/backend/pkg/partner"
)

// store reads what the processor wrote. Everything comes from the primary: a client that
// has seen an event must find its effect.
type store struct {
	db *database
}

// querier is a connection or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// query runs one statement on a pooled connection and collects its rows.
func query[T any](ctx context.Context, db *database, scan pgx.RowToFunc[T], sql string, args ...any) ([]T, error) {
	var out []T
	err := db.with(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		var err error
		out, err = collect(ctx, conn, scan, sql, args...)
		return err
	})
	return out, err
}

func collect[T any](ctx context.Context, q querier, scan pgx.RowToFunc[T], sql string, args ...any) ([]T, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scan)
}

// utc is for times as they leave: pgx reads them in the machine's zone.
func utc(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	u := t.UTC()
	return &u
}

func scanPair(row pgx.CollectableRow) (partner.Pair, error) {
	var a, b uuid.UUID
	err := row.Scan(&a, &b)
	return partner.PairOf(a, b), err
}

const selectRequestPair = `SELECT sender, target FROM requests WHERE id = $1`

// requestPair returns the two parties of a request, and whether there is one.
func (s *store) requestPair(ctx context.Context, id uuid.UUID) (partner.Pair, bool, error) {
	pairs, err := query(ctx, s.db, scanPair, selectRequestPair, id)
	if err != nil {
		return partner.Pair{}, false, fmt.Errorf("load parties of request %s: %w", id, err)
	}
	if len(pairs) == 0 {
		return partner.Pair{}, false, nil
	}
	return pairs[0], true, nil
}

const selectBreakupPair = `SELECT low, high FROM breakups WHERE id = $1`

// breakupPair returns the two whom a breakup concerns, and whether there is one.
func (s *store) breakupPair(ctx context.Context, id uuid.UUID) (partner.Pair, bool, error) {
	pairs, err := query(ctx, s.db, scanPair, selectBreakupPair, id)
	if err != nil {
		return partner.Pair{}, false, fmt.Errorf("load parties of breakup %s: %w", id, err)
	}
	if len(pairs) == 0 {
		return partner.Pair{}, false, nil
	}
	return pairs[0], true, nil
}

const selectPartnershipPair = `SELECT low, high FROM partnerships WHERE id = $1 AND (low = $2 OR high = $2)`

// partnershipPair returns the two of a partnership, in whatever state, of which member is
// one; empty when there is none.
func (s *store) partnershipPair(ctx context.Context, id, member uuid.UUID) ([]partner.Pair, error) {
	pairs, err := query(ctx, s.db, scanPair, selectPartnershipPair, id, member)
	if err != nil {
		return nil, fmt.Errorf("load members of partnership %s: %w", id, err)
	}
	return pairs, nil
}

const selectActivePairs = `
SELECT p.low, p.high
FROM partnership_members m JOIN partnerships p ON p.id = m.partnership_id
WHERE m.user_id = $1 AND m.active
LIMIT 2`

// activePairs returns the pairs of a user's active partnerships, two at most: more than
// one is all that the caller asks.
func (s *store) activePairs(ctx context.Context, user uuid.UUID) ([]partner.Pair, error) {
	pairs, err := query(ctx, s.db, scanPair, selectActivePairs, user)
	if err != nil {
		return nil, fmt.Errorf("load partners of %s: %w", user, err)
	}
	return pairs, nil
}

const defaultPage = 50

// page says which part of a list is wanted: rows after a place, the newest first. The
// place is a time with an id to tell equals apart.
type page struct {
	at    time.Time // exclusive together with id
	id    uuid.UUID
	limit int
}

var endOfTime = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

// pageOf reads the parameters of a list. The first page starts after the end of time.
func pageOf(text *string, limit *int) (page, error) {
	p := page{at: endOfTime, limit: defaultPage}
	if limit != nil {
		p.limit = *limit
	}
	if text == nil || *text == "" {
		return p, nil
	}
	var ok bool
	if p.at, p.id, ok = cursor.Decode(*text); !ok {
		return page{}, invalid("cursor", "wrong_format", "The cursor is not one of this list.")
	}
	return p, nil
}

// next returns the cursor that follows a full page of n rows, fetched with one row more
// than wanted; nil on the last page.
func (p page) next(n int, last func() (time.Time, uuid.UUID)) *string {
	if n <= p.limit {
		return nil
	}
	at, id := last()
	text := cursor.Encode(at, id)
	return &text
}

// listing is a list of the caller's own rows. read returns the rows of a page and one more
// when there is a next page; place is a row's place in the order.
type listing[T any] struct {
	read  func(ctx context.Context, q querier, user uuid.UUID, p page) ([]T, error)
	place func(T) (time.Time, uuid.UUID)
}

// page reads the page that the parameters ask for, and the cursor of the one behind it.
func (l listing[T]) page(ctx context.Context, db *database, text *string, limit *int) ([]T, *string, error) {
	p, err := pageOf(text, limit)
	if err != nil {
		return nil, nil, err
	}
	var rows []T
	err = db.with(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		rows, err = l.read(ctx, conn, exchangeOf(ctx).caller.UserID, p)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	next := p.next(len(rows), func() (time.Time, uuid.UUID) { return l.place(rows[p.limit-1]) })
	return rows[:min(len(rows), p.limit)], next, nil
}
