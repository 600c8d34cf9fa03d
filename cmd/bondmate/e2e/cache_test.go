package e2e

import (
	"fmt"
	"os/exec"
	"testing"

	"github.com/google/uuid"

	"github.com/bondmate/backend/cmd/bondmate/cachetest"
	"github.com/bondmate/backend/cmd/bondmate/phone"
	"github.com/bondmate/backend/pkg/bus/kafkatest"
	"github.com/bondmate/backend/pkg/redistest"
)

// What the cached reads show is what is so, with each role a process, two ingests with one
// Redis, on Apache Kafka.
func TestCachedReadsAreTrue(t *testing.T) {
	t.Parallel()
	c := newCluster(t, kafkatest.Apache(t), "")
	redis := "REDIS_URL=" + redistest.Start(t).URL()
	one, other, truth := c.role("ingest", redis), c.role("ingest", redis), c.role("ingest", "CACHE=off")
	c.role("processor")
	sockets := c.role("realtime")
	compared := cachetest.Run(t, cachetest.Deployment{
		Cached: []*phone.Server{one.server(), other.server()}, Truth: truth.server(), Sockets: sockets.server(),
		SetTier: func(user uuid.UUID, tier string) error {
			cmd := exec.Command(program, "users", "tier", user.String(), tier)
			cmd.Env = append(cmd.Environ(), c.settings...)
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		},
	})
	hits := func(backend string) float64 {
		return one.metric("bondmate_cache_requests_total", `outcome="hit"`, backend) + other.metric("bondmate_cache_requests_total", `outcome="hit"`, backend)
	}
	t.Logf("%d reads compared; %v hits in memory, %v in Redis", compared, hits("memory"), hits("redis"))
	if compared == 0 || hits("memory") == 0 || hits("redis") == 0 {
		t.Error("a cache had nothing to show")
	}
	verify(t, c.pool)
}
