-- Run by the controller: whether role $1 is there, and has what allow.sql grants. `:schema` is replaced by the quoted name.
SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1),
    (SELECT pg_catalog.bool_and(pg_catalog.has_table_privilege(r.oid, c.oid, 'SELECT')
         AND (c.relname <> 'lease' OR pg_catalog.has_table_privilege(r.oid, c.oid, 'UPDATE'))
         AND (c.relname NOT IN ('cursor', 'spread', 'cut', 'arrival', 'worker', 'parked', 'parked_lane', 'obstacle', 'dead_letter')
              OR pg_catalog.has_table_privilege(r.oid, c.oid, 'INSERT') AND pg_catalog.has_table_privilege(r.oid, c.oid, 'UPDATE')
                 AND pg_catalog.has_table_privilege(r.oid, c.oid, 'DELETE'))
         AND pg_catalog.has_sequence_privilege(r.oid, ':schema.subscription', 'USAGE')
         AND (c.relname <> 'meta' OR pg_catalog.has_column_privilege(r.oid, c.oid, 'definitions', 'UPDATE'))
         AND pg_catalog.has_schema_privilege(r.oid, c.relnamespace, 'USAGE'))
     FROM pg_catalog.pg_class AS c CROSS JOIN pg_catalog.pg_roles AS r
     WHERE c.relnamespace = ':schema'::pg_catalog.regnamespace AND c.relkind IN ('r', 'v') AND r.rolname = $1)
