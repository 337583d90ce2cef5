-- Run by a worker, with the lease, once nothing of a subscription ($1) is under way and its cursor is written: those that are to
-- deliver it do so from here on ($2 the worker's pool).
UPDATE cursor AS c SET pool = t.pool FROM trigger AS t
WHERE c.subscription = $1 AND c.pool = $2 AND t.id = c.trigger_id AND t.pool <> c.pool
