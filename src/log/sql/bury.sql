-- Run by a worker, with the lease, for events that are given up (arrays: $1 subscriptions, $2 seq, $3 to $10 the events, $11 to $14
-- what failed, $15 lanes, $16 whether it was parked). If there is a dead letter sink, it is to be sent there. One that is given up a second time, after a crash or a redrive, is
-- written once: the last counts.
WITH buried AS (
    SELECT * FROM unnest($1::int4[], $2::int8[], $3::int8[], $4::xid8[], $5::timestamptz[], $6::int4[], $7::text[], $8::text[],
        $9::text[], $10::text[], $11::int4[], $12::int4[], $13::text[], $14::text[], $15::text[], $16::boolean[])
        AS d (subscription, seq, event_id, txid, event_at, capture, op, old, new, context, attempts, status, error, response, lanes, parked)
), unparked AS (
    DELETE FROM parked AS p USING buried AS d WHERE d.parked AND p.subscription = d.subscription AND p.seq = d.seq
    RETURNING p.subscription, p.seq, p.first_at
)
INSERT INTO dead_letter (trigger_namespace, trigger_name, event_id, seq, lanes, txid, event_at, capture, op, old, new, context,
    attempts, first_at, status, error, response, forward)
SELECT t.namespace, t.name, d.event_id, d.seq, d.lanes::bigint[], d.txid, d.event_at, d.capture, d.op::"char", d.old::json,
    d.new::json, d.context::json, d.attempts, coalesce(u.first_at, now()), d.status, d.error, d.response,
    CASE WHEN t.definition #>> '{dead_letter_sink,sink,url}' IS NOT NULL THEN t.definition #>> '{sink,url}' END
FROM buried AS d JOIN cursor AS c ON c.subscription = d.subscription JOIN trigger AS t ON t.id = c.trigger_id
LEFT JOIN unparked AS u ON u.subscription = d.subscription AND u.seq = d.seq
ON CONFLICT (trigger_namespace, trigger_name, event_id) DO UPDATE SET seq = excluded.seq, attempts = excluded.attempts,
    at = excluded.at, status = excluded.status, error = excluded.error, response = excluded.response, redrive = false,
    forward = excluded.forward, forward_at = excluded.forward_at
