-- Facts of one table, by schema and name ($1, $2); no row if there is no such relation. `:schema` is replaced by the quoted name.
SELECT c.oid,
    CASE WHEN c.relpersistence = 't' THEN 't'
         WHEN n.nspname IN ('pg_catalog', 'information_schema') OR n.nspname LIKE 'pg\_toast%'
              OR c.relnamespace = ':schema'::pg_catalog.regnamespace THEN 's'
         ELSE c.relkind::text END,
    ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute AS a
          WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum),
    ARRAY(SELECT a.attname::text FROM pg_catalog.pg_index AS i
          CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, place)
          JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = k.attnum
          WHERE i.indrelid = c.oid AND i.indisprimary AND k.place <= i.indnkeyatts ORDER BY k.place),
    c.relispartition OR c.relhassubclass AND c.relkind = 'r'
        OR EXISTS (SELECT FROM pg_catalog.pg_inherits AS h WHERE h.inhrelid = c.oid),
    EXISTS (SELECT FROM pg_catalog.pg_trigger AS t JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid
            WHERE t.tgrelid = c.oid AND NOT t.tgisinternal
              -- tgtype: bit 0 row, bit 1 before, bit 6 instead.
              AND t.tgtype & 1 = 1 AND t.tgtype & 66 = 0
              AND p.pronamespace <> ':schema'::pg_catalog.regnamespace),
    :schema.shape(c.oid),
    -- How long values of each column may be: see `Size`. A domain is as long as its type; of a domain over a domain nothing is known.
    ARRAY(SELECT CASE
              WHEN b.typlen <> -1 THEN 'limited'
              WHEN b.oid IN ('inet'::regtype, 'cidr'::regtype, 'numeric'::regtype) THEN 'limited'
              -- A limit is 4 more than it says.
              WHEN b.oid IN ('varchar'::regtype, 'bpchar'::regtype) AND m.typmod BETWEEN 4 AND 16388 THEN 'limited'
              WHEN b.oid IN ('text'::regtype, 'bytea'::regtype, 'varchar'::regtype, 'bpchar'::regtype) THEN 'text'
              WHEN b.oid IN ('json'::regtype, 'xml'::regtype) THEN 'json'
              WHEN b.oid = 'jsonb'::regtype THEN 'jsonb'
              ELSE 'other' END
          FROM pg_catalog.pg_attribute AS a
          JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
          JOIN pg_catalog.pg_type AS b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
          CROSS JOIN LATERAL (SELECT CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE a.atttypmod END) AS m (typmod)
          WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum),
    pg_catalog.has_table_privilege(c.oid, 'TRIGGER'),
    current_user::text,
    pg_catalog.pg_get_userbyid(c.relowner)::text,
    -- As ALTER TABLE decides it.
    pg_catalog.pg_has_role(c.relowner, 'USAGE'),
    -- Of the columns above.
    ARRAY(SELECT a.atttypid FROM pg_catalog.pg_attribute AS a
          WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum) AS types,
    ARRAY(SELECT a.atttypmod FROM pg_catalog.pg_attribute AS a
          WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum) AS modifiers
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = $2
