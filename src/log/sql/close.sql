-- Run by the controller once no function fills a segment ($1) any more. A transaction that runs now may still be inside
-- the function as it was; all that begin later have the new one. Every transaction holds a lock on its own virtual id.
UPDATE :schema.segment SET closed_at = pg_catalog.clock_timestamp(), writers = ARRAY(
    SELECT l.virtualxid FROM pg_catalog.pg_locks AS l JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid
    WHERE l.locktype = 'virtualxid' AND a.datname = pg_catalog.current_database() AND l.pid <> pg_catalog.pg_backend_pid()
) WHERE number = $1
