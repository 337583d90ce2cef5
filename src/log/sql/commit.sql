-- Run by a worker once for a batch (arrays: $1 slots that it concerns, $2 their epochs; $3 subscriptions, $4 cuts, $5 targets, $6 after,
-- $7 done; $8 the worker's pool). The share lock on the leases makes a takeover wait for this commit, or this commit see the takeover: then it writes
-- nothing.
WITH held AS MATERIALIZED (
    SELECT l.slot FROM lease AS l JOIN unnest($1::int4[], $2::int8[]) AS h (slot, epoch) ON l.slot = h.slot AND l.epoch = h.epoch
    WHERE l.pool = $8::int4 ORDER BY l.slot FOR SHARE OF l
), all_held AS MATERIALIZED (
    SELECT count(*) = cardinality($1::int4[]) AS yes FROM held
), moved AS (
    UPDATE cursor AS c SET cut = m.cut::pg_snapshot, target = m.target::pg_snapshot, after = m.after, done = m.done::bigint[]
    FROM unnest($3::int4[], $4::text[], $5::text[], $6::int8[], $7::text[]) AS m (subscription, cut, target, after, done)
    WHERE c.subscription = m.subscription AND c.pool = $8::int4 AND (SELECT yes FROM all_held)
)
SELECT yes FROM all_held
