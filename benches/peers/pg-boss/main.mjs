// pg-boss with the largest batches that help it, fetched without a pause: puts jobs into its queue, or works them off
// until it is killed. A batch succeeds or fails as a whole, which is less than the others promise.
//
//   main.mjs fill <jobs>
//   main.mjs work
import { PgBoss } from "pg-boss";
import { Agent, request } from "undici";

const queue = "bench";
const step = 1000;
const [what, jobs] = process.argv.slice(2);

const boss = new PgBoss({ connectionString: process.env.DATABASE_URL, max: 10 });
boss.on("error", (error) => console.error(error.message));
await boss.start();

if (what === "fill") {
  await boss.createQueue(queue);
  const row = (n) => ({ key: 10_000 + (n % 10_000), at: 1_767_225_600_000_120, note: "x".repeat(62) });
  const data = (n) => ({ op: "UPDATE", table: { schema: "public", name: "item" }, old: row(n), new: row(n), txid: "12345" });
  for (let n = 0; n < Number(jobs); n += step) {
    await boss.insert(queue, Array.from({ length: step }, (_, i) => ({ data: data(n + i) })));
  }
  await boss.stop({ graceful: false });
  process.exit(0);
}

const dispatcher = new Agent({ connections: 64 });
const headers = { "content-type": "application/json" };
const post = async ({ data }) => {
  const body = JSON.stringify(data);
  const response = await request(process.env.SINK_URL, { method: "POST", dispatcher, headers, body });
  await response.body.dump();
  if (response.statusCode >= 300) throw new Error(`status ${response.statusCode}`);
};
const options = { batchSize: 1000, localConcurrency: 2, pollingIntervalSeconds: 0.5, burstWhenBatchFull: true };
await boss.work(queue, options, (batch) => Promise.all(batch.map(post)));
