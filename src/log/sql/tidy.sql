-- Run by a worker now and then ($1 one of the partitions): forgets the cuts that all of them are beyond.
DELETE FROM cut AS d USING cursor AS m WHERE m.subscription = $1 AND d.trigger_id = m.trigger_id AND d.number < (
    SELECT min(coalesce(c.number, 0)) FROM cursor AS k
    LEFT JOIN cut AS c ON c.trigger_id = k.trigger_id AND c.cut::text = k.cut::text WHERE k.trigger_id = m.trigger_id)
