-- Run by a worker after it sent a dead letter to the dead letter sink: $5 seconds from now it is sent again; without it, it is done.
-- Only if nobody has claimed, redriven or buried it anew meanwhile.
UPDATE dead_letter SET forward = CASE WHEN $5::float8 IS NULL THEN NULL ELSE forward END,
    forward_at = now() + make_interval(secs => coalesce($5::float8, 0))
WHERE trigger_namespace = $1 AND trigger_name = $2 AND event_id = $3 AND forward_at = $4::text::timestamptz
