-- Run by a worker up to a hundred times a second: what it sees now, and whether a definition changed.
SELECT pg_current_snapshot()::text, definitions, base FROM meta
