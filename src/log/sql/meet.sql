-- Run by a worker again and again while events wait that concern other partitions, too (arrays: $1 subscriptions, $2 events,
-- $3 their places in the log, $4 the other partitions as bits, $5 whether this partition sends the event): those that wait no more.
-- A partition is through with an event when its cursor is beyond it, and it is not parked there. Whoever sends it must wait only
-- until the others have come to it.
SELECT w.subscription, w.event_id
FROM unnest($1::int4[], $2::int8[], $3::xid8[], $4::int4[], $5::boolean[]) AS w (subscription, event_id, place, others, sends)
JOIN cursor AS mine ON mine.subscription = w.subscription
WHERE NOT EXISTS (
    SELECT FROM cursor AS c
    WHERE c.trigger_id = mine.trigger_id AND w.others >> c.partition & 1 = 1
      AND NOT (w.sends AND EXISTS (SELECT FROM arrival AS a WHERE a.subscription = c.subscription AND a.event_id = w.event_id))
      AND NOT ((pg_visible_in_snapshot(w.place, c.cut)
              OR coalesce(pg_visible_in_snapshot(w.place, c.target) AND w.event_id <= c.after, false) OR w.event_id = ANY (c.done))
          AND NOT EXISTS (SELECT FROM parked AS p
              WHERE p.subscription = c.subscription AND p.event_id = w.event_id AND p.meets IS NOT NULL))
)
