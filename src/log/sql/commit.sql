-- Run by a worker once for a batch ($1 epoch; arrays: $2 triggers, $3 cuts, $4 targets, $5 after, $6 done). The share lock
-- on the lease makes a takeover wait for this commit, or this commit see the takeover: then it writes nothing.
WITH held AS MATERIALIZED (
    SELECT FROM lease WHERE name = 'delivery' AND epoch = $1 FOR SHARE
), moved AS (
    UPDATE cursor AS c SET cut = m.cut::pg_snapshot, target = m.target::pg_snapshot, after = m.after, done = m.done::bigint[]
    FROM unnest($2::int4[], $3::text[], $4::text[], $5::int8[], $6::text[]) AS m (trigger_id, cut, target, after, done)
    WHERE c.trigger_id = m.trigger_id AND EXISTS (SELECT FROM held)
)
SELECT EXISTS (SELECT FROM held)
