-- Run by a worker, with the lease: these partitions have come to events that others send (arrays: $1 subscriptions, $2 events).
INSERT INTO arrival (subscription, event_id)
SELECT a.subscription, a.event_id FROM unnest($1::int4[], $2::int8[]) AS a (subscription, event_id)
JOIN cursor AS c ON c.subscription = a.subscription
ON CONFLICT DO NOTHING
