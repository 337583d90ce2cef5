//! An event as Hasura's event triggers send it, for receivers that were written for them. Pure.
//!
//! Source: <https://hasura.io/docs/2.0/event-triggers/payload/>, and what `graphql-engine` sends, which is that without the
//! outer `payload`.

use http::HeaderValue;
use ring::digest::{Context as Digest, SHA1_FOR_LEGACY_USE_ONLY};
use serde_json::{Map, Value};

use super::{Item, NotARow, TRACEPARENT, Written, json, shown};
use crate::{
    delivery::{context::Noted, target::Target},
    log::{Event, definition::Context},
};

/// Begins as Hasura's does.
pub(super) const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("hasura-graphql-engine/eventtrigger-", env!("CARGO_PKG_VERSION")));

/// Settings in which Hasura tells the database who is asking, and in which trace.
const USER: &str = "hasura.user";
const TRACE: &str = "hasura.tracecontext";

pub(super) fn event(target: &Target, name: Option<&str>, item: &Item<'_>) -> Result<Written, NotARow> {
    let Item { event, capture, attempt, .. } = item;
    let noted = Noted::of(event)?;
    let (old, new) = (shown(event.old.as_deref(), &target.columns)?, shown(event.new.as_deref(), &target.columns)?);
    let (schema, table) = (json(capture.table.schema.as_str()), json(capture.table.name.as_str()));
    let name = json(name.unwrap_or(&target.trigger.name));
    // As Hasura's type has it: a time without a zone, in UTC.
    let created = format!("{:.6}", event.at);
    let created = created.trim_end_matches('Z');
    let (retry, retries) = (attempt.saturating_sub(1), target.policy.retry);
    let (session, trace) = (session(&noted, &target.context), trace(&noted, &target.context));
    let (id, operation) = (uuid(&target.log_id, event), event.operation);
    let body = format!(
        r#"{{"id":"{id}","created_at":"{created}","table":{{"schema":{schema},"name":{table}}},"trigger":{{"name":{name}}},"delivery_info":{{"current_retry":{retry},"max_retries":{retries}}},"event":{{"op":"{operation}","data":{{"old":{old},"new":{new}}},"session_variables":{session},"trace_context":{trace}}}}}"#
    );
    let mut headers = target.headers.clone();
    if let Some(trace) = noted.traceparent(&target.context) {
        headers.insert(TRACEPARENT, trace);
    }
    Ok(Written { headers, body: body.into() })
}

/// Hasura's ids are UUIDs, and receivers keep them in columns of that type: this is the UUID (version 5, RFC 9562 §5.5) of the
/// event's number in the name space of the log's id. Everybody can compute it, and it never changes.
fn uuid(log: &str, event: &Event) -> String {
    let space = log.replace('-', "");
    let space = u128::from_str_radix(&space, 16).unwrap_or_default();
    let mut digest = Digest::new(&SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(&space.to_be_bytes());
    digest.update(event.id.to_string().as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.finish().as_ref()[..16]);
    bytes[6] = (bytes[6] & 0x0f) | 0x50;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let text = format!("{:032x}", u128::from_be_bytes(bytes));
    [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
}

/// Who made the change: what Hasura told the database, and the other settings that the trigger asks for; `null` without any.
fn session(noted: &Noted<'_>, asked: &Context) -> Value {
    let mut variables = object(noted.setting(asked, USER)).unwrap_or_default();
    for name in asked.settings.iter().filter(|name| ![USER, TRACE].contains(&name.as_str())) {
        if let Some(value) = noted.setting(asked, name) {
            variables.insert(name.clone(), value.into());
        }
    }
    if variables.is_empty() { Value::Null } else { variables.into() }
}

/// The trace that the change was made in: what W3C's context says, or what Hasura told the database.
fn trace(noted: &Noted<'_>, asked: &Context) -> Value {
    let Some(traceparent) = noted.traceparent(asked) else {
        return object(noted.setting(asked, TRACE)).map_or(Value::Null, Value::Object);
    };
    // Its form was checked: version, trace, parent, flags.
    let parts: Vec<_> = traceparent.to_str().unwrap_or_default().split('-').collect();
    let part = |at: usize| parts.get(at).copied().unwrap_or_default();
    serde_json::json!({"trace_id": part(1), "span_id": part(2)})
}

fn object(text: Option<&str>) -> Option<Map<String, Value>> {
    serde_json::from_str(text?).ok()
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{LOG, capture, event, sent, target},
        *,
    };
    use crate::{
        delivery::{format::keys, lanes::Keys},
        log::{
            Operation,
            definition::{Columns, Format},
        },
        name::Ident,
    };

    const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn hasura(name: Option<&str>, context: Context) -> Target {
        target(Format::Hasura { trigger: name.map(str::to_owned) }, Columns::All, context)
    }

    #[test]
    fn an_event_is_what_hasura_sends() {
        let event = event(Operation::Insert, None, Some(r#"{"id":1,"n":1.10}"#));
        let (headers, body) = sent(&hasura(Some("insert_user"), Context::default()), &event, &capture(&["id"]));
        // Made by Python: uuid.uuid5(uuid.UUID(LOG), "1234").
        let expected = r#"{"id":"UUID","created_at":"2026-01-01T00:00:00.000120","table":{"schema":"public","name":"orders"},"trigger":{"name":"insert_user"},"delivery_info":{"current_retry":0,"max_retries":10},"event":{"op":"INSERT","data":{"old":null,"new":{"id":1,"n":1.10}},"session_variables":null,"trace_context":null}}"#;
        assert_eq!(body, expected.replace("UUID", "64aab9de-7080-5908-81d2-98811373527b"));
        let agent = concat!("hasura-graphql-engine/eventtrigger-", env!("CARGO_PKG_VERSION"));
        let expected =
            [("content-type", "application/json"), ("user-agent", agent), ("webhook-id", &format!("{LOG}-1234"))];
        assert_eq!(headers, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn a_trigger_without_a_name_of_its_own_is_called_as_it_is() {
        let (_, body) =
            sent(&hasura(None, Context::default()), &event(Operation::Delete, Some("{}"), None), &capture(&[]));
        assert!(body.contains(r#""trigger":{"name":"order-paid"}"#), "{body}");
    }

    #[test]
    fn retries_are_counted_from_the_second_attempt() {
        let (event, capture) = (event(Operation::Insert, None, Some("{}")), capture(&[]));
        let target = hasura(None, Context::default());
        let keys: Keys<String> = keys(&event, &capture, &target.ordering).unwrap();
        let written = target.write(&[Item { event: &event, capture: &capture, keys: &keys, attempt: 3 }]).unwrap();
        let body: Value = serde_json::from_slice(&written.body).unwrap();
        assert_eq!(body["delivery_info"], serde_json::json!({"current_retry": 2, "max_retries": 10}));
    }

    #[test]
    fn columns_that_are_not_wanted_are_taken_out() {
        let columns = Columns::Exclude(vec![Ident::new("card")]);
        let target = target(Format::Hasura { trigger: None }, columns, Context::default());
        let event = event(Operation::Insert, None, Some(r#"{"id":1,"card":"4111"}"#));
        let (_, body) = sent(&target, &event, &capture(&["id"]));
        assert!(body.contains(r#""new":{"id":1}"#) && !body.contains("4111"), "{body}");
    }

    #[test]
    fn who_made_the_change_is_told_as_hasura_does() {
        let settings = format!(
            r#"{{"app.user":"7","app.trace":"{TRACEPARENT}","hasura.user":"{{\"x-hasura-role\":\"admin\"}}","app.other":"x"}}"#
        );
        let event = Event {
            context: Some(format!(r#"{{"role":"app","settings":{settings}}}"#)),
            ..event(Operation::Insert, None, Some("{}"))
        };
        let asked = Context {
            role: true,
            settings: vec!["hasura.user".to_owned(), "app.user".to_owned()],
            traceparent: Some("app.trace".to_owned()),
            ..Context::default()
        };
        let (headers, body) = sent(&hasura(None, asked), &event, &capture(&[]));
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["event"]["session_variables"], serde_json::json!({"x-hasura-role": "admin", "app.user": "7"}));
        let trace = serde_json::json!({"trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331"});
        assert_eq!(body["event"]["trace_context"], trace);
        assert!(headers.contains(&("traceparent".to_owned(), TRACEPARENT.to_owned())));
    }

    #[test]
    fn the_trace_that_hasura_noted_is_passed_on() {
        let context = r#"{"settings":{"hasura.tracecontext":"{\"trace_id\":\"a\",\"span_id\":\"b\"}"}}"#;
        let event = Event { context: Some(context.to_owned()), ..event(Operation::Insert, None, Some("{}")) };
        let asked = Context { settings: vec![TRACE.to_owned()], ..Context::default() };
        let (_, body) = sent(&hasura(None, asked), &event, &capture(&[]));
        assert!(
            body.ends_with(r#""session_variables":null,"trace_context":{"trace_id":"a","span_id":"b"}}}"#),
            "{body}"
        );
    }
}
