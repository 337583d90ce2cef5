-- Run by a worker for the first events of a group that is due ($1 trigger, $2 group, $3 how many).
SELECT seq, attempts, event_id, txid, event_at, capture, op, old::text, new::text, context::text
FROM parked WHERE trigger_id = $1 AND lane = $2 ORDER BY seq LIMIT $3
