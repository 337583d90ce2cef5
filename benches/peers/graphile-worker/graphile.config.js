// The settings that graphile-worker's own documentation recommends for throughput: jobs are fetched 500 at a time, and
// completed in batches.
module.exports = {
  worker: {
    connectionString: process.env.DATABASE_URL,
    concurrentJobs: 24,
    maxPoolSize: 25,
    taskDirectory: "./tasks",
    fileExtensions: [".js"],
    localQueue: { size: 500, refetchDelay: { durationMs: 10 } },
    completeJobBatchDelay: 0,
    failJobBatchDelay: 0,
  },
};
