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

-- Parts of the log: event_<number>. Capture fills the newest; an old one is dropped whole.
CREATE TABLE :schema.segment (
    number integer PRIMARY KEY,
    base bigint NOT NULL,
    opened_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    closed_at timestamptz,
    writers text[],
    upto bigint,
    before bigint NOT NULL DEFAULT 0,
    before_base bigint NOT NULL DEFAULT 0,
    before_upto bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE :schema.segment IS 'eventtrigger: parts of the log, each in a table event_<number>';
COMMENT ON COLUMN :schema.segment.base IS 'added to a txid of this segment gives its place in the log, also when the log has moved to another server';
COMMENT ON COLUMN :schema.segment.closed_at IS 'since when no function fills it';
COMMENT ON COLUMN :schema.segment.writers IS 'virtual transactions that ran at that moment, and may still run a function that did';
COMMENT ON COLUMN :schema.segment.upto IS 'above the place of each of its transactions; null as long as there may come more';
COMMENT ON COLUMN :schema.segment.before IS 'events up to this id came with a copy from another server; before_base and before_upto are theirs';

-- Makes a segment; capture fills it once its functions say so. Who may read the log may read it.
CREATE FUNCTION :schema.add_segment() RETURNS integer LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    added integer;
    reader record;
BEGIN
    INSERT INTO :schema.segment (number, base)
    SELECT coalesce(max(s.number), 0) + 1, coalesce((SELECT base FROM :schema.meta), 0) FROM :schema.segment AS s
    RETURNING number INTO added;
    -- Autovacuum has nothing to do in a table that is only appended to, except freezing, which it does all the same.
    EXECUTE format('CREATE TABLE :schema.event_%s () INHERITS (:schema.event) WITH (autovacuum_enabled = off)', added);
    -- The one index: a reader asks for a range of transactions.
    EXECUTE format('CREATE INDEX event_%s_txid ON :schema.event_%s (txid)', added, added);
    EXECUTE format('REVOKE ALL ON :schema.event_%s FROM PUBLIC', added);
    FOR reader IN
        SELECT r.rolname FROM pg_class AS c CROSS JOIN LATERAL aclexplode(c.relacl) AS a JOIN pg_roles AS r ON r.oid = a.grantee
        WHERE c.oid = ':schema.event'::regclass AND a.privilege_type = 'SELECT' AND a.grantee <> c.relowner
    LOOP
        EXECUTE format('GRANT SELECT ON :schema.event_%s TO %I', added, reader.rolname);
    END LOOP;
    RETURN added;
END
$$;

-- Exactly one row: what this log is, and whose.
CREATE TABLE :schema.meta (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    version integer NOT NULL,
    compatible integer NOT NULL,
    log_id uuid NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
    owner_uid text NOT NULL,
    owner_namespace text NOT NULL,
    owner_name text NOT NULL,
    released boolean NOT NULL DEFAULT false,
    system_identifier bigint NOT NULL,
    timeline integer NOT NULL,
    base bigint NOT NULL DEFAULT 0,
    definitions bigint NOT NULL DEFAULT 0
);
COMMENT ON COLUMN :schema.meta.compatible IS 'controllers and workers that know versions from this one on can use the log';
COMMENT ON COLUMN :schema.meta.log_id IS 'first half of every event''s id';
COMMENT ON COLUMN :schema.meta.owner_uid IS 'UID of the EventLog; a controller or worker of another one stops here';
COMMENT ON COLUMN :schema.meta.released IS 'the EventLog was deleted with reclaimPolicy Retain; one of the same name takes over';
COMMENT ON COLUMN :schema.meta.timeline IS 'of the server when it was last opened; a promoted standby has a higher one';
COMMENT ON COLUMN :schema.meta.base IS 'added to a txid of this server gives its place in the log';
COMMENT ON COLUMN :schema.meta.definitions IS 'counts every change of a definition or of the segments; workers look at it';

-- The timeline that the server writes now; pg_control_checkpoint() tells of a promotion only after the next checkpoint.
CREATE FUNCTION :schema.timeline() RETURNS integer LANGUAGE sql STABLE AS $$
    SELECT ('x' OPERATOR(pg_catalog.||) pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8))::bit(32)::integer
$$;

-- This moment, as a cut of the log.
CREATE FUNCTION :schema.here() RETURNS pg_snapshot LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN m.base OPERATOR(pg_catalog.=) 0 THEN s.now ELSE pg_catalog.concat_ws(':',
        m.base OPERATOR(pg_catalog.+) pg_catalog.pg_snapshot_xmin(s.now)::text::bigint,
        m.base OPERATOR(pg_catalog.+) pg_catalog.pg_snapshot_xmax(s.now)::text::bigint,
        (SELECT coalesce(pg_catalog.string_agg((m.base OPERATOR(pg_catalog.+) x::text::bigint)::text, ',' ORDER BY x), '')
         FROM pg_catalog.pg_snapshot_xip(s.now) AS x))::pg_snapshot END
    FROM :schema.meta AS m, (SELECT pg_catalog.pg_current_snapshot() AS now) AS s
$$;

-- EventTriggers, resolved. Never a secret's value.
CREATE TABLE :schema.trigger (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    uid text NOT NULL,
    namespace text NOT NULL,
    name text NOT NULL,
    table_schema text NOT NULL,
    table_name text NOT NULL,
    definition json NOT NULL,
    pool integer NOT NULL GENERATED ALWAYS AS (CASE WHEN definition ->> 'own_workers' IS NULL THEN 0 ELSE id END) STORED,
    UNIQUE (namespace, name)
);
COMMENT ON TABLE :schema.trigger IS 'eventtrigger: the EventTriggers of this log, as delivery obeys them';
COMMENT ON COLUMN :schema.trigger.pool IS 'the workers that are to deliver it: 0, those of the log, or its id, workers of its own; those that do, says "cursor"';

-- Versions of each table's capture; old ones stay, because rows of the log refer to them.
CREATE TABLE :schema.capture (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation oid NOT NULL,
    table_schema text NOT NULL,
    table_name text NOT NULL,
    key text[] NOT NULL,
    triggers integer[] NOT NULL,
    names text[] NOT NULL,
    sql_triggers text[] NOT NULL,
    plan text NOT NULL,
    segment integer NOT NULL,
    state text NOT NULL DEFAULT '',
    retired boolean NOT NULL DEFAULT false
);
COMMENT ON COLUMN :schema.capture.triggers IS 'trigger.id by position of the bit in event.matched';
COMMENT ON COLUMN :schema.capture.names IS 'those triggers'' namespaces and names, which stay when a trigger is gone';
COMMENT ON COLUMN :schema.capture.plan IS 'what was asked for, as JSON: its functions are made of it';
COMMENT ON COLUMN :schema.capture.segment IS 'the segment that its functions fill';
COMMENT ON COLUMN :schema.capture.state IS 'fingerprint of what the catalog held after installing; drift is a difference to it';
CREATE UNIQUE INDEX capture_current ON :schema.capture (relation) WHERE NOT retired;

-- Numbers what is delivered by itself: an EventTrigger, or one partition of it. Given one after another, so that slots fill evenly.
CREATE SEQUENCE :schema.subscription AS integer;

-- How far delivery has come. One update for a batch; half-empty pages keep those updates in place.
CREATE TABLE :schema.cursor (
    subscription integer PRIMARY KEY DEFAULT pg_catalog.nextval(':schema.subscription'::pg_catalog.regclass),
    trigger_id integer NOT NULL REFERENCES :schema.trigger ON DELETE CASCADE,
    partition integer NOT NULL DEFAULT 0,
    pool integer NOT NULL DEFAULT 0,
    cut pg_snapshot NOT NULL,
    target pg_snapshot,
    after bigint NOT NULL DEFAULT 0,
    done bigint[] NOT NULL DEFAULT '{}',
    UNIQUE (trigger_id, partition)
) WITH (fillfactor = 50);
COMMENT ON TABLE :schema.cursor IS 'eventtrigger: how far each EventTrigger is delivered, or each partition of it';
COMMENT ON COLUMN :schema.cursor.partition IS 'from 0; how many there are, says "spread"';
COMMENT ON COLUMN :schema.cursor.pool IS 'the workers that deliver it; only who holds the slot there moves it to others, or nobody does, and they fetch it';
COMMENT ON COLUMN :schema.cursor.cut IS 'everything in this snapshot is done';
COMMENT ON COLUMN :schema.cursor.target IS 'end of the window under way; of it, what is at or below "after" is done; so is whatever is in "done"';

-- EventTriggers that are delivered in several partitions: how their events are divided now, which a change of the definition
-- makes another only at a cut that all partitions have come to.
CREATE TABLE :schema.spread (
    trigger_id integer PRIMARY KEY REFERENCES :schema.trigger ON DELETE CASCADE,
    partitions integer NOT NULL,
    ordering json NOT NULL,
    upto bigint
);
COMMENT ON TABLE :schema.spread IS 'eventtrigger: EventTriggers whose events are divided by key over several partitions';
COMMENT ON COLUMN :schema.spread.ordering IS 'what the keys are';
COMMENT ON COLUMN :schema.spread.upto IS 'the last cut before they are divided otherwise';

-- Where windows of those EventTriggers begin and end: the same for all partitions of one, so that all have the same order.
CREATE TABLE :schema.cut (
    trigger_id integer NOT NULL REFERENCES :schema.spread ON DELETE CASCADE,
    number bigint NOT NULL,
    cut pg_snapshot NOT NULL,
    PRIMARY KEY (trigger_id, number)
);
COMMENT ON TABLE :schema.cut IS 'eventtrigger: cuts of the log that the partitions of an EventTrigger have agreed on';

-- Events that another partition is about to send, and that concern this one, too, which has come to them: all that is before
-- such an event is done, and what is after it waits.
CREATE TABLE :schema.arrival (
    subscription integer NOT NULL REFERENCES :schema.cursor ON DELETE CASCADE,
    event_id bigint NOT NULL,
    PRIMARY KEY (subscription, event_id)
);
COMMENT ON TABLE :schema.arrival IS 'eventtrigger: partitions that wait for an event that another one sends, such as an update that changes the key';

-- Divides the events of an EventTrigger as its definition says, from a cut on: of the window after it, if there is one, what is
-- "done" is not delivered again. Run by the controller for a new EventTrigger, and by a worker when all is done up to that cut
-- and the number of partitions is to be another.
CREATE FUNCTION :schema.divide(trigger integer, cut pg_snapshot, target pg_snapshot, after bigint, done bigint[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    wanted integer;
    ordered json;
    workers integer;
BEGIN
    SELECT coalesce((t.definition ->> 'partitions')::integer, 1), coalesce(t.definition -> 'ordering', '"PrimaryKey"'),
        -- Those that deliver it now; from there it is moved on.
        coalesce((SELECT max(c.pool) FROM :schema.cursor AS c WHERE c.trigger_id = t.id), t.pool)
    INTO STRICT wanted, ordered, workers FROM :schema.trigger AS t WHERE t.id = divide.trigger;
    DELETE FROM :schema.spread AS s WHERE s.trigger_id = divide.trigger;
    DELETE FROM :schema.cursor AS c WHERE c.trigger_id = divide.trigger;
    IF wanted > 1 THEN
        INSERT INTO :schema.spread (trigger_id, partitions, ordering) VALUES (divide.trigger, wanted, ordered);
        INSERT INTO :schema.cut (trigger_id, number, cut) VALUES (divide.trigger, 0, divide.cut);
        INSERT INTO :schema.cut (trigger_id, number, cut) SELECT divide.trigger, 1, divide.target WHERE divide.target IS NOT NULL;
    END IF;
    INSERT INTO :schema.cursor (trigger_id, partition, pool, cut, target, after, done)
    SELECT divide.trigger, p, workers, divide.cut, divide.target, divide.after, divide.done FROM generate_series(0, wanted - 1) AS p;
END
$$;
COMMENT ON FUNCTION :schema.divide IS 'eventtrigger: divides the events of an EventTrigger into partitions; run by its controller and workers';

-- Workers that deliver. A row lasts until its worker leaves, or another one finds that its session is gone.
CREATE TABLE :schema.worker (
    number integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pool integer NOT NULL DEFAULT 0,
    name text NOT NULL,
    seen timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
COMMENT ON TABLE :schema.worker IS 'eventtrigger: delivery workers; those of a pool that live share its slots';
COMMENT ON COLUMN :schema.worker.pool IS '0: they deliver all EventTriggers that have no workers of their own; otherwise trigger.id of the one that they deliver';
COMMENT ON COLUMN :schema.worker.seen IS 'when it last said that it lives';

-- Who delivers what: an EventTrigger, or a partition of it, belongs to the slot "subscription modulo 16" of its pool. The epoch
-- rises with each holder and fences the ones before.
CREATE TABLE :schema.lease (
    pool integer NOT NULL DEFAULT 0,
    slot integer NOT NULL,
    epoch bigint NOT NULL DEFAULT 0,
    worker integer NOT NULL DEFAULT 0,
    holder text NOT NULL DEFAULT '',
    until timestamptz NOT NULL DEFAULT '-infinity',
    PRIMARY KEY (pool, slot)
) WITH (fillfactor = 50);
COMMENT ON TABLE :schema.lease IS 'eventtrigger: which worker delivers which slot: what of cursor.pool is that pool, and of cursor.subscription modulo 16 that slot';
COMMENT ON COLUMN :schema.lease.pool IS '0, or trigger.id of an EventTrigger that has, or had, workers of its own';
COMMENT ON COLUMN :schema.lease.holder IS 'the worker''s name, for people';
INSERT INTO :schema.lease (slot) SELECT * FROM pg_catalog.generate_series(0, 15);

-- Events that wait because one of their key, or of a key that is tied to it, has failed. The cursor is beyond them: they are
-- copied here, so that the log may move on and go. Only what failed, and what must come after it, is ever written here.
CREATE TABLE :schema.parked (
    subscription integer NOT NULL REFERENCES :schema.cursor ON DELETE CASCADE,
    seq bigint NOT NULL,
    lane bigint NOT NULL,
    event_id bigint NOT NULL,
    txid pg_catalog.xid8 NOT NULL,
    event_at timestamptz NOT NULL,
    capture integer NOT NULL,
    op "char" NOT NULL,
    old json,
    new json,
    context json,
    attempts integer NOT NULL DEFAULT 0,
    first_at timestamptz,
    last_at timestamptz,
    status integer,
    error text,
    response text,
    meets pg_catalog.xid8,
    PRIMARY KEY (subscription, seq)
);
CREATE INDEX parked_meets ON :schema.parked (subscription, event_id) WHERE meets IS NOT NULL;
CREATE INDEX parked_order ON :schema.parked (subscription, lane, seq);
COMMENT ON TABLE :schema.parked IS 'eventtrigger: events that wait for a retry, and those of the same key behind them, in order of seq';
COMMENT ON COLUMN :schema.parked.lane IS 'the group of keys, by hash, that it waits in';
COMMENT ON COLUMN :schema.parked.attempts IS 'how often it was sent; 0 if it only waits for another';
COMMENT ON COLUMN :schema.parked.meets IS 'its place in the log, if it concerns another partition, too, and waits until that one has come to it, or has sent it';

-- Keys of which something is parked. A key that is tied to another by an event of both waits in that one's group.
CREATE TABLE :schema.parked_lane (
    subscription integer NOT NULL REFERENCES :schema.cursor ON DELETE CASCADE,
    lane bigint NOT NULL,
    root bigint NOT NULL,
    due timestamptz NOT NULL DEFAULT pg_catalog.now(),
    PRIMARY KEY (subscription, lane)
);
COMMENT ON COLUMN :schema.parked_lane.root IS 'the group, named by one of its keys';
COMMENT ON COLUMN :schema.parked_lane.due IS 'of a group: when its first event is tried again';

-- What an EventTrigger's sink keeps its events from, as the workers found it; no row while events flow.
CREATE TABLE :schema.obstacle (
    subscription integer PRIMARY KEY REFERENCES :schema.cursor ON DELETE CASCADE,
    reason text NOT NULL,
    message text NOT NULL,
    resume text,
    since timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE :schema.obstacle IS 'eventtrigger: sinks that take no events: why, and since when';
COMMENT ON COLUMN :schema.obstacle.resume IS 'the annotation eventtrigger.dev/resume when the sink said that it is gone; another value resumes it';

-- Events given up: after the last retry, or refused for good.
CREATE TABLE :schema.dead_letter (
    trigger_namespace text NOT NULL,
    trigger_name text NOT NULL,
    event_id bigint NOT NULL,
    seq bigint NOT NULL,
    lanes bigint[] NOT NULL,
    txid pg_catalog.xid8 NOT NULL,
    event_at timestamptz NOT NULL,
    capture integer NOT NULL,
    op "char" NOT NULL,
    old json,
    new json,
    context json,
    attempts integer NOT NULL,
    first_at timestamptz NOT NULL,
    at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    status integer,
    error text NOT NULL,
    response text,
    redrive boolean NOT NULL DEFAULT false,
    forward text,
    forward_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    PRIMARY KEY (trigger_namespace, trigger_name, event_id)
);
CREATE INDEX dead_letter_redrive ON :schema.dead_letter (trigger_namespace, trigger_name, seq) WHERE redrive;
CREATE INDEX dead_letter_forward ON :schema.dead_letter (trigger_namespace, trigger_name, forward_at) WHERE forward IS NOT NULL;
CREATE INDEX dead_letter_age ON :schema.dead_letter (at);
COMMENT ON TABLE :schema.dead_letter IS 'eventtrigger: events that were given up, with what was to be sent';
COMMENT ON COLUMN :schema.dead_letter.first_at IS 'the first attempt that failed; "at" is the last';
COMMENT ON COLUMN :schema.dead_letter.response IS 'the beginning of the last response''s body';
COMMENT ON COLUMN :schema.dead_letter.redrive IS 'it is to be delivered again, see redrive(); it leaves this table when a worker takes it';
COMMENT ON COLUMN :schema.dead_letter.forward IS 'the sink that did not take it, until the dead letter sink has it';
COMMENT ON COLUMN :schema.dead_letter.forward_at IS 'when it is sent to the dead letter sink, again';

-- Delivers dead letters of an EventTrigger again, in their order, and in order with whatever else waits of their key: all, or
-- those that every argument given fits: redrive('shop', 'paid', event => 42), redrive('shop', 'paid',
-- since => now() - interval '1 day', status => 503). Returns how many.
CREATE FUNCTION :schema.redrive(trigger_namespace text, trigger_name text, event bigint DEFAULT NULL,
    since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL, status integer DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    marked bigint;
BEGIN
    IF NOT EXISTS (SELECT FROM :schema.trigger AS t WHERE t.namespace = redrive.trigger_namespace AND t.name = redrive.trigger_name) THEN
        RAISE EXCEPTION 'there is no EventTrigger %/%', trigger_namespace, trigger_name
            USING HINT = 'its dead letters can be redriven once it is there again', ERRCODE = 'no_data_found';
    END IF;
    UPDATE :schema.dead_letter AS d SET redrive = true
    WHERE d.trigger_namespace = redrive.trigger_namespace AND d.trigger_name = redrive.trigger_name AND NOT d.redrive
      AND (event IS NULL OR d.event_id = event) AND (since IS NULL OR d.at >= since) AND (until IS NULL OR d.at < until)
      AND (redrive.status IS NULL OR d.status = redrive.status);
    GET DIAGNOSTICS marked = ROW_COUNT;
    -- Workers look at it.
    IF marked > 0 THEN
        UPDATE :schema.meta SET definitions = definitions + 1;
    END IF;
    RETURN marked;
END
$$;
COMMENT ON FUNCTION :schema.redrive IS 'eventtrigger: delivers dead letters of an EventTrigger again, all or some';

-- Events that were dropped before a trigger had them, because retention.maxHeldSize said so.
CREATE TABLE :schema.lost (
    trigger_namespace text NOT NULL,
    trigger_name text NOT NULL,
    segment integer NOT NULL,
    events bigint NOT NULL,
    first_id bigint NOT NULL,
    last_id bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    PRIMARY KEY (trigger_namespace, trigger_name, segment)
);
COMMENT ON TABLE :schema.lost IS 'eventtrigger: events that were dropped undelivered, because the log had grown beyond retention.maxHeldSize';

-- The log for people: one line for one change. Stable: columns may be added at its end, none goes or changes its meaning.
CREATE VIEW :schema.events AS
SELECT e.id, e.at AS "time", e.txid,
    CASE e.op WHEN 'I' THEN 'INSERT' WHEN 'U' THEN 'UPDATE' WHEN 'D' THEN 'DELETE' ELSE 'TRUNCATE' END AS op,
    c.table_schema, c.table_name,
    (SELECT pg_catalog.json_object_agg(k.name, coalesce(e.new, e.old) -> k.name ORDER BY k.place)
     FROM pg_catalog.unnest(c.key) WITH ORDINALITY AS k (name, place)) AS key,
    e.old, e.new, e.context AS actor,
    ARRAY(SELECT t.name FROM pg_catalog.unnest(c.names) WITH ORDINALITY AS t (name, place)
          WHERE pg_catalog.get_bit(e.matched, (t.place - 1)::integer) = 1) AS triggers
FROM :schema.event AS e JOIN :schema.capture AS c ON c.id = e.capture;
COMMENT ON VIEW :schema.events IS 'eventtrigger: the audit trail: who changed which row when, and which EventTriggers wanted it';
COMMENT ON COLUMN :schema.events.key IS 'the primary key''s columns; null for a table without one';
COMMENT ON COLUMN :schema.events.actor IS 'who made the change, as far as an EventTrigger of the table asks';
COMMENT ON COLUMN :schema.events.triggers IS 'namespace/name of each EventTrigger that the event is for';

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

-- How a capture function of a statement learns, at next to no cost while there is none, that it has met a row that may be too
-- long: its INSERT leaves the row to a second one and notes that here, for the moment between both. `true`: until the
-- transaction ends, at the latest. SECURITY DEFINER only because PostgreSQL then looks a function's language up when it is
-- called first, and not whenever a statement that might call it begins.
CREATE FUNCTION :schema.put_off() RETURNS boolean LANGUAGE plpgsql VOLATILE SECURITY DEFINER AS $$
BEGIN
    PERFORM pg_catalog.set_config('eventtrigger.put_off', 'yes', true);
    RETURN false;
END
$$;
CREATE FUNCTION :schema.were_put_off() RETURNS boolean LANGUAGE sql VOLATILE AS $$
    SELECT CASE WHEN pg_catalog.current_setting('eventtrigger.put_off', true) OPERATOR(pg_catalog.=) 'yes'
        THEN pg_catalog.set_config('eventtrigger.put_off', 'no', true) IS NOT NULL END
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

SELECT :schema.add_segment();
