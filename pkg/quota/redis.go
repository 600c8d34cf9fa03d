package quota

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// takeScript is memory.take on Redis, for all of a call's rules at once. A key holds one
// rule's groups, oldest first, as a flat list of the first call's time, the last one's and
// their number, in microseconds by Redis' own clock. Should that go back (another server took
// over), what it counted in the future counts as of now: later, never earlier. A key outlives its window by a second, since it expires by the
// millisecond.
//
// KEYS: a key for each rule. ARGV: limit, window and the width of a group for each.
// It answers 1 or 0, and for each rule how many are counted and how long until there is
// room, or more of it.
var takeScript = redis.NewScript(`
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local logs, used, admitted = {}, {}, 1
for i, key in ipairs(KEYS) do
  local limit, window = tonumber(ARGV[3*i-2]), tonumber(ARGV[3*i-1])
  local raw = redis.call('GET', key)
  local old, log, n = raw and cmsgpack.unpack(raw) or {}, {}, 0
  for j = 1, #old, 3 do
    local first, last = math.min(old[j], now), math.min(old[j+1], now)
    if last + window > now then
      log[#log+1], log[#log+2], log[#log+3] = first, last, old[j+2]
      n = n + old[j+2]
    end
  end
  if n >= limit then admitted = 0 end
  logs[i], used[i] = log, n
end
local answer = {admitted}
for i, key in ipairs(KEYS) do
  local limit, window, width = tonumber(ARGV[3*i-2]), tonumber(ARGV[3*i-1]), tonumber(ARGV[3*i])
  local log, wait = logs[i], 0
  if admitted == 1 then
    local end_ = #log
    if end_ > 0 and now - log[end_-2] < width then
      log[end_-1], log[end_] = now, log[end_] + 1
    else
      log[end_+1], log[end_+2], log[end_+3] = now, now, 1
    end
    used[i] = used[i] + 1
    redis.call('SET', key, cmsgpack.pack(log), 'PX', math.ceil(window / 1000) + 1000)
    wait = log[2] + window - now
  else
    local n = used[i]
    for j = 1, #log, 3 do
      if n < limit then break end
      n, wait = n - log[j+2], log[j+1] + window - now
    end
  end
  answer[#answer+1], answer[#answer+2] = used[i], wait
end
return answer
`)

// key names a rule's count. The braces keep all of a subject's on one node of a cluster.
func (l *Limiter) key(s Subject, r Rule) string {
	return l.cfg.Prefix + "{" + s.String() + "}:" + r.Name
}

// ask puts a charge to Redis. It does not end with ctx: a caller that leaves says nothing
// about Redis.
func (l *Limiter) ask(ctx context.Context, c Charge) (Decision, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.cfg.Within)
	defer cancel()
	keys := make([]string, len(c.Rules))
	args := make([]any, 0, 3*len(c.Rules))
	for i, r := range c.Rules {
		keys[i] = l.key(c.Subject, r)
		args = append(args, r.Limit, r.Window.Microseconds(), r.Window.Microseconds()/steps)
	}
	got, err := l.breaker.Execute(func() ([]int64, error) {
		answer, err := takeScript.Run(ctx, l.cfg.Redis, keys, args...).Int64Slice()
		if err == nil && len(answer) != 1+2*len(c.Rules) {
			err = fmt.Errorf("%d numbers for %d rules", len(answer), len(c.Rules))
		}
		if err != nil {
			l.metrics.failures.Inc()
		}
		return answer, err
	})
	if err != nil {
		return Decision{}, fmt.Errorf("ask Redis: %w", err)
	}
	return decide(c.Rules, got[0] == 1, func(i int) (int, time.Duration) {
		return int(got[1+2*i]), time.Duration(got[2+2*i]) * time.Microsecond
	}), nil
}
