-- Run by the controller: every segment, oldest first. Reads the catalog and the sizes of files. `:schema` is replaced by the quoted name.
SELECT s.number, s.base, s.upto,
    pg_catalog.pg_relation_size(c.oid) > 0,
    pg_catalog.pg_total_relation_size(c.oid),
    s.opened_at,
    EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - s.opened_at)::float8,
    EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - s.closed_at)::float8,
    -- Whether a SQL trigger's function still fills it.
    EXISTS (SELECT FROM pg_catalog.pg_trigger AS t JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid
            WHERE p.pronamespace = ':schema'::pg_catalog.regnamespace
              AND pg_catalog.strpos(p.prosrc, pg_catalog.format(':schema."event_%s" (', s.number)) > 0),
    -- Whether a transaction is left that may run such a function in the form it had before.
    EXISTS (SELECT FROM pg_catalog.pg_locks AS l WHERE l.locktype = 'virtualxid' AND l.virtualxid = ANY (s.writers)),
    s.before, s.before_base
FROM :schema.segment AS s
JOIN pg_catalog.pg_class AS c ON c.relnamespace = ':schema'::pg_catalog.regnamespace AND c.relname = 'event_' || s.number
ORDER BY s.number
