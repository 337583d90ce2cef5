// Posts a job's payload with the fastest client that Node has.
const { Agent, request } = require("undici");

const dispatcher = new Agent({ connections: 64 });
const headers = { "content-type": "application/json" };

module.exports = async (payload) => {
  const body = JSON.stringify(payload);
  const response = await request(process.env.SINK_URL, { method: "POST", dispatcher, headers, body });
  await response.body.dump();
  if (response.statusCode >= 300) throw new Error(`status ${response.statusCode}`);
};
