-- Run by the controller every few seconds: EventTriggers of which something is not delivered, and why, as the workers wrote it
-- down. A look into an index for each trigger, however much is parked or dead. Nearly every retry parks an event for a moment:
-- only one that has failed for a minute is worth a word. So is a trigger that is held, for workers with its Secrets are on their
-- way when it is new. `:schema` is replaced by the quoted name.
SELECT * FROM (
    SELECT t.namespace, t.name, o.reason, o.message, o.since,
        EXISTS (SELECT FROM :schema.dead_letter AS d WHERE d.trigger_namespace = t.namespace AND d.trigger_name = t.name) AS dead,
        EXISTS (
            SELECT FROM :schema.cursor AS c CROSS JOIN LATERAL (
                SELECT p.first_at FROM :schema.parked AS p WHERE p.subscription = c.subscription ORDER BY p.seq LIMIT 1
            ) AS p
            WHERE c.trigger_id = t.id AND p.first_at < pg_catalog.now() - interval '1 minute'
        ) AS parked,
        -- The one whose turn is next: whether it has waited for a minute.
        coalesce((
            SELECT d.at < pg_catalog.now() - interval '1 minute' FROM :schema.dead_letter AS d
            WHERE d.trigger_namespace = t.namespace AND d.trigger_name = t.name AND d.forward IS NOT NULL
                AND t.definition #>> '{dead_letter_sink,sink,url}' IS NOT NULL
            ORDER BY d.forward_at LIMIT 1
        ), false) AS unforwarded
    FROM :schema.trigger AS t LEFT JOIN LATERAL (
        SELECT o.* FROM :schema.cursor AS c JOIN :schema.obstacle AS o ON o.subscription = c.subscription
        WHERE c.trigger_id = t.id AND (o.reason <> 'DeliveryHeld' OR o.since < pg_catalog.now() - interval '30 seconds')
        ORDER BY o.since LIMIT 1
    ) AS o ON true
) AS h WHERE h.reason IS NOT NULL OR h.dead OR h.parked
