-- Run by a worker, with the lease: groups wait before their first event is tried again (arrays: $1 triggers, $2 groups,
-- $3 seconds). The server's clock decides. A group may be there more than once: the last counts.
INSERT INTO parked_lane (trigger_id, lane, root, due)
SELECT DISTINCT ON (w.trigger_id, w.root) w.trigger_id, w.root, w.root, clock_timestamp() + make_interval(secs => w.delay)
FROM unnest($1::int4[], $2::int8[], $3::float8[]) WITH ORDINALITY AS w (trigger_id, root, delay, n)
JOIN trigger AS t ON t.id = w.trigger_id
ORDER BY w.trigger_id, w.root, w.n DESC
ON CONFLICT (trigger_id, lane) DO UPDATE SET root = excluded.root, due = excluded.due
