-- Run by a worker a few times a second while subscriptions of its pool ($1) are to be delivered by another pool ($2 seconds, $3 class
-- of advisory locks): those that can be handed over, for a worker of that pool lives. Until then they are delivered here, unless none
-- is wanted there.
SELECT c.subscription FROM cursor AS c JOIN trigger AS t ON t.id = c.trigger_id
WHERE c.pool = $1::int4 AND t.pool <> c.pool AND (t.definition ->> 'own_workers' = 'Stopped' OR EXISTS (
    SELECT FROM worker AS w
    WHERE w.pool = t.pool AND w.seen > clock_timestamp() - make_interval(secs => $2::float8)
        AND NOT pg_try_advisory_xact_lock_shared($3::int4 # 'lease'::regclass::oid::int4, w.number)
))
ORDER BY c.subscription
