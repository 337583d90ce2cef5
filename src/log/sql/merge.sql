-- Run by a worker, with the lease: one group becomes part of another (arrays of one: $1 subscription, $2 the group that ends, $3 the
-- one that goes on).
WITH merged AS (
    SELECT * FROM unnest($1::int4[], $2::int8[], $3::int8[]) AS m (subscription, ends, goes_on)
), moved AS (
    UPDATE parked AS p SET lane = m.goes_on FROM merged AS m WHERE p.subscription = m.subscription AND p.lane = m.ends
)
UPDATE parked_lane AS l SET root = m.goes_on FROM merged AS m WHERE l.subscription = m.subscription AND l.root = m.ends
