-- Run by a worker, with the lease: these partitions go on, for the events that they waited for were sent (arrays: $1 subscriptions,
-- $2 events).
DELETE FROM arrival AS a USING unnest($1::int4[], $2::int8[]) AS d (subscription, event_id)
WHERE a.subscription = d.subscription AND a.event_id = d.event_id
