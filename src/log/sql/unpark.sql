-- Run by a worker, with the lease: parked events are finished (arrays: $1 subscriptions, $2 seq).
DELETE FROM parked AS p USING unnest($1::int4[], $2::int8[]) AS u (subscription, seq)
WHERE p.subscription = u.subscription AND p.seq = u.seq
