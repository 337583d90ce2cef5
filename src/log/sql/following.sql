-- Run by a worker that wants to read on ($1 one of the partitions, $2 the cut that it stands at): the cut that comes after it, if
-- the partitions have agreed on one already. None if the events are divided otherwise by now: then that partition is no more.
SELECT f.cut::text FROM cursor AS k
JOIN cut AS c ON c.trigger_id = k.trigger_id JOIN cut AS f ON f.trigger_id = c.trigger_id AND f.number = c.number + 1
WHERE k.subscription = $1 AND c.cut::text = $2
