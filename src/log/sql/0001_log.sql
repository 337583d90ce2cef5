-- Version 1 of a log's schema. Run once by the controller's role, in one transaction, under the log's advisory lock.
-- Makes objects in :schema only and takes no lock on any other table. `:schema` is replaced by the quoted name.

-- The log itself. Append-only: no row is ever updated or deleted. Segments inherit from it, so that one can be dropped
-- or truncated alone; capture writes into a segment, readers read the parent.
CREATE SEQUENCE :schema.event_id AS bigint;

CREATE TABLE :schema.event (
    id bigint NOT NULL DEFAULT pg_catalog.nextval(':schema.event_id'::pg_catalog.regclass),
    txid pg_catalog.xid8 NOT NULL DEFAULT pg_catalog.pg_current_xact_id(),
    at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    capture integer NOT NULL,
    op "char" NOT NULL,
    matched varbit NOT NULL,
    old json,
    new json,
    context json
);
COMMENT ON TABLE :schema.event IS 'eventtrigger: one row for one change of one row; immutable; its segments inherit from it';
COMMENT ON COLUMN :schema.event.id IS 'ascending for one row of a table';
COMMENT ON COLUMN :schema.event.txid IS 'the top-level transaction that made the change';
COMMENT ON COLUMN :schema.event.matched IS 'which EventTriggers want it: a bit for each entry of capture.triggers';
COMMENT ON COLUMN :schema.event.context IS 'who made the change, as far as an EventTrigger of the table asks';

-- Autovacuum has nothing to do in a table that is only appended to, except freezing, which it does all the same.
CREATE TABLE :schema.event_1 () INHERITS (:schema.event) WITH (autovacuum_enabled = off);
-- The one index: a reader asks for a range of transactions.
CREATE INDEX event_1_txid ON :schema.event_1 (txid);

-- Exactly one row: what this log is, and whose.
CREATE TABLE :schema.meta (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    version integer NOT NULL,
    log_id uuid NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
    owner_uid text NOT NULL,
    owner_namespace text NOT NULL,
    owner_name text NOT NULL,
    released boolean NOT NULL DEFAULT false,
    system_identifier bigint NOT NULL,
    definitions bigint NOT NULL DEFAULT 0
);
COMMENT ON COLUMN :schema.meta.log_id IS 'first half of every event''s id';
COMMENT ON COLUMN :schema.meta.owner_uid IS 'UID of the EventLog; a controller or worker of another one stops here';
COMMENT ON COLUMN :schema.meta.released IS 'the EventLog was deleted with reclaimPolicy Retain; one of the same name takes over';
COMMENT ON COLUMN :schema.meta.definitions IS 'counts every change of a definition; workers look at it';

-- EventTriggers, resolved. Never a secret's value.
CREATE TABLE :schema.trigger (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    uid text NOT NULL,
    namespace text NOT NULL,
    name text NOT NULL,
    table_schema text NOT NULL,
    table_name text NOT NULL,
    definition json NOT NULL,
    UNIQUE (namespace, name)
);
COMMENT ON TABLE :schema.trigger IS 'eventtrigger: the EventTriggers of this log, as delivery obeys them';

-- Versions of each table's capture; old ones stay, because rows of the log refer to them.
CREATE TABLE :schema.capture (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation oid NOT NULL,
    table_schema text NOT NULL,
    table_name text NOT NULL,
    key text[] NOT NULL,
    triggers integer[] NOT NULL,
    sql_triggers text[] NOT NULL,
    plan text NOT NULL,
    state text NOT NULL DEFAULT '',
    retired boolean NOT NULL DEFAULT false
);
COMMENT ON COLUMN :schema.capture.triggers IS 'trigger.id by position of the bit in event.matched';
COMMENT ON COLUMN :schema.capture.plan IS 'fingerprint of what was asked for';
COMMENT ON COLUMN :schema.capture.state IS 'fingerprint of what the catalog held after installing; drift is a difference to it';
CREATE UNIQUE INDEX capture_current ON :schema.capture (relation) WHERE NOT retired;

-- How far delivery has come. One update for a batch; half-empty pages keep those updates in place.
CREATE TABLE :schema.cursor (
    trigger_id integer PRIMARY KEY REFERENCES :schema.trigger ON DELETE CASCADE,
    cut pg_snapshot NOT NULL,
    target pg_snapshot,
    after bigint NOT NULL DEFAULT 0,
    done bigint[] NOT NULL DEFAULT '{}'
) WITH (fillfactor = 50);
COMMENT ON COLUMN :schema.cursor.cut IS 'everything in this snapshot is done';
COMMENT ON COLUMN :schema.cursor.target IS 'end of the window under way; of it, what is at or below "after", or in "done", is done';

-- Who delivers. The epoch rises with each holder and fences the ones before.
CREATE TABLE :schema.lease (
    name text PRIMARY KEY,
    epoch bigint NOT NULL,
    holder text NOT NULL,
    until timestamptz NOT NULL
) WITH (fillfactor = 50);
INSERT INTO :schema.lease VALUES ('delivery', 0, '', '-infinity');

-- Events given up: after the last retry, or refused for good.
CREATE TABLE :schema.dead_letter (
    trigger_namespace text NOT NULL,
    trigger_name text NOT NULL,
    event_id bigint NOT NULL,
    attempts integer NOT NULL,
    status integer,
    error text NOT NULL,
    old json,
    new json,
    context json,
    at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    PRIMARY KEY (trigger_namespace, trigger_name, event_id)
);
COMMENT ON TABLE :schema.dead_letter IS 'eventtrigger: events that were given up, with what was to be sent';

-- A table's columns, as a fingerprint: number, name, type and its modifier of each.
CREATE FUNCTION :schema.shape(relation regclass) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT pg_catalog.md5(pg_catalog.string_agg(pg_catalog.concat_ws(':', a.attnum, a.attname, a.atttypid, a.atttypmod), ',' ORDER BY a.attnum))
    FROM pg_catalog.pg_attribute AS a
    WHERE a.attrelid OPERATOR(pg_catalog.=) relation::pg_catalog.oid
      AND a.attnum OPERATOR(pg_catalog.>) 0::pg_catalog.int2 AND NOT a.attisdropped
$$;

-- Declared IMMUTABLE on purpose, though it reads the catalog: the planner then evaluates it once for each cached plan of
-- a capture function instead of once for each row. It stays right because its argument is a regclass constant, which
-- makes the plan depend on the table: every ALTER TABLE throws the plan away, in every session.
CREATE FUNCTION :schema.shape_is(relation regclass, expected text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN coalesce(:schema.shape(relation) OPERATOR(pg_catalog.=) expected, false);
END
$$;

-- Used only between a change of a table's columns and the controller's repair. They cannot fail, whatever the columns are.
CREATE FUNCTION :schema.pick(whole json, names text[]) RETURNS json LANGUAGE sql IMMUTABLE AS $$
    SELECT pg_catalog.json_object_agg(e.key, e.value) FROM pg_catalog.json_each(whole) AS e
    WHERE e.key OPERATOR(pg_catalog.=) ANY (names)
$$;
-- A column that is not there any more counts as changed: rather an event too many.
CREATE FUNCTION :schema.differ(a json, b json, names text[]) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT pg_catalog.bool_or(coalesce((a OPERATOR(pg_catalog.->) n)::pg_catalog.text OPERATOR(pg_catalog.<>) (b OPERATOR(pg_catalog.->) n)::pg_catalog.text, true))
    FROM pg_catalog.unnest(names) AS n
$$;

-- Used only where a row may be too long to be written as JSON: the columns that are left out so that the others have 64 MiB
-- together, the longest first. Lengths as `weights` has them.
CREATE FUNCTION :schema.oversize(names text[], weights bigint[]) RETURNS text[] LANGUAGE sql IMMUTABLE AS $$
    SELECT ARRAY(
        SELECT s.name FROM (
            SELECT u.name, u.n, pg_catalog.sum(u.weight) OVER (ORDER BY u.weight, u.n) AS so_far
            FROM ROWS FROM (pg_catalog.unnest(names), pg_catalog.unnest(weights)) WITH ORDINALITY AS u (name, weight, n)
            WHERE u.weight IS NOT NULL
        ) AS s WHERE s.so_far OPERATOR(pg_catalog.>) 67108864::pg_catalog.numeric ORDER BY s.n
    )
$$;
-- How much JSON a value of any type becomes, in sixths of a byte at most. What is compressed may be 255 times as long, and is
-- unpacked to be sure, unless it could then be too long to be handled at all.
CREATE FUNCTION :schema.weight(value anyelement) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    size bigint := pg_catalog.pg_column_size(value);
BEGIN
    IF pg_catalog.pg_column_compression(value) IS NOT NULL THEN
        size := CASE WHEN size OPERATOR(pg_catalog.<=) 4194304 THEN pg_catalog.pg_column_size(ARRAY[value]) ELSE 1073741824 END;
    END IF;
    RETURN size OPERATOR(pg_catalog.*) 7;
END
$$;

-- The value of a setting; NULL without one (also what SET LOCAL has left behind is empty), or with one too long to be an
-- identity or a trace. Inlined where it is called.
CREATE FUNCTION :schema.setting(name text) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN pg_catalog.octet_length(pg_catalog.current_setting(name, true)) OPERATOR(pg_catalog.>) 0
             AND pg_catalog.octet_length(pg_catalog.current_setting(name, true)) OPERATOR(pg_catalog.<=) 8192
        THEN pg_catalog.current_setting(name, true) END
$$;
-- The role that the application acts as. Inside SECURITY DEFINER, current_user is the function's owner; the setting "role"
-- stays what SET ROLE made it, and "none" without that or after SET SESSION AUTHORIZATION. Inlined where it is called.
CREATE FUNCTION :schema.acting_role() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN pg_catalog.current_setting('role') OPERATOR(pg_catalog.<>) 'none'
        THEN pg_catalog.current_setting('role') ELSE session_user::pg_catalog.text END
$$;

-- What the catalog holds of a table's capture, as a fingerprint: its columns, our SQL triggers on it and their functions.
CREATE FUNCTION :schema.state(relation oid) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT pg_catalog.md5(pg_catalog.concat_ws(';', c.relnamespace, c.relname, :schema.shape(relation::regclass), (
        SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', t.tgname, t.tgtype, t.tgenabled, t.tgqual, t.tgoldtable,
            t.tgnewtable, p.proname, p.proowner, p.prosecdef, pg_catalog.md5(p.prosrc)), ',' ORDER BY t.tgname)
        FROM pg_catalog.pg_trigger AS t JOIN pg_catalog.pg_proc AS p ON p.oid OPERATOR(pg_catalog.=) t.tgfoid
        WHERE t.tgrelid OPERATOR(pg_catalog.=) relation
          AND p.pronamespace OPERATOR(pg_catalog.=) ':schema'::pg_catalog.regnamespace::pg_catalog.oid
    ), (
        -- Whether other row triggers run after a change decides how ours must run; see the planner of capture.
        SELECT pg_catalog.count(*) FROM pg_catalog.pg_trigger AS t JOIN pg_catalog.pg_proc AS p ON p.oid OPERATOR(pg_catalog.=) t.tgfoid
        WHERE t.tgrelid OPERATOR(pg_catalog.=) relation AND NOT t.tgisinternal
          AND p.pronamespace OPERATOR(pg_catalog.<>) ':schema'::pg_catalog.regnamespace::pg_catalog.oid
    ), (
        -- A SQL trigger that was disabled on a partition only.
        SELECT pg_catalog.count(*) FROM pg_catalog.pg_partition_tree(relation::pg_catalog.regclass) AS p
        JOIN pg_catalog.pg_trigger AS t ON t.tgrelid OPERATOR(pg_catalog.=) p.relid
        JOIN pg_catalog.pg_trigger AS ours ON ours.tgrelid OPERATOR(pg_catalog.=) relation
            AND ours.tgfoid OPERATOR(pg_catalog.=) t.tgfoid AND ours.tgenabled OPERATOR(pg_catalog.<>) t.tgenabled
        WHERE c.relkind OPERATOR(pg_catalog.=) 'p'
    ), c.relhassubclass, c.relispartition))
    FROM pg_catalog.pg_class AS c WHERE c.oid OPERATOR(pg_catalog.=) relation
$$;

REVOKE ALL ON ALL TABLES IN SCHEMA :schema FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA :schema FROM PUBLIC;
