-- Run by a worker, with the lease: lanes wait in the group of another (arrays: $1 triggers, $2 lanes, $3 groups).
INSERT INTO parked_lane (trigger_id, lane, root)
SELECT j.trigger_id, j.lane, j.root FROM unnest($1::int4[], $2::int8[], $3::int8[]) AS j (trigger_id, lane, root)
JOIN trigger AS t ON t.id = j.trigger_id
ON CONFLICT (trigger_id, lane) DO UPDATE SET root = excluded.root
