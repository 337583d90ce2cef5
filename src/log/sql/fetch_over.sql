-- Run by a worker a few times a second while subscriptions that its pool ($1) is to deliver are another's ($2 class of advisory locks):
-- takes those over whose slot nobody holds there. Who does hold it hands them over by itself. The slot's epoch rises, as if it had
-- been taken and given up at once: a holder that was left behind can commit nothing any more. What is locked is left for the next time.
WITH away AS MATERIALIZED (
    SELECT c.subscription, c.pool, c.subscription % 16 AS slot
    FROM cursor AS c JOIN trigger AS t ON t.id = c.trigger_id WHERE t.pool = $1::int4 AND c.pool <> t.pool
), free AS MATERIALIZED (
    SELECT l.pool, l.slot FROM lease AS l
    WHERE (l.pool, l.slot) IN (SELECT a.pool, a.slot FROM away AS a) AND (l.until < clock_timestamp()
        OR pg_try_advisory_xact_lock_shared($2::int4 # 'lease'::regclass::oid::int4, l.worker))
    ORDER BY l.pool, l.slot FOR UPDATE SKIP LOCKED
), fenced AS (
    UPDATE lease AS l SET epoch = l.epoch + 1, worker = 0, holder = '', until = '-infinity'
    FROM free AS f WHERE l.pool = f.pool AND l.slot = f.slot RETURNING l.pool, l.slot
), fetched AS (
    UPDATE cursor AS c SET pool = $1::int4 FROM away AS a JOIN fenced AS f ON f.pool = a.pool AND f.slot = a.slot
    WHERE c.subscription = a.subscription AND c.pool = a.pool RETURNING c.subscription
), told AS (
    UPDATE meta SET definitions = definitions + 1 WHERE EXISTS (SELECT FROM fetched)
)
SELECT subscription FROM fetched
