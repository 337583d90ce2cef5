-- Run by a worker, with the lease: lanes wait in the group of another (arrays: $1 subscriptions, $2 lanes, $3 groups).
INSERT INTO parked_lane (subscription, lane, root)
SELECT j.subscription, j.lane, j.root FROM unnest($1::int4[], $2::int8[], $3::int8[]) AS j (subscription, lane, root)
JOIN cursor AS c ON c.subscription = j.subscription
ON CONFLICT (subscription, lane) DO UPDATE SET root = excluded.root
