-- The least that capturing into a table can cost: a log of our row's shape without an index.
CREATE SEQUENCE event_id;
CREATE TABLE log (
    id bigint NOT NULL DEFAULT nextval('event_id'),
    txid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    capture integer NOT NULL,
    op "char" NOT NULL,
    matched varbit NOT NULL,
    old json,
    new json
);
CREATE FUNCTION capture() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO log (capture, op, matched, new) VALUES (1, 'I', B'1', row_to_json(NEW));
    RETURN NULL;
END
$$;
