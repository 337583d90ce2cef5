-- What Hasura's event triggers do on version 2, written anew from how they behave: the table and its three indexes by the
-- same definitions, the same steps for each row. The steps: both payloads, a comparison of old and new under an exception
-- block (which makes each row a subtransaction), two settings, a JSON object, and an insert that makes it jsonb.
CREATE SCHEMA hdb_catalog;
CREATE TABLE hdb_catalog.event_log (
    id text PRIMARY KEY DEFAULT gen_random_uuid(),
    schema_name text NOT NULL,
    table_name text NOT NULL,
    trigger_name text NOT NULL,
    payload jsonb NOT NULL,
    delivered boolean NOT NULL DEFAULT false,
    error boolean NOT NULL DEFAULT false,
    tries integer NOT NULL DEFAULT 0,
    created_at timestamp DEFAULT now(),
    locked timestamptz,
    next_retry_at timestamp,
    archived boolean NOT NULL DEFAULT false
);
CREATE INDEX ON hdb_catalog.event_log (trigger_name);
CREATE INDEX ON hdb_catalog.event_log (locked NULLS FIRST, next_retry_at NULLS FIRST, created_at)
    WHERE NOT delivered AND NOT error AND NOT archived;

CREATE FUNCTION hdb_catalog.write_event(of_schema text, of_table text, of_trigger text, op text, data json) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    id text := gen_random_uuid();
    version int := current_setting('server_version_num');
    variables json;
    trace json;
    payload json;
BEGIN
    IF version >= 90600 THEN
        variables := nullif(current_setting('hasura.user', true), '');
        trace := nullif(current_setting('hasura.tracecontext', true), '');
    END IF;
    payload := json_build_object('op', op, 'data', data, 'session_variables', variables, 'trace_context', trace);
    INSERT INTO hdb_catalog.event_log (id, schema_name, table_name, trigger_name, payload)
        VALUES (id, of_schema, of_table, of_trigger, payload);
    RETURN id;
END
$$;
