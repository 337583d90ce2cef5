-- Run by a worker, with the lease: dead letters are parked again, as events that were never sent (arrays: $1 subscriptions,
-- $2 events, $3 groups).
WITH taken AS (
    DELETE FROM dead_letter AS d USING unnest($1::int4[], $2::int8[], $3::int8[]) AS r (subscription, event_id, lane), cursor AS c,
        trigger AS t
    WHERE c.subscription = r.subscription AND t.id = c.trigger_id
      AND d.trigger_namespace = t.namespace AND d.trigger_name = t.name AND d.event_id = r.event_id
    RETURNING r.subscription, r.lane, d.*
)
INSERT INTO parked (subscription, seq, lane, event_id, txid, event_at, capture, op, old, new, context)
SELECT subscription, seq, lane, event_id, txid, event_at, capture, op, old, new, context FROM taken
