-- Run by a worker, with the lease, for events that wait (arrays: $1 subscriptions, $2 seq, $3 groups, $4 to $11 the events, $12 to
-- $15 what failed, if anything did, $16 its place if it meets another partition). The cursor passes them in the same transaction.
INSERT INTO parked (subscription, seq, lane, event_id, txid, event_at, capture, op, old, new, context,
    attempts, first_at, last_at, status, error, response, meets)
SELECT p.subscription, p.seq, p.lane, p.event_id, p.txid, p.event_at, p.capture, p.op::"char", p.old::json, p.new::json, p.context::json,
    p.attempts, CASE WHEN p.attempts > 0 THEN now() END, CASE WHEN p.attempts > 0 THEN now() END, p.status, p.error, p.response, p.meets
FROM unnest($1::int4[], $2::int8[], $3::int8[], $4::int8[], $5::xid8[], $6::timestamptz[], $7::int4[], $8::text[], $9::text[],
    $10::text[], $11::text[], $12::int4[], $13::int4[], $14::text[], $15::text[], $16::xid8[])
    AS p (subscription, seq, lane, event_id, txid, event_at, capture, op, old, new, context, attempts, status, error, response, meets)
JOIN cursor AS c ON c.subscription = p.subscription
