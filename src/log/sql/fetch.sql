-- Run by a worker for the first events of a group that is due ($1 subscription, $2 group, $3 how many, $4 bytes of all together; the
-- first also if it has more). What is not compressed is measured without being read.
SELECT seq, attempts, event_id, txid, event_at, capture, op, old::text, new::text, context::text, meets
FROM (
    SELECT *, sum(bytes) OVER (ORDER BY seq ROWS UNBOUNDED PRECEDING) AS upto, row_number() OVER (ORDER BY seq) AS place
    FROM (
        SELECT *,
            coalesce(CASE WHEN pg_column_compression(old) IS NULL THEN pg_column_size(old) ELSE octet_length(old::text) END, 0)
            + coalesce(CASE WHEN pg_column_compression(new) IS NULL THEN pg_column_size(new) ELSE octet_length(new::text) END, 0)
            + coalesce(pg_column_size(context), 0) AS bytes
        FROM parked WHERE subscription = $1 AND lane = $2 ORDER BY seq LIMIT $3
    ) AS first
) AS w WHERE upto <= $4::int8 OR place = 1 ORDER BY seq
