-- The couples and users topics: what is there already is published once, by timers of the
-- kinds 4 (a user) and 5 (a pair) as partner.TimerKind has them. Rows of events may name two
-- more topics: 4 users, 5 couples.

-- +goose Up

-- The hash of the key is the processor's to know: it gives these their partitions (-1: none
-- yet). Due in a while, for a processor of the version before, still at work while others
-- are replaced, would take them for timers with nothing to do; and one after the other, so
-- that the timers of the domain find their turn among them.
INSERT INTO timers (low, high, kind, partition, due_at, ref)
SELECT u.id, u.id, 4, -1, now() + interval '10 minutes' + row_number() OVER (ORDER BY u.created_at) * interval '1 millisecond',
       gen_random_uuid()
FROM users u;
INSERT INTO timers (low, high, kind, partition, due_at, ref)
SELECT p.low, p.high, 5, -1, now() + interval '10 minutes' + row_number() OVER (ORDER BY p.low, p.high) * interval '1 millisecond',
       gen_random_uuid()
FROM (SELECT DISTINCT low, high FROM partnerships) p;

-- +goose Down

DELETE FROM timers WHERE kind IN (4, 5, 6, 7);
