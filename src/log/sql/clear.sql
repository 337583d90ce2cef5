-- Run by a worker, with the lease: nothing waits in these groups any more (arrays: $1 subscriptions, $2 groups).
DELETE FROM parked_lane AS l USING unnest($1::int4[], $2::int8[]) AS u (subscription, root)
WHERE l.subscription = u.subscription AND l.root = u.root
