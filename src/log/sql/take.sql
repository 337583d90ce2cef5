-- Run by a worker that wants the lease ($1 holder, $2 seconds, $3 class of advisory locks); a row if it got it.
-- The holder's session holds an advisory lock named by its epoch: if that lock can be had, its session is gone, and nobody
-- need wait for the lease to end. The new epoch's lock belongs to this session from here on.
WITH now AS MATERIALIZED (
    SELECT epoch, until < clock_timestamp() AS over FROM lease WHERE name = 'delivery' FOR UPDATE
), free AS MATERIALIZED (
    SELECT epoch FROM now WHERE over OR pg_try_advisory_xact_lock($3::int4, epoch::int4)
), taken AS MATERIALIZED (
    SELECT epoch + 1 AS epoch, pg_try_advisory_lock($3::int4, (epoch + 1)::int4) AS locked FROM free
)
UPDATE lease SET epoch = taken.epoch, holder = $1, until = clock_timestamp() + make_interval(secs => $2::float8)
FROM taken WHERE name = 'delivery' AND taken.locked RETURNING lease.epoch
