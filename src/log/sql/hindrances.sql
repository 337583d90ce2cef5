-- Run by the controller every few seconds: EventTriggers of which something is not delivered, and why, as the workers wrote it
-- down. A look into an index for each trigger, however much is parked or dead. Nearly every retry parks an event for a moment:
-- only one that has failed for a minute is worth a word. So is a trigger that is held, for workers with its Secrets are on their
-- way when it is new. `:schema` is replaced by the quoted name.
SELECT * FROM (
    SELECT t.namespace, t.name, o.reason, o.message, o.since,
        EXISTS (SELECT FROM :schema.dead_letter AS d WHERE d.trigger_namespace = t.namespace AND d.trigger_name = t.name) AS dead,
        coalesce((
            SELECT p.first_at < pg_catalog.now() - interval '1 minute' FROM :schema.parked AS p
            WHERE p.trigger_id = t.id ORDER BY p.seq LIMIT 1
        ), false) AS parked
    FROM :schema.trigger AS t LEFT JOIN :schema.obstacle AS o ON o.trigger_id = t.id
        AND (o.reason <> 'DeliveryHeld' OR o.since < pg_catalog.now() - interval '30 seconds')
) AS h WHERE h.reason IS NOT NULL OR h.dead OR h.parked
