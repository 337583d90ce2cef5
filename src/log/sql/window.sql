-- Run by a worker for each page: what the cut $4 has and the older cut has not, in order of id, beyond id $5, at most $6.
-- From $1 to $2 whatever the newer cut has; below $1 the transactions $3, which were in progress in the older cut. Both
-- parts are ranges of the one index, whatever the size of the log. Takes no lock but that of reading.
SELECT * FROM (
    SELECT id, txid, at, capture, op, matched, old, new, context FROM event
    WHERE txid >= $1::text::xid8 AND txid < $2::text::xid8 AND pg_visible_in_snapshot(txid, $4::text::pg_snapshot) AND id > $5
    UNION ALL
    SELECT id, txid, at, capture, op, matched, old, new, context FROM event WHERE txid = ANY ($3::text[]::xid8[]) AND id > $5
) AS w
ORDER BY id LIMIT $6
