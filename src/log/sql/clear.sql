-- Run by a worker, with the lease: nothing waits in these groups any more (arrays: $1 triggers, $2 groups).
DELETE FROM parked_lane AS l USING unnest($1::int4[], $2::int8[]) AS u (trigger_id, root)
WHERE l.trigger_id = u.trigger_id AND l.root = u.root
