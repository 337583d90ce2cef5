-- Run by a worker, for slots of which nothing is under way any more (arrays: $1 slots, $2 epochs; $3 its pool).
UPDATE lease AS l SET worker = 0, holder = '', until = '-infinity'
FROM unnest($1::int4[], $2::int8[]) AS g (slot, epoch) WHERE l.pool = $3::int4 AND l.slot = g.slot AND l.epoch = g.epoch
