-- Run by a worker: dead letters that the dead letter sinks have not had, of each EventTrigger the first $1 that are due, $2 in all
-- and of $3 bytes together; a larger one alone, if $4 says so. Only those of EventTriggers that the worker's pool ($7) is to deliver, and not those in $5; those after $6 first, so that every
-- one's turn comes. They are not due again until the attempt must be over, which keeps other workers from them, and makes them due
-- if this one dies. No lease is needed: nothing here has an order, and what is sent twice has the same id.
WITH due AS (
    SELECT t.id, t.definition, l.*
    FROM (SELECT * FROM trigger ORDER BY id <= $6::int4, id) AS t CROSS JOIN LATERAL (
        SELECT d.trigger_namespace, d.trigger_name, d.event_id,
            coalesce(octet_length(d.old::text), 0) + coalesce(octet_length(d.new::text), 0) AS bytes
        FROM dead_letter AS d
        WHERE d.trigger_namespace = t.namespace AND d.trigger_name = t.name AND d.forward IS NOT NULL AND d.forward_at <= now()
        ORDER BY d.forward_at LIMIT $1::int8 FOR UPDATE SKIP LOCKED
    ) AS l
    WHERE t.definition #>> '{dead_letter_sink,sink,url}' IS NOT NULL AND t.id <> ALL ($5::int4[]) AND t.pool = $7::int4
    LIMIT $2::int8
), measured AS (
    SELECT *, sum(bytes) OVER (ROWS UNBOUNDED PRECEDING) AS upto, row_number() OVER () AS place FROM due
)
UPDATE dead_letter AS d SET forward_at = now() + make_interval(
    secs => 30 + coalesce((m.definition #>> '{dead_letter_sink,policy,timeout,secs}')::float8, 30))
FROM measured AS m
WHERE (m.upto <= $3::int8 OR m.place = 1 AND $4::boolean)
  AND d.trigger_namespace = m.trigger_namespace AND d.trigger_name = m.trigger_name AND d.event_id = m.event_id
RETURNING d.seq, d.attempts, d.event_id, d.txid, d.event_at, d.capture, d.op, d.old::text, d.new::text, d.context::text,
    m.id, m.definition::text, d.forward, d.forward_at::text, d.status, d.error, d.response
