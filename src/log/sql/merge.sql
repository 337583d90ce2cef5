-- Run by a worker, with the lease: one group becomes part of another (arrays of one: $1 trigger, $2 the group that ends, $3 the
-- one that goes on).
WITH merged AS (
    SELECT * FROM unnest($1::int4[], $2::int8[], $3::int8[]) AS m (trigger_id, ends, goes_on)
), moved AS (
    UPDATE parked AS p SET lane = m.goes_on FROM merged AS m WHERE p.trigger_id = m.trigger_id AND p.lane = m.ends
)
UPDATE parked_lane AS l SET root = m.goes_on FROM merged AS m WHERE l.trigger_id = m.trigger_id AND l.root = m.ends
