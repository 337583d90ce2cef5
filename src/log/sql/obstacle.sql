-- Run by a worker, with the lease: what keeps events from their sinks (arrays: $1 subscriptions, $2 reasons, $3 messages, $4 the
-- annotation that resumes). Without a reason: nothing does any more. Since when stays while the reason does.
WITH now AS (
    SELECT o.* FROM unnest($1::int4[], $2::text[], $3::text[], $4::text[]) AS o (subscription, reason, message, resume)
    JOIN cursor AS c ON c.subscription = o.subscription
), gone AS (
    DELETE FROM obstacle AS o USING now WHERE o.subscription = now.subscription AND now.reason IS NULL
)
INSERT INTO obstacle AS o (subscription, reason, message, resume)
SELECT subscription, reason, message, resume FROM now WHERE reason IS NOT NULL
ON CONFLICT (subscription) DO UPDATE SET reason = excluded.reason, message = excluded.message, resume = excluded.resume,
    since = CASE WHEN o.reason = excluded.reason THEN o.since ELSE excluded.since END
