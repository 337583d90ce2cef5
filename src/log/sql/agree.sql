-- Run by a worker that wants to read on ($1 one of the partitions, $2 the cut that it stands at, $3 where it could read to), if
-- there is no cut after it: proposes one. Another worker's may be first; then that one counts, see following.sql. The lock keeps
-- it from going beyond the last cut before the events are divided otherwise.
WITH layout AS MATERIALIZED (
    SELECT s.trigger_id, s.upto FROM spread AS s JOIN cursor AS k ON k.trigger_id = s.trigger_id
    WHERE k.subscription = $1 FOR SHARE OF s
)
INSERT INTO cut (trigger_id, number, cut)
SELECT c.trigger_id, c.number + 1, $3::text::pg_snapshot
FROM layout AS l JOIN cut AS c ON c.trigger_id = l.trigger_id
WHERE c.cut::text = $2 AND (l.upto IS NULL OR c.number < l.upto)
ON CONFLICT (trigger_id, number) DO NOTHING RETURNING number
