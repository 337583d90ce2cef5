-- Run by the controller every few seconds: every captured table and what of it is not as it was installed. Takes no lock
-- but those of reading the catalog. `:schema` is replaced by the quoted name.
SELECT c.table_schema, c.table_name,
    ARRAY(SELECT pg_catalog.concat_ws('/', t.namespace, t.name) FROM :schema.trigger AS t
          WHERE t.table_schema = c.table_schema AND t.table_name = c.table_name ORDER BY t.namespace, t.name),
    CASE
        WHEN r.oid IS NULL THEN ARRAY['the table was dropped']
        WHEN (n.nspname, r.relname) IS DISTINCT FROM (c.table_schema, c.table_name)
            THEN ARRAY[pg_catalog.format('the table is now called %I.%I', n.nspname, r.relname)]
        WHEN :schema.state(c.relation) = c.state THEN ARRAY[]::text[]
        ELSE coalesce((
            SELECT pg_catalog.array_agg(CASE WHEN g.tgname IS NULL THEN pg_catalog.format('SQL trigger %s was dropped', w.name)
                                  ELSE pg_catalog.format('SQL trigger %s was disabled', w.name) END)
            FROM pg_catalog.unnest(c.sql_triggers) AS w (name)
            LEFT JOIN pg_catalog.pg_trigger AS g ON g.tgrelid = c.relation AND g.tgname = w.name
            WHERE g.tgname IS NULL OR g.tgenabled IN ('D', 'R')
        ), ARRAY['the table''s columns, its other triggers, or a capture function changed'])
    END
FROM :schema.capture AS c
LEFT JOIN pg_catalog.pg_class AS r ON r.oid = c.relation
LEFT JOIN pg_catalog.pg_namespace AS n ON n.oid = r.relnamespace
WHERE NOT c.retired
