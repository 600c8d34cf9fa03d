package main

import (
	"bytes"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/bondmate/backend/cmd/bondmate/cachetest"
	"github.com/bondmate/backend/cmd/bondmate/phone"
	"github.com/bondmate/backend/pkg/redistest"
)

// beside starts an ingest of its own on the servers of a `bondmate all`.
func (w *town) beside(t *testing.T, environ ...string) *town {
	t.Helper()
	role := startRole(t, "ingest", nil, append([]string{
		"DATABASE_URL=" + address(t, w.dir, "postgres.dsn"), "KAFKA_BROKERS=" + address(t, w.dir, "kafka.addr"),
		"JWT_PRIVATE_KEY_FILE=" + filepath.Join(w.dir, "jwt.pem"), "DATA_DIR=" + t.TempDir(), "ADMIN_PORT=0", "ADMIN_HOST=127.0.0.1",
		"RATE_LIMITS=off",
	}, environ...))
	return &town{url: role.url, dir: w.dir, router: w.router}
}

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// as is the same person at another instance.
func (p *person) as(w *town) *person {
	other := *p
	other.in = w
	return &other
}

// conditional reads what is not what the tags name.
func (p *person) conditional(path, tags string) reply {
	p.t.Helper()
	return p.callWith(http.MethodGet, path, nil, http.Header{"If-None-Match": {tags}})
}

// What the cached reads show is what is so, on `bondmate all` and an instance beside it, with
// a Redis between them and without.
func TestCachedReadsAreTrue(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"redis", "memory"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			settings := []string{"RATE_LIMITS=off"}
			if name == "redis" {
				settings = append(settings, "REDIS_URL="+redistest.Start(t).URL())
			}
			all := newTown(t, settings...)
			other, truth := all.beside(t, settings...), all.beside(t, "CACHE=off")
			compared := cachetest.Run(t, cachetest.Deployment{
				Cached: []*phone.Server{phone.NewServer(all.url), phone.NewServer(other.url)},
				Truth:  phone.NewServer(truth.url), Sockets: phone.NewServer(all.url),
				SetTier: func(user uuid.UUID, tier string) error {
					var out bytes.Buffer
					err := run(t.Context(), []string{"users", "tier", user.String(), tier}, terminal{
						environ: []string{"DATABASE_URL=" + address(t, all.dir, "postgres.dsn"), "LOG_LEVEL=warn"}, stdout: &out, stderr: &out,
					})
					if err != nil {
						return fmt.Errorf("%w: %s", err, &out)
					}
					return nil
				},
			})
			_, metrics := get(t, "http://"+address(t, all.dir, "admin.addr")+"/metrics")
			hits := strings.Count(metrics, `outcome="hit"`)
			t.Logf("%d reads compared, %d series of hits", compared, hits)
			if compared == 0 || hits == 0 {
				t.Errorf("%d reads were compared, %d kinds of hits counted: nothing was shown", compared, hits)
			}
		})
	}
}

// An answer says how it may be kept, 304 when that is what there is, and another one after a
// change; whoever the tag was not made for gets nothing for it.
func TestCachedReadsHaveValidators(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	ada, ben := w.couple(t, "Ada", "Ben")
	for _, path := range cachetest.Paths() {
		first := ada.get(path).want(200)
		tag := first.header.Get("ETag")
		if !strings.HasPrefix(tag, `W/"`) || first.header.Get("Cache-Control") != "private, no-cache" {
			t.Errorf("%s: ETag %q, Cache-Control %q", path, tag, first.header.Get("Cache-Control"))
		}
		again := ada.conditional(path, `"other", `+tag)
		if again.status != http.StatusNotModified || len(again.raw) != 0 || again.header.Get("ETag") != tag {
			t.Errorf("%s with its tag: %d %s, ETag %q", path, again.status, again.raw, again.header.Get("ETag"))
		}
		if got := ben.conditional(path, tag); got.status != http.StatusOK || got.header.Get("ETag") == tag {
			t.Errorf("%s of somebody else with the tag: %d, ETag %q", path, got.status, got.header.Get("ETag"))
		}
	}
	tag := ada.get(partners + "/current").want(200).header.Get("ETag")
	ben.call("PATCH", "/api/profile", map[string]any{"displayName": "Benno"}).want(200)
	if got := ada.conditional(partners+"/current", tag); got.status != http.StatusOK || !strings.Contains(string(got.raw), "Benno") {
		t.Errorf("after the partner's change: %d %s", got.status, got.raw)
	}
	off := w.beside(t, "CACHE=off")
	if got := ada.as(off).conditional("/api/profile", tag); got.status != http.StatusOK || got.header.Get("ETag") != "" || got.header.Get("Cache-Control") != "no-store" {
		t.Errorf("without the cache: %d, ETag %q, Cache-Control %q", got.status, got.header.Get("ETag"), got.header.Get("Cache-Control"))
	}
}

// Who parts or leaves is soon in no cache any more: not in Redis, in whatever form.
func TestCacheForgetsWhoLeaves(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	w := newTown(t, "REDIS_URL="+server.URL())
	ada, ben := w.couple(t, "Ada", "Ben")
	client := server.Client(t)
	kept := func(p *person) []string {
		keys, err := client.Keys(t.Context(), "bondmate:cache:*"+p.id.String()+"*").Result()
		if err != nil {
			t.Fatal(err)
		}
		return keys
	}
	read := func(p *person) {
		for _, path := range cachetest.Paths() {
			p.get(path).want(200)
		}
	}
	// The couple's first events may still be on their way: they are of other types.
	for _, p := range []*person{ada, ben} {
		read(p)
		until(t, p.name+"'s reads are in Redis", func() bool { return len(kept(p)) == len(cachetest.Paths()) })
	}
	for _, key := range kept(ada) {
		value, err := client.Get(t.Context(), key).Result()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(value, "Ada") || strings.Contains(value, "Ben") || strings.Contains(value, ada.code) {
			t.Errorf("%s can be read: %q", key, value)
		}
		if ttl := client.PTTL(t.Context(), key).Val(); ttl <= 0 || ttl.Minutes() > 10 {
			t.Errorf("%s is kept for %s", key, ttl)
		}
	}
	ben.call("DELETE", "/api/account", map[string]any{"password": secret}).want(200)
	until(t, "nothing of either is in Redis", func() bool { return len(kept(ada))+len(kept(ben)) == 0 })
	if got := ada.get(partners + "/current").want(200); strings.Contains(string(got.raw), "Ben") {
		t.Errorf("Ada still sees %s", got.raw)
	}
}

// A Redis that is killed, hangs, or holds nonsense costs no read.
func TestReadsGoOnWithoutRedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	w := newTown(t, "REDIS_URL="+server.URL())
	ada, ben := w.couple(t, "Ada", "Ben")
	turn := 0
	check := func(what string) {
		t.Helper()
		for range 12 { // more than it takes to open the breaker
			turn++
			name := fmt.Sprintf("Benno %d", turn)
			ben.call("PATCH", "/api/profile", map[string]any{"displayName": name}).want(200)
			for _, path := range cachetest.Paths()[1:] {
				if got := ada.get(path).want(200); !strings.Contains(string(got.raw), name) {
					t.Errorf("%s: %s does not show %s: %s", what, path, name, got.raw)
				}
			}
		}
	}
	check("with Redis")
	client := server.Client(t)
	keys := client.Keys(t.Context(), "bondmate:cache:*").Val()
	if len(keys) == 0 {
		t.Fatal("nothing is in Redis")
	}
	for i, key := range keys {
		if i%2 == 0 {
			noError(t, client.Set(t.Context(), key, "99999999 nonsense", 0).Err())
			continue
		}
		noError(t, client.Del(t.Context(), key).Err())
		noError(t, client.LPush(t.Context(), key, "of another type").Err())
	}
	check("with nonsense in Redis")
	noError(t, server.Pause())
	check("with a Redis that hangs")
	noError(t, server.Resume())
	server.Kill()
	check("with Redis killed")
	noError(t, server.Start(t.Context()))
	until(t, "it is used again", func() bool {
		turn++
		ben.call("PATCH", "/api/profile", map[string]any{"displayName": fmt.Sprintf("Benno %d", turn)}).want(200)
		ada.get(partners + "/current").want(200)
		return len(client.Keys(t.Context(), "bondmate:cache:*").Val()) > 0
	})
}
