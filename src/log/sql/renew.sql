-- Run by the worker that holds the lease. The server's clock decides, so that workers' clocks do not matter.
UPDATE lease SET until = clock_timestamp() + make_interval(secs => $2::float8) WHERE name = 'delivery' AND epoch = $1
