-- Run by a worker, once all rows of the EventTrigger ($1) that this reads are locked: where it stands, if its events can be divided
-- otherwise: nothing is parked, and all partitions are at the last cut before that. At an earlier one they may have delivered
-- events of the next window, and not written it down yet. One that is not divided may be within a window.
SELECT min(c.cut::text), min(c.target::text), min(c.after), (array_agg(c.done::text ORDER BY c.partition))[1]
FROM cursor AS c LEFT JOIN spread AS s ON s.trigger_id = c.trigger_id
LEFT JOIN cut AS l ON l.trigger_id = s.trigger_id AND l.number = s.upto
WHERE c.trigger_id = $1
HAVING bool_and(s.trigger_id IS NULL OR coalesce(c.cut::text = l.cut::text, false) AND c.target IS NULL AND c.done = '{}')
   AND bool_and(NOT EXISTS (SELECT FROM parked AS p WHERE p.subscription = c.subscription))
