-- Run by a worker, with the lease: parked events failed again (arrays: $1 subscriptions, $2 seq, $3 attempts, $4 status, $5 errors,
-- $6 responses).
UPDATE parked AS p SET attempts = f.attempts, first_at = coalesce(p.first_at, now()), last_at = now(), status = f.status,
    error = f.error, response = f.response
FROM unnest($1::int4[], $2::int8[], $3::int4[], $4::int4[], $5::text[], $6::text[])
    AS f (subscription, seq, attempts, status, error, response)
WHERE p.subscription = f.subscription AND p.seq = f.seq
