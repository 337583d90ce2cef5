-- What every contender's database holds: rows to write, the table that they are written to, and nothing yet in it.
-- `:rows` is replaced by a number.
CREATE TABLE source AS
    SELECT n::bigint AS id, (n % 1000)::int AS customer, 'new'::text AS status, (n * 1.37)::numeric(12, 2) AS total,
        'EUR'::text AS currency, 'order number ' || n || ' from the shop' AS note,
        timestamptz '2026-01-01' + n * interval '1 second' AS created, n % 2 = 0 AS paid
    FROM generate_series(1, :rows) AS n;
CREATE TABLE orders (LIKE source, PRIMARY KEY (id));
CREATE SEQUENCE number;
