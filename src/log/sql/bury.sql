-- As commit.sql, and writes events that were given up (arrays: $7 triggers, $8 events, $9 attempts, $10 status, $11 errors,
-- $12 old, $13 new, $14 context). An event that is given up a second time, after a crash, is written once.
WITH held AS MATERIALIZED (
    SELECT FROM lease WHERE name = 'delivery' AND epoch = $1 FOR SHARE
), moved AS (
    UPDATE cursor AS c SET cut = m.cut::pg_snapshot, target = m.target::pg_snapshot, after = m.after, done = m.done::bigint[]
    FROM unnest($2::int4[], $3::text[], $4::text[], $5::int8[], $6::text[]) AS m (trigger_id, cut, target, after, done)
    WHERE c.trigger_id = m.trigger_id AND EXISTS (SELECT FROM held)
), buried AS (
    INSERT INTO dead_letter (trigger_namespace, trigger_name, event_id, attempts, status, error, old, new, context)
    SELECT t.namespace, t.name, d.event_id, d.attempts, d.status, d.error, d.old::json, d.new::json, d.context::json
    FROM unnest($7::int4[], $8::int8[], $9::int4[], $10::int4[], $11::text[], $12::text[], $13::text[], $14::text[])
        AS d (trigger_id, event_id, attempts, status, error, old, new, context)
    JOIN trigger AS t ON t.id = d.trigger_id
    WHERE EXISTS (SELECT FROM held)
    ON CONFLICT DO NOTHING
)
SELECT EXISTS (SELECT FROM held)
