-- Run by a worker, with the lease: groups wait before their first event is tried again (arrays: $1 subscriptions, $2 groups,
-- $3 seconds). The server's clock decides. A group may be there more than once: the last counts.
INSERT INTO parked_lane (subscription, lane, root, due)
SELECT DISTINCT ON (w.subscription, w.root) w.subscription, w.root, w.root, clock_timestamp() + make_interval(secs => w.delay)
FROM unnest($1::int4[], $2::int8[], $3::float8[]) WITH ORDINALITY AS w (subscription, root, delay, n)
JOIN cursor AS c ON c.subscription = w.subscription
ORDER BY w.subscription, w.root, w.n DESC
ON CONFLICT (subscription, lane) DO UPDATE SET root = excluded.root, due = excluded.due
