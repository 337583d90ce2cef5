-- Run by a worker every few seconds ($1 its number, $2 seconds, $3 class of advisory locks; arrays: $4 slots, $5 epochs; $6 its pool): it lives,
-- and goes on to hold its slots; a row for each that it does hold. The server's clock decides, so that workers' clocks do not
-- matter. Rows of a lease are always locked in order of slot, here and in a commit: two can wait for each other no other way.
WITH seen AS (
    UPDATE worker SET seen = clock_timestamp() WHERE number = $1::int4
), gone AS (
    DELETE FROM worker WHERE number IN (
        SELECT number FROM worker
        WHERE number <> $1::int4 AND pg_try_advisory_xact_lock_shared($3::int4 # 'lease'::regclass::oid::int4, number)
        FOR UPDATE SKIP LOCKED
    )
), mine AS MATERIALIZED (
    SELECT l.slot FROM lease AS l JOIN unnest($4::int4[], $5::int8[]) AS m (slot, epoch) ON l.slot = m.slot AND l.epoch = m.epoch
    WHERE l.pool = $6::int4 ORDER BY l.slot FOR UPDATE OF l
)
UPDATE lease AS l SET until = clock_timestamp() + make_interval(secs => $2::float8)
FROM mine WHERE l.pool = $6::int4 AND l.slot = mine.slot RETURNING l.slot
