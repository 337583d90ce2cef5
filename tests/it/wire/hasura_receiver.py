"""A receiver for Hasura's event triggers, as its users have them: knows only what Hasura's documentation says."""

import json
import sys
from datetime import datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from uuid import UUID


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.headers["Content-Type"] == "application/json"
        assert self.headers["User-Agent"].startswith("hasura-graphql-engine/")
        event, table, delivery = payload["event"], payload["table"], payload["delivery_info"]
        created = datetime.strptime(payload["created_at"], "%Y-%m-%dT%H:%M:%S.%f")
        assert abs((datetime.utcnow() - created).total_seconds()) < 60, created
        seen = {
            "id": str(UUID(payload["id"])),
            "trigger": payload["trigger"]["name"],
            "table": f'{table["schema"]}.{table["name"]}',
            "op": event["op"],
            "old": event["data"]["old"],
            "new": event["data"]["new"],
            "role": (event["session_variables"] or {}).get("x-hasura-role"),
            "trace": (event["trace_context"] or {}).get("trace_id"),
            "retry": [delivery["current_retry"], delivery["max_retries"]],
        }
        # Everything fails once.
        self.send_response(500 if delivery["current_retry"] == 0 else 200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b"{}")
        print(json.dumps(seen), flush=True)

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
