-- Run by the controller before it drops segment :number although cursors need it: writes down what each of them loses.
-- Reads the whole segment. Of an EventTrigger that is delivered in partitions, what any of them needed is counted, whosever it is.
INSERT INTO :schema.lost (trigger_namespace, trigger_name, segment, events, first_id, last_id)
SELECT t.namespace, t.name, :number, count(DISTINCT e.id), min(e.id), max(e.id)
FROM :schema.event_:number AS e
JOIN :schema.segment AS s ON s.number = :number
CROSS JOIN LATERAL (
    SELECT (e.txid::text::bigint + CASE WHEN e.id <= s.before THEN s.before_base ELSE s.base END)::text::pg_catalog.xid8 AS place
) AS p
JOIN :schema.capture AS c ON c.id = e.capture
CROSS JOIN LATERAL pg_catalog.unnest(c.triggers) WITH ORDINALITY AS w (id, place)
JOIN :schema.trigger AS t ON t.id = w.id
JOIN :schema.cursor AS k ON k.trigger_id = t.id
WHERE pg_catalog.get_bit(e.matched, (w.place - 1)::integer) = 1
  AND NOT pg_catalog.pg_visible_in_snapshot(p.place, k.cut)
  AND NOT coalesce(pg_catalog.pg_visible_in_snapshot(p.place, k.target) AND e.id <= k.after, false) AND e.id <> ALL (k.done)
GROUP BY t.namespace, t.name
ON CONFLICT DO NOTHING
