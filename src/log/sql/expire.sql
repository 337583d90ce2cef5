-- Run by the controller every few seconds while a period is set: dead letters older than $1 seconds go, the oldest first, at most
-- $2 of them. Not those that are to be delivered again, nor those that the dead letter sink, if there still is one, has not had. `:schema` is replaced by
-- the quoted name. One that a worker is just taking is left to the next time.
DELETE FROM :schema.dead_letter WHERE ctid = ANY (ARRAY(
    SELECT d.ctid FROM :schema.dead_letter AS d
    WHERE d.at < pg_catalog.now() - pg_catalog.make_interval(secs => $1::float8) AND NOT d.redrive
      AND (d.forward IS NULL OR NOT EXISTS (
          SELECT FROM :schema.trigger AS t WHERE t.namespace = d.trigger_namespace AND t.name = d.trigger_name
            AND t.definition #>> '{dead_letter_sink,sink,url}' IS NOT NULL))
    ORDER BY d.at LIMIT $2 FOR UPDATE SKIP LOCKED
))
