-- One of the triggers: Hasura makes a function and a trigger for each operation. `:table` and `:op` are replaced by names,
-- `:old_row`, `:new_row`, `:old` and `:new` by what the operation has.
CREATE FUNCTION hdb_catalog.":table_:op"() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    before record;
    after record;
    data json;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        before := :old_row;
        after := :new_row;
    ELSE
        before := row((SELECT 1));
        after := row((SELECT 1));
    END IF;
    data := json_build_object('old', :old, 'new', :new);
    BEGIN
        IF TG_OP <> 'UPDATE' OR before <> after THEN
            PERFORM hdb_catalog.write_event(TG_TABLE_SCHEMA::text, TG_TABLE_NAME::text, 'bench', TG_OP, data);
        END IF;
    EXCEPTION WHEN undefined_function THEN
        IF TG_OP <> 'UPDATE' OR before *<> after THEN
            PERFORM hdb_catalog.write_event(TG_TABLE_SCHEMA::text, TG_TABLE_NAME::text, 'bench', TG_OP, data);
        END IF;
    END;
    RETURN NULL;
END
$$;
CREATE TRIGGER "notify_hasura_:table_:op" AFTER :op ON :table FOR EACH ROW EXECUTE FUNCTION hdb_catalog.":table_:op"();
