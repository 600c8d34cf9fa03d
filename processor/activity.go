package processor

import (
	"context"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/pkg/partner"
)

// activityRow is an entry of the activity log with where its command came from.
type activityRow struct {
	partner.Activity
	command uuid.UUID
	at      time.Time
	address string
	device  string
}

const writeActivitySQL = `
INSERT INTO activity_log (at, actor, target, action, severity, code, subject, command_id, address, device)
SELECT at, actor, NULLIF(target, '00000000-0000-0000-0000-000000000000'), action, severity, NULLIF(code, ''),
       NULLIF(subject, '00000000-0000-0000-0000-000000000000'), command_id, NULLIF(address, ''), NULLIF(device, '')
FROM unnest($1::timestamptz[], $2::uuid[], $3::uuid[], $4::text[], $5::smallint[], $6::text[], $7::uuid[],
            $8::uuid[], $9::text[], $10::text[])
    AS n (at, actor, target, action, severity, code, subject, command_id, address, device)`

func (c *changes) queueActivity(q *pgx.Batch) {
	n := len(c.activity)
	if n == 0 {
		return
	}
	at, actors, targets, subjects, commands := make([]time.Time, n), make([]uuid.UUID, n), make([]uuid.UUID, n), make([]uuid.UUID, n), make([]uuid.UUID, n)
	actions, severities, codes := make([]string, n), make([]int16, n), make([]string, n)
	addresses, devices := make([]string, n), make([]string, n)
	for i, a := range c.activity {
		at[i], actors[i], targets[i], subjects[i], commands[i] = a.at, a.Actor, a.Target, a.Subject, a.command
		actions[i], severities[i], codes[i] = a.Action, int16(a.Severity), string(a.Code)
		addresses[i], devices[i] = storable(a.address), storable(a.device)
	}
	q.Queue("write_activity", at, actors, targets, actions, severities, codes, subjects, commands, addresses, devices)
}

// logActivity says the committed entries to the log as well, where operators' tools look.
// Addresses stay in the table, which forgets them after 30 days.
func (p *Processor) logActivity(rows []activityRow) {
	for _, a := range rows {
		level := slog.LevelInfo
		if a.Severity >= partner.SeverityWarning {
			level = slog.LevelWarn
		}
		p.cfg.Log.LogAttrs(context.Background(), level, "activity",
			slog.String("action", a.Action), slog.String("actor", a.Actor.String()), slog.String("target", a.Target.String()),
			slog.String("code", string(a.Code)), slog.String("command", a.command.String()), slog.Time("at", a.at))
	}
}
