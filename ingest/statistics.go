package ingest

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/bondmate/backend/ingest/api"
)

// Only what the lists of requests, partners and history show as well: partnerships whose
// own copy the user has deleted are left out. Days are full 24 hours from the start, which
// a restored partnership keeps; a request that is overdue counts as expired.
const selectStatistics = `
WITH p AS (
    SELECT x.status, x.restored_count, EXTRACT(EPOCH FROM COALESCE(x.ended_at, $2::timestamptz) - x.started_at)::bigint / 86400 AS days
    FROM partnership_members m JOIN partnerships x ON x.id = m.partnership_id
    WHERE m.user_id = $1 AND (m.deleted_at IS NULL OR x.ended_at IS NULL OR m.deleted_at < x.ended_at)
), r AS (
    SELECT x.sender = $1 AS sent, CASE WHEN x.status = 1 AND x.expires_at <= $2 THEN 5 ELSE x.status END AS status,
           EXTRACT(EPOCH FROM x.resolved_at - x.created_at)::float8 AS took
    FROM requests x WHERE x.sender = $1
    UNION ALL
    SELECT false, CASE WHEN x.status = 1 AND x.expires_at <= $2 THEN 5 ELSE x.status END,
           EXTRACT(EPOCH FROM x.resolved_at - x.created_at)::float8
    FROM requests x WHERE x.target = $1
)
SELECT (SELECT count(*) FROM p), (SELECT count(*) FROM p WHERE status = 1), (SELECT COALESCE(sum(restored_count), 0) FROM p),
       (SELECT COALESCE(max(days), 0) FROM p),
       count(*) FILTER (WHERE sent), count(*) FILTER (WHERE sent AND status = 2), count(*) FILTER (WHERE sent AND status = 3),
       count(*) FILTER (WHERE NOT sent), count(*) FILTER (WHERE NOT sent AND status = 2), count(*) FILTER (WHERE NOT sent AND status = 3),
       percentile_cont(0.5) WITHIN GROUP (ORDER BY took) FILTER (WHERE status = 2)
FROM r`

// GetStatistics implements GET …/statistics, as of one moment.
func (s *Server) GetStatistics(ctx context.Context, _ api.GetStatisticsRequestObject) (api.GetStatisticsResponseObject, error) {
	user, now := exchangeOf(ctx).caller.UserID, s.clock().UTC()
	var answer api.GetStatistics200JSONResponse
	err := s.db.snapshot(ctx, func(ctx context.Context, tx pgx.Tx) error {
		p, sent, received := &answer.Partnerships, &answer.Requests.Sent, &answer.Requests.Received
		err := tx.QueryRow(ctx, selectStatistics, user, now).Scan(
			&p.Total, &p.Active, &p.Restored, &p.LongestDays,
			&sent.Total, &sent.Accepted, &sent.Declined, &received.Total, &received.Accepted, &received.Declined,
			&answer.Requests.MedianSecondsToAccept)
		if err != nil {
			return err
		}
		current, err := listPartnerships(ctx, tx, user)
		answer.Current = make([]api.CurrentStatistics, len(current))
		for i, c := range current {
			answer.Current[i] = api.CurrentStatistics{
				PartnershipId: c.PartnershipId, StartedAt: c.StartedAt, Days: int(now.Sub(c.StartedAt) / (24 * time.Hour)),
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("statistics of %s: %w", user, err)
	}
	return answer, nil
}
