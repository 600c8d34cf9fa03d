-- How many entries of an inbox are unread, in one place: the API says it, and so does the
-- badge of a push. It only adds.

-- +goose Up

-- Entries after the read mark, or what any session has acknowledged, of the given kinds of
-- event, that are neither withdrawn nor silent nor the user's own doing; of the newest `most`
-- entries, which bounds what counting costs. One index range on the inbox and one look-up per
-- row, whatever the statistics say.
-- +goose StatementBegin
CREATE FUNCTION unread_count(who uuid, kinds smallint[], most integer) RETURNS bigint
LANGUAGE sql STABLE AS $$
SELECT count(*)
FROM (SELECT COALESCE(max(last_seq), 0) AS last,
             GREATEST(COALESCE(max(read_seq), 0), (SELECT COALESCE(max(seq), 0) FROM acks WHERE user_id = who)) AS read
      FROM user_streams WHERE user_id = who) s
CROSS JOIN LATERAL (SELECT i.partition, i.event_seq, i.origin FROM inbox_entries i
      WHERE i.user_id = who AND i.seq > GREATEST(s.read, s.last - most) AND NOT i.withdrawn) i
CROSS JOIN LATERAL (SELECT v.type, v.data FROM events v WHERE v.partition = i.partition AND v.seq = i.event_seq LIMIT 1) v
WHERE v.type = ANY (kinds)
  AND i.origin IS DISTINCT FROM who AND v.data ->> 'silent' IS DISTINCT FROM 'true'
  AND v.data ->> 'byUserId' IS DISTINCT FROM who::text AND v.data ->> 'fromUserId' IS DISTINCT FROM who::text
$$;
-- +goose StatementEnd

-- +goose Down

DROP FUNCTION unread_count(uuid, smallint[], integer);
