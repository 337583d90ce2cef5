"""Reads requests as JSON from standard input, and prints what libraries that are not ours make of them."""

import json
import sys

from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from standardwebhooks.webhooks import Webhook, WebhookVerificationError


def verified(secret, headers, body):
    try:
        Webhook(secret).verify(body, headers)
        return True
    except WebhookVerificationError as error:
        return str(error)


def parsed(headers, body):
    event = from_http_event(HTTPMessage(headers=headers, body=body.encode()))
    attributes = {name: str(value) for name, value in event.get_attributes().items()}
    return {"attributes": attributes, "data": event.get_data()}


def batch(headers, body):
    """The library knows no batches: by the JSON format they are arrays of what structured mode sends."""
    assert headers["content-type"] == "application/cloudevents-batch+json", headers
    structured = {"content-type": "application/cloudevents+json"}
    return [parsed(structured, json.dumps(event)) for event in json.loads(body)]


def documented(snippet, headers, body):
    """What a receiver does that was copied from the documentation."""
    names = {}
    exec(snippet, names)
    return names["receive"](headers, body)


question = json.load(sys.stdin)
answer = {"verified": verified, "parsed": parsed, "batch": batch, "documented": documented}[question.pop("ask")]
json.dump(answer(**question), sys.stdout)
