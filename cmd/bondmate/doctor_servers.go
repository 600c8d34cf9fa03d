package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/migrations"
	"github.com/bondmate/backend/pkg/config"
	"github.com/bondmate/backend/pkg/postgres"
)

const (
	leastPostgres = 150000 // server_version_num of 15.0
	// poolShare is how much of the server's connections all pools together may take.
	poolShare = 0.7
)

const selectServer = `SELECT current_setting('server_version_num')::int, current_setting('max_connections')::int, clock_timestamp()`

// postgres looks at the database: reached, new enough, migrated, by a user that cannot
// rewrite the activity log, with room for the pool and the same time.
func (d doctor) postgres(ctx context.Context) []config.Finding {
	const name, variable = "database", "DATABASE_URL"
	if d.cfg.DatabaseURL == "" {
		return []config.Finding{fine(name, variable, "none is named: all starts its own")}
	}
	ctx, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	conn, err := connect(d.cfg.DatabaseURL, "doctor")(ctx)
	if err != nil {
		return []config.Finding{bad(name, variable, err, "start it, or correct the address, the user or the password")}
	}
	defer func() { _ = conn.Close(ctx) }()
	var version, most int
	var theirs time.Time
	before := d.now()
	if err := conn.QueryRow(ctx, selectServer).Scan(&version, &most, &theirs); err != nil {
		return []config.Finding{bad(name, variable, err, "-")}
	}
	after := d.now()
	found := []config.Finding{fine(name, variable, fmt.Sprintf("answers, version %d", version/10000))}
	if version < leastPostgres {
		found[0] = config.Finding{Name: name, Level: config.Fail, Variable: variable, Why: fmt.Sprintf("version %d is too old", version/10000), Mend: "PostgreSQL 15 or newer"}
	}
	return append(found, d.schema(ctx, conn), d.appRole(ctx), d.pool(most), d.clockSkew(before, theirs, after))
}

func (d doctor) schema(ctx context.Context, conn *pgx.Conn) config.Finding {
	const name, variable = "schema", "DATABASE_URL"
	have, want, err := postgres.Schema(ctx, conn, migrations.FS)
	switch {
	case err != nil:
		return bad(name, variable, err, "-")
	case have < want:
		return config.Finding{Name: name, Level: config.Fail, Variable: variable, Why: fmt.Sprintf("is at migration %d, this program needs %d", have, want), Mend: "bondmate migrate"}
	case have > want:
		return config.Finding{Name: name, Level: config.Warn, Variable: variable, Why: fmt.Sprintf("is at migration %d, newer than this program (%d)", have, want), Mend: "finish the upgrade"}
	default:
		return fine(name, variable, fmt.Sprintf("is at migration %d", have))
	}
}

func (d doctor) appRole(ctx context.Context) config.Finding {
	const name, variable = "activity log", "DATABASE_URL"
	ok, why, err := postgres.Assumable(ctx, postgres.Config{URL: d.cfg.DatabaseURL, AppName: "bondmate doctor"}, postgres.AppRole)
	switch {
	case err != nil:
		return bad(name, variable, err, "-")
	case !ok:
		return config.Finding{Name: name, Level: config.Warn, Variable: variable, Why: "is not append-only: " + why, Mend: "GRANT " + postgres.AppRole + " to the database's user, then bondmate migrate"}
	default:
		return fine(name, variable, "is append-only: "+postgres.AppRole+" is assumed")
	}
}

func (d doctor) pool(most int) config.Finding {
	const name, variable = "database connections", "DATABASE_MAX_CONNS"
	if float64(d.cfg.DatabaseMaxConns) > poolShare*float64(most) {
		return config.Finding{
			Name: name, Level: config.Warn, Variable: variable, Why: fmt.Sprintf("%d of the server's %d are too many for one process", d.cfg.DatabaseMaxConns, most),
			Mend: "all pools together under 70% of max_connections",
		}
	}
	return fine(name, variable, fmt.Sprintf("%d of the server's %d", d.cfg.DatabaseMaxConns, most))
}

// clockSkew compares the server's time with the span in which it was asked.
func (d doctor) clockSkew(before, theirs, after time.Time) config.Finding {
	const name, variable = "clocks", "CLOCK_SKEW"
	skew := max(before.Sub(theirs), theirs.Sub(after), 0)
	if skew > d.cfg.ClockSkew {
		return config.Finding{
			Name: name, Level: config.Fail, Variable: variable, Why: fmt.Sprintf("this machine and the database are %s apart", skew.Round(time.Millisecond)),
			Mend: "set both by NTP",
		}
	}
	return fine(name, variable, "this machine and the database agree")
}

// kafka looks at the brokers and the topics.
func (d doctor) kafka(ctx context.Context) []config.Finding {
	const name, variable = "Kafka", "KAFKA_BROKERS"
	if len(d.cfg.KafkaBrokers) == 0 {
		return []config.Finding{fine(name, variable, "none is named: all runs its own")}
	}
	ctx, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	client := newBus(d.cfg, d.cfg.KafkaBrokers, slog.New(slog.DiscardHandler))
	defer client.Close()
	if err := client.Ping(ctx); err != nil {
		return []config.Finding{bad(name, variable, kafkaFault(err), "start it, or correct the addresses or the login")}
	}
	found := []config.Finding{fine(name, variable, "answers")}
	differences, err := client.PlanTopics(ctx, topicSpecs(d.cfg))
	switch {
	case err != nil:
		found = append(found, bad("topics", variable, err, "bondmate topics plan"))
	case len(differences) > 0:
		found = append(found, config.Finding{
			Name: "topics", Level: config.Fail, Variable: variable,
			Why: fmt.Sprintf("%d differences, the first: %s", len(differences), differences[0]), Mend: "bondmate topics plan, then apply",
		})
	default:
		found = append(found, fine("topics", variable, "are as they should be"))
	}
	return found
}

func (d doctor) redis(ctx context.Context) config.Finding {
	const name, variable = "Redis", "REDIS_URL"
	p := &process{cfg: d.cfg, log: slog.New(slog.DiscardHandler)}
	defer p.close()
	client, err := p.openRedis()
	switch {
	case err != nil:
		return bad(name, variable, err, "correct it")
	case client == nil:
		return fine(name, variable, "none is named: each instance counts for itself")
	}
	ctx, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	if err := client.Ping(ctx).Err(); err != nil {
		return bad(name, variable, err, "start it, or correct the address or the password; nothing stops without it")
	}
	return fine(name, variable, "answers")
}
