-- Run by a worker once ($1 its name, $2 class of advisory locks, $3 its pool): it gets a number, and its session holds the lock of that number
-- from here on. Nobody sees the row before the lock is held. The schema is part of the lock's name: a database may have several logs.
WITH me AS (
    INSERT INTO worker (name, pool) VALUES ($1, $3::int4) RETURNING number
)
SELECT number, pg_advisory_lock($2::int4 # 'lease'::regclass::oid::int4, number) FROM me
