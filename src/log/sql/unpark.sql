-- Run by a worker, with the lease: parked events are finished (arrays: $1 triggers, $2 seq).
DELETE FROM parked AS p USING unnest($1::int4[], $2::int8[]) AS u (trigger_id, seq)
WHERE p.trigger_id = u.trigger_id AND p.seq = u.seq
