package processor

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/bondmate/backend/pkg/postgres"
)

// settings of each connection. Planning anew would be over half of a one-command
// transaction, so plans are generic; and since they are made while tables may be empty,
// nothing that is right only for small tables may be in them: every statement is written
// so that nested loops over indexes are its plan, whatever the statistics say.
func (c Config) settings() [][2]string {
	ms := func(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
	return [][2]string{
		{"plan_cache_mode", "force_generic_plan"},
		{"enable_seqscan", "off"},
		{"enable_hashjoin", "off"},
		{"enable_mergejoin", "off"},
		{"jit", "off"},
		// The server gives up before the context does: a context that ends costs the connection.
		{"statement_timeout", ms(c.StatementTimeout)},
		{"lock_timeout", ms(c.LockTimeout)},
		{"idle_in_transaction_session_timeout", ms(c.IdleInTxTimeout)},
	}
}

const beginSQL = `begin isolation level read committed`

const commitSQL = `commit`

// Names of prepared statements, and their texts. Prepared at claim, not at first use: the
// first command after a rebalance has waited long enough.
var statements = [...]struct{ name, sql string }{
	{"begin", beginSQL},
	{"commit", commitSQL},
	{"fence", fenceSQL},
	{"lock_streams", lockStreamsSQL},
	{"load_users", loadUsersSQL},
	{"load_requests", loadRequestsSQL},
	{"load_partnerships", loadPartnershipsSQL},
	{"load_commands", loadCommandsSQL},
	{"load_parked", loadParkedSQL},
	{"load_pending", loadPendingSQL},
	{"load_sides", loadSidesSQL},
	{"load_breakups", loadBreakupsSQL},
	{"load_counterparts", loadCounterpartsSQL},
	{"due_timers", dueTimersSQL},
	{"due_actions", dueActionsSQL},
	{"write_sides", writeSidesSQL},
	{"delete_sides", deleteSidesSQL},
	{"write_nicknames", writeNicknamesSQL},
	{"delete_nicknames", deleteNicknamesSQL},
	{"write_breakups", writeBreakupsSQL},
	{"write_profiles", writeProfilesSQL},
	{"write_reads", writeReadsSQL},
	{"write_timers", writeTimersSQL},
	{"delete_timers", deleteTimersSQL},
	{"delete_published", deletePublishedSQL},
	{"load_user_states", loadUserStatesSQL},
	{"load_couple_states", loadCoupleStatesSQL},
	{"write_cuts", writeCutsSQL},
	{"withdraw_pushes", withdrawPushesSQL},
	{"write_activity", writeActivitySQL},
	{"write_requests", writeRequestsSQL},
	{"write_partnerships", writePartnershipsSQL},
	{"write_members", writeMembersSQL},
	{"write_commands", writeCommandsSQL},
	{"write_events", writeEventsSQL},
	{"write_inbox", writeInboxSQL},
	{"write_streams", writeStreamsSQL},
	{"write_partitions", writePartitionsSQL},
}

// connect opens a connection with the session's settings and the statements prepared.
func (p *Processor) connect(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.TxDeadline)
	defer cancel()
	conn, err := p.dial(ctx)
	if err != nil {
		return nil, err
	}
	if err := prepare(ctx, conn); err != nil {
		closeConn(conn)
		return nil, err
	}
	return conn, nil
}

const setSQL = `
SELECT set_config(s.name, s.value, false)
FROM unnest($1::text[], $2::text[]) AS s (name, value)`

// dial opens a connection with the session's settings. Whoever works for a generation
// uses no other: without the server's time-outs a wait would end with its context and
// cost the connection, or not end at all.
func (p *Processor) dial(ctx context.Context) (*pgx.Conn, error) {
	conn, err := p.cfg.Connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to postgres: %w", err)
	}
	var names, values []string
	for _, s := range p.cfg.settings() {
		names, values = append(names, s[0]), append(values, s[1])
	}
	if _, err := conn.Exec(ctx, setSQL, names, values); err != nil {
		closeConn(conn)
		return nil, fmt.Errorf("set up the session: %w", err)
	}
	return conn, nil
}

func (p *Processor) connectRetrying(ctx context.Context) (*pgx.Conn, error) {
	for attempt := 0; ; attempt++ {
		conn, err := p.connect(ctx)
		if err == nil {
			return conn, nil
		}
		p.metrics.retries.WithLabelValues("connect").Inc()
		if !backoff(ctx, attempt, 20*time.Millisecond, time.Second) {
			return nil, err
		}
	}
}

func prepare(ctx context.Context, conn *pgx.Conn) error {
	postgres.RegisterIDArrays(conn.TypeMap())
	for _, s := range statements {
		if _, err := conn.Prepare(ctx, s.name, s.sql); err != nil {
			return fmt.Errorf("prepare %s: %w", s.name, err)
		}
	}
	return nil
}

// closeConn says good-bye for a second at most: the server ends the session either way.
func closeConn(conn *pgx.Conn) {
	if conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

// verdict says what an error of a transaction means for the commands in it.
type verdict uint8

const (
	// tryAgain: nothing was written, and the cause passes: locks, resources, a time-out.
	tryAgain verdict = iota
	// unknownOutcome: the connection is gone, perhaps after COMMIT was done.
	unknownOutcome
	// deterministic: the data of some command does not fit, however often it is tried.
	deterministic
)

// idleStatus is what Postgres reports outside of a transaction.
const idleStatus = 'I'

// judge sorts errors by SQLSTATE class. What is not surely the fault of a command's own
// data is tried again: parking is for poison, and a server that is full, read-only or
// being migrated poisons nothing.
func judge(conn *pgx.Conn, err error) verdict {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok && !conn.IsClosed() && conn.PgConn().TxStatus() != idleStatus {
		// The transaction is still open, so the fault is on this side: no time left to begin
		// the next step, or a value that we cannot read or encode.
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			return tryAgain
		}
		return deterministic
	}
	if !ok || conn.IsClosed() || pg.Severity == "FATAL" || pg.Severity == "PANIC" {
		return unknownOutcome
	}
	switch pg.Code[:2] {
	case "22", // data exception
		"23", // integrity constraint violation
		"54", // program limit exceeded
		"P0": // raised by a trigger
		return deterministic
	}
	return tryAgain
}

// reason names an error for the retries counter: an SQLSTATE, or where it came from.
func reason(err error) string {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code
	}
	return "connection"
}
