-- What the delivery benchmark's databases are filled by. Run by the benchmark's superuser, once in each.

-- The time in a row, in µs since 1970, is the moment at which the statement came to the row: before the commit.
CREATE FUNCTION microseconds() RETURNS bigint LANGUAGE sql VOLATILE
    RETURN (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;

-- A table of keyed rows, of which an UPDATE makes a body of 300 bytes. No values of unlimited length, as most tables.
CREATE PROCEDURE make_table(name text, keys int) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE TABLE %I (key int PRIMARY KEY, at bigint NOT NULL, note varchar(100) NOT NULL)', name);
    EXECUTE format('INSERT INTO %I SELECT 10000 + n, microseconds(), repeat(''x'', 62) FROM generate_series(0, $1 - 1) AS n', name)
        USING keys;
END
$$;

-- So many events: sweeps over the keys, in transactions of `step`.
CREATE PROCEDURE fill(name text, keys int, events int, step int) LANGUAGE plpgsql AS $$
BEGIN
    FOR n IN 0 .. events / step - 1 LOOP
        EXECUTE format('UPDATE %I SET at = microseconds() WHERE key BETWEEN $1 AND $2', name)
            USING 10000 + n * step % keys, 10000 + n * step % keys + step - 1;
        COMMIT;
    END LOOP;
END
$$;

-- A table in which thousands of events of one key come about in one statement: the key is only looked at when the
-- transaction ends.
CREATE PROCEDURE make_churn() LANGUAGE sql AS $$
    CREATE TABLE churn (
        key int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, at bigint NOT NULL, note varchar(200) NOT NULL
    )
$$;

-- So many events of one key: as many rows come as go, in transactions of 2 * `step` events.
CREATE PROCEDURE churn(key int, events int, step int) LANGUAGE plpgsql AS $$
BEGIN
    FOR n IN 1 .. events / step / 2 LOOP
        INSERT INTO churn SELECT key, microseconds(), repeat('x', 150) FROM generate_series(1, step);
        DELETE FROM churn;
        COMMIT;
    END LOOP;
END
$$;

-- An event of each of so many keys after `key`.
CREATE PROCEDURE insert_others(key int, events int) LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO churn SELECT key + n, microseconds(), repeat('x', 150) FROM generate_series(1, events) AS n;
END
$$;
