-- Run by a worker a few times a second ($1 its number, $2 seconds, $3 class of advisory locks, $4 its pool): numbers of the workers of
-- the pool that live, and who holds each slot, in order of slot; null if nobody does. Who hangs is not alive after so many seconds, who died at once.
SELECT ARRAY(
    SELECT w.number FROM worker AS w
    WHERE w.pool = $4::int4 AND (w.number = $1::int4 OR w.seen > clock_timestamp() - make_interval(secs => $2::float8)
        AND NOT pg_try_advisory_xact_lock_shared($3::int4 # 'lease'::regclass::oid::int4, w.number))
    ORDER BY w.number
), ARRAY(
    SELECT CASE WHEN l.worker = $1::int4 THEN l.worker
        WHEN l.until >= clock_timestamp()
            AND NOT pg_try_advisory_xact_lock_shared($3::int4 # 'lease'::regclass::oid::int4, l.worker) THEN l.worker END
    FROM lease AS l WHERE l.pool = $4::int4 ORDER BY l.slot
)
