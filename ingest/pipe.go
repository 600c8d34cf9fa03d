package ingest

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// pipeWait is how long a look-up that missed waits for the queue, unless the caller
	// named a wait.
	pipeWait = 2 * time.Second
	// pipeWaiters bounds who waits at once: every one of them polls.
	pipeWaiters   = 32
	pipePollFirst = 5 * time.Millisecond
	pipePollLast  = 100 * time.Millisecond
)

// pipe tells whether everything that was on the commands topic at some moment has been
// applied. Until then that an id is unknown proves nothing: the command that makes it may
// still be in the queue.
type pipe struct {
	db      *database
	offsets Offsets
	topic   string
	slots   chan struct{}
}

func newPipe(db *database, offsets Offsets, topic string) *pipe {
	return &pipe{db: db, offsets: offsets, topic: topic, slots: make(chan struct{}, pipeWaiters)}
}

// drained returns when all that was queued at the call has been applied. When limit ends
// before, it is 503 behind.
func (p *pipe) drained(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return behind(fmt.Errorf("wait for a place: %w", ctx.Err()))
	}
	_, ends, err := p.offsets.Offsets(ctx, p.topic)
	if err != nil {
		return unavailable(fmt.Errorf("read end offsets of %s: %w", p.topic, err), "queue_unavailable",
			"The queue does not answer, so it cannot be told whether this exists; try again.")
	}
	for pause := pipePollFirst; ; pause = min(2*pause, pipePollLast) {
		lag, err := p.lagBehind(ctx, ends)
		switch {
		case err != nil && ctx.Err() != nil:
			return behind(err) // the limit ended in the middle of a look
		case err != nil:
			return err
		}
		if lag == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return behind(fmt.Errorf("%d commands are queued: %w", lag, ctx.Err()))
		case <-time.After(pause):
		}
	}
}

const selectNextOffsets = `SELECT partition, next_offset FROM processor_partitions`

// lagBehind returns how many records before ends are not applied yet. A partition without
// a row has never been claimed.
func (p *pipe) lagBehind(ctx context.Context, ends []int64) (int64, error) {
	next := make([]int64, len(ends))
	err := p.db.with(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, selectNextOffsets)
		if err != nil {
			return err
		}
		var partition int
		var offset int64
		_, err = pgx.ForEachRow(rows, []any{&partition, &offset}, func() error {
			if partition < len(next) {
				next[partition] = offset
			}
			return nil
		})
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("load next offsets: %w", err)
	}
	var lag int64
	for i, end := range ends {
		lag += max(0, end-next[i])
	}
	return lag, nil
}

func behind(cause error) error {
	return unavailable(cause, "behind", "Commands are still queued, so it cannot be told yet; try again.")
}
