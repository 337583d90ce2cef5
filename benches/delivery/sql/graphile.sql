-- Jobs for graphile-worker, by its own function; `:jobs` is replaced by a number. The payload has 300 bytes as text.
SELECT count(*)
FROM generate_series(0, :jobs - 1, 1000) AS first
CROSS JOIN LATERAL graphile_worker.add_jobs(ARRAY(
    SELECT ROW(
        'post',
        json_build_object(
            'op', 'UPDATE',
            'table', json_build_object('schema', 'public', 'name', 'item'),
            'old', json_build_object('key', 10000 + n % 10000, 'at', 1767225600000120, 'note', repeat('x', 62)),
            'new', json_build_object('key', 10000 + n % 10000, 'at', 1767225600000120, 'note', repeat('x', 62)),
            'txid', '12345'
        ),
        NULL, NULL, NULL, NULL, NULL, NULL
    )::graphile_worker.job_spec
    FROM generate_series(first, least(first + 1000, :jobs) - 1) AS n
));
