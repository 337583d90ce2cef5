-- Run by a worker that wants slots of its pool ($1 its number, $2 its name, $3 seconds, $4 class of advisory locks, $5 slots, $6 the
-- pool); a row for each that it got. Each worker's session holds an advisory lock named by its number: if that lock can be had, its
-- session is gone, and nobody need wait for its leases to end. Rows that are locked are left for the next time: what a worker that
-- hangs in the middle of a commit still locks must not make this one hang, too.
WITH free AS MATERIALIZED (
    SELECT slot FROM lease
    WHERE pool = $6::int4 AND slot = ANY ($5::int4[]) AND (until < clock_timestamp()
        OR worker <> $1::int4 AND pg_try_advisory_xact_lock_shared($4::int4 # 'lease'::regclass::oid::int4, worker))
    ORDER BY slot FOR UPDATE SKIP LOCKED
)
UPDATE lease AS l SET epoch = l.epoch + 1, worker = $1::int4, holder = $2,
    until = clock_timestamp() + make_interval(secs => $3::float8)
FROM free WHERE l.pool = $6::int4 AND l.slot = free.slot RETURNING l.slot, l.epoch
