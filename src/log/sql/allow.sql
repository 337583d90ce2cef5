-- Run by the controller when the workers have a role of their own, :role: what delivery takes, and no more. Segments that come
-- later take the rights of the log's parent table.
GRANT USAGE ON SCHEMA :schema TO :role;
GRANT SELECT ON ALL TABLES IN SCHEMA :schema TO :role;
GRANT UPDATE ON :schema.lease TO :role;
GRANT INSERT, UPDATE, DELETE ON :schema.cursor, :schema.spread, :schema.cut, :schema.arrival, :schema.worker, :schema.parked,
    :schema.parked_lane, :schema.obstacle, :schema.dead_letter TO :role;
GRANT USAGE ON SEQUENCE :schema.subscription TO :role;
GRANT UPDATE (definitions) ON :schema.meta TO :role;
GRANT EXECUTE ON FUNCTION :schema.divide TO :role;
