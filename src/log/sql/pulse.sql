-- Run by a worker up to a hundred times a second: what it sees now, whether a definition changed, and whether it may still do so.
SELECT pg_current_snapshot()::text, definitions, base, compatible FROM meta
