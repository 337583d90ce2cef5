//! An event as a CloudEvent over HTTP: in binary mode, in structured mode, and several in a batch. Pure.
//!
//! Sources: CloudEvents 1.0.2, its HTTP protocol binding §3, its JSON format, and its extensions `sequence`,
//! `partitionkey` and `distributed tracing`.

use std::{borrow::Cow, collections::BTreeMap, fmt::Write as _};

use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use ring::digest::{SHA256, digest};

use super::{
    Item, NotARow, SEGMENT, TRACEPARENT, Written, key, plain, segment, shown, shows,
    text::{push_json, push_number, push_sequence, push_time, pushed},
};
use crate::{
    delivery::{context::Noted, lanes::Keys, signing, target::Target},
    log::{Event, Operation, definition::Ordering},
    name::{ObjectName, TableName},
};

/// What an attribute must not hold as it is in a header (HTTP binding §3.1.3.2); all that is not ASCII goes with it.
const ATTRIBUTE: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

const SPECVERSION: HeaderName = HeaderName::from_static("ce-specversion");
const SOURCE: HeaderName = HeaderName::from_static("ce-source");
const TRIGGER: HeaderName = HeaderName::from_static("ce-eventtrigger");
const ID: HeaderName = HeaderName::from_static("ce-id");
pub(in super::super) const TYPE: HeaderName = HeaderName::from_static("ce-type");
const SUBJECT: HeaderName = HeaderName::from_static("ce-subject");
const TIME: HeaderName = HeaderName::from_static("ce-time");
const SEQUENCE: HeaderName = HeaderName::from_static("ce-sequence");
const PARTITIONKEY: HeaderName = HeaderName::from_static("ce-partitionkey");
/// The attribute of CloudEvents' extension for distributed tracing; W3C's own header says the same.
const CE_TRACEPARENT: HeaderName = HeaderName::from_static("ce-traceparent");

/// Whether a header is one of those that are set here.
pub(super) fn sets(name: &HeaderName) -> bool {
    [SPECVERSION, SOURCE, TRIGGER, ID, TYPE, SUBJECT, TIME, SEQUENCE, PARTITIONKEY, CE_TRACEPARENT].contains(name)
}

/// The attribute `source` of a log's events.
pub(crate) fn source(log: &ObjectName) -> String {
    format!("/namespaces/{}/eventlogs/{}", segment(&log.namespace), segment(&log.name))
}

/// The attribute `type` of an operation's events.
pub(crate) fn kind(operation: Operation) -> &'static str {
    match operation {
        Operation::Insert => "dev.eventtrigger.row.insert",
        Operation::Update => "dev.eventtrigger.row.update",
        Operation::Delete => "dev.eventtrigger.row.delete",
        Operation::Truncate => "dev.eventtrigger.row.truncate",
    }
}

/// Headers of binary mode that are the same for every event of a subscription.
pub(super) fn constant(source: &str, trigger: &ObjectName, extensions: &BTreeMap<String, String>) -> HeaderMap {
    let own = [
        (SPECVERSION, HeaderValue::from_static("1.0")),
        (SOURCE, attribute(source)),
        (TRIGGER, attribute(&trigger.to_string())),
    ];
    // The CRD takes names only of which a header can be made.
    let extension = |(name, value): (&String, &String)| Some((format!("ce-{name}").parse().ok()?, attribute(value)));
    own.into_iter().chain(extensions.iter().filter_map(extension)).collect()
}

/// `extensions` as members of an object, each after a comma.
pub(in crate::delivery) fn members(extensions: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    for (name, value) in extensions {
        text.push(',');
        push_json(&mut text, name);
        text.push(':');
        push_json(&mut text, value);
    }
    text
}

/// What differs from event to event, and is not written as the event has it.
struct Attributes<'a> {
    kind: &'static str,
    subject: String,
    partition_key: Option<&'a str>,
    traceparent: Option<HeaderValue>,
}

impl<'a> Attributes<'a> {
    /// The event is named by its primary key after the change, a deleted one by that before.
    fn new(target: &Target, item: &Item<'a>, noted: &Noted<'_>) -> Result<Self, NotARow> {
        let Item { event, capture, keys, .. } = *item;
        let TableName { schema, name } = &capture.table;
        let mut subject = String::with_capacity(64);
        subject.extend(utf8_percent_encode(schema.as_str(), SEGMENT));
        subject.push('.');
        subject.extend(utf8_percent_encode(name.as_str(), SEGMENT));
        let mut add = |key: &str| {
            subject.push('/');
            subject.push_str(key);
        };
        let partition_key = match keys {
            Keys::One(key) | Keys::Both(_, key) => Some(key.as_str()),
            Keys::None | Keys::All => None,
        };
        match (&target.ordering, partition_key, event.new.as_ref().or(event.old.as_ref())) {
            (Ordering::PrimaryKey, Some(key), _) => add(key),
            (Ordering::Columns(_) | Ordering::None, _, Some(row)) if !capture.key.is_empty() => {
                add(&key(row, &capture.key)?);
            }
            _ => {}
        }
        let traceparent = noted.traceparent(&target.context);
        Ok(Self { kind: kind(event.operation), subject, partition_key, traceparent })
    }
}

/// Attributes in headers, data as the body.
pub(super) fn binary(target: &Target, item: &Item<'_>) -> Result<Written, NotARow> {
    let (event, noted) = (item.event, Noted::of(item.event)?);
    let Attributes { kind, subject, partition_key, traceparent } = Attributes::new(target, item, &noted)?;
    let mut headers = target.headers.clone();
    headers.insert(ID, plain(&pushed(|text| target.push_id(text, event))));
    headers.insert(TYPE, HeaderValue::from_static(kind));
    headers.insert(SUBJECT, attribute(&subject));
    headers.insert(TIME, plain(&pushed(|text| push_time(text, event.at))));
    headers.insert(SEQUENCE, plain(&pushed(|text| push_sequence(text, event.id))));
    if let Some(key) = partition_key {
        headers.insert(PARTITIONKEY, attribute(key));
    }
    if let Some(trace) = traceparent {
        headers.insert(CE_TRACEPARENT, trace.clone());
        headers.insert(TRACEPARENT, trace);
    }
    let mut body = String::with_capacity(length(event));
    data(&mut body, target, event, &noted, &item.capture.table)?;
    Ok(Written { headers, body: body.into() })
}

/// All of it in the body.
pub(super) fn structured(target: &Target, item: &Item<'_>) -> Result<Written, NotARow> {
    let noted = Noted::of(item.event)?;
    let mut headers = target.headers.clone();
    if let Some(trace) = noted.traceparent(&target.context) {
        headers.insert(TRACEPARENT, trace);
    }
    let mut body = String::with_capacity(length(item.event));
    object(&mut body, target, item, &noted)?;
    Ok(Written { headers, body: body.into() })
}

/// Several events, each as in structured mode, in their order.
///
/// Its `webhook-id` is the same whenever the same events are sent together again: the first one's id, `-`, and the first 16
/// hex digits of SHA-256 over all ids, each with a line break after it; of a single event: its id.
pub(super) fn batch(target: &Target, items: &[Item<'_>]) -> Result<Written, NotARow> {
    let mut headers = target.headers.clone();
    let mut body = String::with_capacity(items.iter().map(|item| length(item.event)).sum());
    let mut ids = String::new();
    for item in items {
        body.push(if body.is_empty() { '[' } else { ',' });
        object(&mut body, target, item, &Noted::of(item.event)?)?;
        target.push_id(&mut ids, item.event);
        ids.push('\n');
    }
    body.push(']');
    let mut id = ids.lines().next().unwrap_or_default().to_owned();
    if items.len() > 1 {
        id.push('-');
        for byte in &digest(&SHA256, ids.as_bytes()).as_ref()[..8] {
            let _ = write!(id, "{byte:02x}");
        }
    }
    headers.insert(signing::ID, plain(&id));
    Ok(Written { headers, body: body.into() })
}

/// About as many bytes as an event takes in a body: most are the rows', the others its attributes'.
pub(in crate::delivery) fn length(event: &Event) -> usize {
    512 + [&event.old, &event.new, &event.context].into_iter().flatten().map(String::len).sum::<usize>()
}

/// Adds the event in CloudEvents' JSON format.
fn object(text: &mut String, target: &Target, item: &Item<'_>, noted: &Noted<'_>) -> Result<(), NotARow> {
    let Attributes { kind, subject, partition_key, traceparent } = Attributes::new(target, item, noted)?;
    let event = item.event;
    text.push_str(r#"{"specversion":"1.0","id":""#);
    target.push_id(text, event);
    text.push_str(r#"","source":"#);
    text.push_str(&target.source);
    text.push_str(r#","type":""#);
    text.push_str(kind);
    text.push_str(r#"","subject":"#);
    push_json(text, &subject);
    text.push_str(r#","time":""#);
    push_time(text, event.at);
    text.push_str(r#"","sequence":""#);
    push_sequence(text, event.id);
    text.push_str(r#"","eventtrigger":"#);
    text.push_str(&target.eventtrigger);
    if let Some(key) = partition_key {
        text.push_str(r#","partitionkey":"#);
        push_json(text, key);
    }
    if let Some(trace) = traceparent.as_ref().and_then(|trace| trace.to_str().ok()) {
        text.push_str(r#","traceparent":"#);
        push_json(text, trace);
    }
    text.push_str(&target.extensions);
    text.push_str(r#","datacontenttype":"application/json","data":"#);
    data(text, target, event, noted, &item.capture.table)?;
    text.push('}');
    Ok(())
}

/// Adds the data.
fn data(
    text: &mut String,
    target: &Target,
    event: &Event,
    noted: &Noted<'_>,
    table: &TableName,
) -> Result<(), NotARow> {
    let columns = &target.columns;
    let (old, new) = (shown(event.old.as_deref(), columns)?, shown(event.new.as_deref(), columns)?);
    text.push_str(r#"{"op":""#);
    text.push_str(event.operation.name());
    text.push_str(r#"","table":{"schema":"#);
    push_json(text, table.schema.as_str());
    text.push_str(r#","name":"#);
    push_json(text, table.name.as_str());
    text.push_str(r#"},"old":"#);
    text.push_str(&old);
    text.push_str(r#","new":"#);
    text.push_str(&new);
    text.push_str(r#","txid":""#);
    push_number(text, event.txid);
    text.push('"');
    if let Some(actor) = noted.actor(&target.context) {
        text.push_str(r#","actor":"#);
        text.push_str(&actor);
    }
    if let Some(omitted) = noted.omitted(|column| shows(columns, column)) {
        text.push_str(r#","omitted":"#);
        text.push_str(&omitted);
    }
    text.push('}');
    Ok(())
}

pub(super) fn attribute(text: &str) -> HeaderValue {
    plain(&Cow::from(utf8_percent_encode(text, ATTRIBUTE)))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::{
        super::tests::{LOG, capture, event, target},
        *,
    };
    use crate::{
        delivery::{
            format::keys,
            target::tests::{config, definition},
        },
        log::{
            Capture,
            definition::{Batch, Columns, Context, Format, Mode, Sink},
        },
        name::Ident,
    };

    const STRUCTURED: Format = Format::CloudEvents(Mode::Structured);

    fn binary(columns: Columns, context: Context) -> Target {
        target(Format::default(), columns, context)
    }

    fn written(event: &Event, table: &TableName, target: &Target) -> String {
        let capture = Capture { table: table.clone(), ..capture(&[]) };
        super::super::tests::sent(target, event, &capture).1
    }

    fn sent(event: &Event, capture: &Capture) -> Vec<(String, String)> {
        super::super::tests::sent(&binary(Columns::All, Context::default()), event, capture).0
    }

    #[test]
    fn an_event_has_the_headers_of_binary_mode() {
        let sent = sent(&event(Operation::Update, Some(r#"{"id":42}"#), Some(r#"{"id":42}"#)), &capture(&["id"]));
        let id = format!("{LOG}-1234");
        let expected = [
            ("ce-eventtrigger", "shop/order-paid"),
            ("ce-id", &id),
            ("ce-partitionkey", "42"),
            ("ce-sequence", "00000000000000001234"),
            ("ce-source", "/namespaces/shop/eventlogs/shop"),
            ("ce-specversion", "1.0"),
            ("ce-subject", "public.orders/42"),
            ("ce-time", "2026-01-01T00:00:00.000120Z"),
            ("ce-type", "dev.eventtrigger.row.update"),
            ("content-type", "application/json"),
            ("user-agent", concat!("eventtrigger/", env!("CARGO_PKG_VERSION"))),
            ("webhook-id", &id),
        ];
        assert_eq!(sent, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn a_triggers_own_attributes_stand_beside_the_others_in_every_mode() {
        let sent = |format: Format| {
            let mut definition = definition("http://billing", Vec::new());
            let extensions =
                [("region", "eu \"west\""), ("team", "ü")].map(|(name, value)| (name.to_owned(), value.to_owned()));
            let extensions: BTreeMap<_, _> = extensions.into();
            definition.sink = definition.sink.map(|sink| Sink { extensions, format, ..sink });
            let target = Target::new(&definition, &config(), LOG).unwrap();
            super::super::tests::sent(&target, &event(Operation::Insert, None, Some(r#"{"id":1}"#)), &capture(&["id"]))
        };
        let (headers, _) = sent(Format::default());
        for (name, value) in [("ce-region", "eu%20%22west%22"), ("ce-team", "%C3%BC")] {
            assert!(headers.contains(&(name.to_owned(), value.to_owned())), "{headers:?}");
        }
        let (headers, body) = sent(STRUCTURED);
        assert!(headers.iter().all(|(name, _)| name != "ce-region"));
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((&body["region"], &body["team"]), (&"eu \"west\"".into(), &"ü".into()));
    }

    #[rstest]
    #[case::number(r#"{"id":1.50}"#, "1.50")]
    #[case::text(r#"{"id":"a b"}"#, "a%2520b")]
    #[case::slash_and_percent(r#"{"id":"a/b%"}"#, "a%252Fb%2525")]
    #[case::multi_byte(r#"{"id":"ä"}"#, "%25C3%25A4")]
    #[case::escape(r#"{"id":"a\"b"}"#, "a%2522b")]
    #[case::line_break(r#"{"id":"a\nb"}"#, "a%250Ab")]
    #[case::null(r#"{"id":null}"#, "null")]
    fn a_key_is_a_path_segment_and_then_an_attribute(#[case] row: &str, #[case] key: &str) {
        let sent = sent(&event(Operation::Insert, None, Some(row)), &capture(&["id"]));
        let value = |name: &str| &sent.iter().find(|(found, _)| found == name).unwrap().1;
        assert_eq!(value("ce-partitionkey"), key);
        assert_eq!(value("ce-subject"), &format!("public.orders/{key}"));
    }

    #[test]
    fn an_update_of_the_key_has_both_and_is_named_by_the_new_one() {
        let event = event(Operation::Update, Some(r#"{"id":1}"#), Some(r#"{"id":2}"#));
        assert_eq!(
            keys(&event, &capture(&["id"]), &Ordering::PrimaryKey).unwrap(),
            Keys::Both("1".to_owned(), "2".to_owned())
        );
        assert!(sent(&event, &capture(&["id"])).contains(&("ce-partitionkey".to_owned(), "2".to_owned())));
    }

    #[test]
    fn events_may_be_ordered_by_other_columns_than_those_that_name_the_row() {
        let columns = Ordering::Columns(vec![Ident::new("customer"), Ident::new("gone")]);
        let row = r#"{"id":1,"customer":"a b"}"#;
        let event = event(Operation::Update, Some(row), Some(r#"{"id":1,"customer":null}"#));
        let both = Keys::Both("a%20b/null".to_owned(), "null/null".to_owned());
        assert_eq!(keys(&event, &capture(&["id"]), &columns).unwrap(), both);
        assert_eq!(keys(&event, &capture(&["id"]), &Ordering::None).unwrap(), Keys::None);
        let value = |ordering: &Ordering, name: &str| {
            let mut target = binary(Columns::All, Context::default());
            target.ordering = ordering.clone();
            let (headers, _) = super::super::tests::sent(&target, &event, &capture(&["id"]));
            headers.into_iter().find(|(found, _)| found == name).map(|(_, value)| value)
        };
        assert_eq!(value(&columns, "ce-partitionkey").unwrap(), "null/null");
        assert_eq!(value(&columns, "ce-subject").unwrap(), "public.orders/1");
        assert_eq!(value(&Ordering::None, "ce-subject").unwrap(), "public.orders/1");
        assert_eq!(value(&Ordering::None, "ce-partitionkey"), None);
    }

    #[test]
    fn a_table_without_key_has_no_partition_key() {
        let sent = sent(&event(Operation::Insert, None, Some(r#"{"id":1}"#)), &capture(&[]));
        assert!(sent.iter().all(|(name, _)| name != "ce-partitionkey"));
        assert!(sent.contains(&("ce-subject".to_owned(), "public.orders".to_owned())));
    }

    #[test]
    fn a_truncation_is_about_the_table() {
        let event = event(Operation::Truncate, None, None);
        let sent = sent(&event, &capture(&["id"]));
        assert!(sent.iter().all(|(name, _)| name != "ce-partitionkey"));
        assert!(sent.contains(&("ce-subject".to_owned(), "public.orders".to_owned())));
        assert!(sent.contains(&("ce-type".to_owned(), "dev.eventtrigger.row.truncate".to_owned())));
        let target = binary(Columns::Include(vec![Ident::new("id")]), Context::default());
        let expected =
            r#"{"op":"TRUNCATE","table":{"schema":"public","name":"orders"},"old":null,"new":null,"txid":"740"}"#;
        assert_eq!(written(&event, &TableName::new("public", "orders"), &target), expected);
    }

    #[test]
    fn who_made_the_change_is_told_to_who_asked() {
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let context = format!(r#"{{"role":"app","settings":{{"app.user":"7","app.trace":"{trace}"}}}}"#);
        let event = Event { context: Some(context), ..event(Operation::Insert, None, Some("{}")) };
        let asked = Context {
            settings: vec!["app.user".to_owned()],
            traceparent: Some("app.trace".to_owned()),
            ..Context::default()
        };
        let target = binary(Columns::All, asked);
        let expected = r#"{"op":"INSERT","table":{"schema":"public","name":"orders"},"old":null,"new":{},"txid":"740","actor":{"settings":{"app.user":"7"}}}"#;
        assert_eq!(written(&event, &TableName::new("public", "orders"), &target), expected);
        let traced = |target: &Target| {
            let (headers, _) = super::super::tests::sent(target, &event, &capture(&[]));
            headers.into_iter().filter(|(_, value)| value == trace).map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(traced(&target), ["ce-traceparent", "traceparent"]);
        assert!(traced(&binary(Columns::All, Context::default())).is_empty());
    }

    #[test]
    fn rows_are_passed_through_byte_for_byte() {
        let new = r#"{"id":1,"n":1.10,"j":{"b": 1,  "a":[1e400]},"s":"\u00e4"}"#;
        let target = binary(Columns::All, Context::default());
        let body = written(&event(Operation::Insert, None, Some(new)), &TableName::new("a\"b", "ä"), &target);
        let expected = r#"{"op":"INSERT","table":{"schema":"a\"b","name":"ä"},"old":null,"new":NEW,"txid":"740"}"#;
        assert_eq!(body, expected.replace("NEW", new));
    }

    #[rstest]
    #[case(Columns::Include(vec![Ident::new("s"), Ident::new("id")]), r#"{"id":1,"s":"x"}"#)]
    #[case(Columns::Exclude(vec![Ident::new("s"), Ident::new("id")]), r#"{"n":1.10,"j":{"b": 1,  "b":2}}"#)]
    #[case(Columns::Include(vec![Ident::new("gone")]), "{}")]
    fn columns_are_taken_out_and_the_others_keep_their_bytes(#[case] columns: Columns, #[case] kept: &str) {
        let row = r#"{"id":1, "n":1.10,"j":{"b": 1,  "b":2},"s":"x"}"#;
        let target = binary(columns, Context::default());
        let body = written(&event(Operation::Delete, Some(row), None), &TableName::new("public", "orders"), &target);
        let expected =
            r#"{"op":"DELETE","table":{"schema":"public","name":"orders"},"old":OLD,"new":null,"txid":"740"}"#;
        assert_eq!(body, expected.replace("OLD", kept));
    }

    #[test]
    fn in_structured_mode_all_is_in_the_body_and_rows_keep_their_bytes() {
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let context = Some(format!(r#"{{"settings":{{"app.trace":"{trace}"}}}}"#));
        let event = Event { context, ..event(Operation::Insert, None, Some(r#"{"id":"a b","n":1.10}"#)) };
        let asked = Context { traceparent: Some("app.trace".to_owned()), ..Context::default() };
        let structured = target(STRUCTURED, Columns::All, asked);
        let (headers, body) = super::super::tests::sent(&structured, &event, &capture(&["id"]));
        let expected = r#"{"specversion":"1.0","id":"LOG-1234","source":"/namespaces/shop/eventlogs/shop","type":"dev.eventtrigger.row.insert","subject":"public.orders/a%20b","time":"2026-01-01T00:00:00.000120Z","sequence":"00000000000000001234","eventtrigger":"shop/order-paid","partitionkey":"a%20b","traceparent":"TRACE","datacontenttype":"application/json","data":{"op":"INSERT","table":{"schema":"public","name":"orders"},"old":null,"new":{"id":"a b","n":1.10},"txid":"740"}}"#;
        assert_eq!(body, expected.replace("LOG", LOG).replace("TRACE", trace));
        let id = format!("{LOG}-1234");
        let expected = [
            ("content-type", "application/cloudevents+json"),
            ("traceparent", trace),
            ("user-agent", concat!("eventtrigger/", env!("CARGO_PKG_VERSION"))),
            ("webhook-id", &id),
        ];
        assert_eq!(headers, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    fn batch_of(numbers: &[i64]) -> Written {
        let batch = Batch { max_events: 10, max_bytes: 1 << 20, linger: std::time::Duration::ZERO };
        let target = target(Format::CloudEvents(Mode::Batch(batch)), Columns::All, Context::default());
        let capture = capture(&["id"]);
        let events =
            numbers.iter().map(|id| Event { id: *id, ..event(Operation::Insert, None, Some(r#"{"id":1.0}"#)) });
        let events: Vec<_> =
            events.map(|event| (keys(&event, &capture, &Ordering::PrimaryKey).unwrap(), event)).collect();
        let item = |(keys, event)| Item { event, capture: &capture, keys, attempt: 1 };
        target.write(&events.iter().map(|(keys, event)| item((keys, event))).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn a_batch_is_an_array_of_what_structured_mode_sends() {
        let structured = target(STRUCTURED, Columns::All, Context::default());
        let one = |id| Event { id, ..event(Operation::Insert, None, Some(r#"{"id":1.0}"#)) };
        let bodies = [5, 6].map(|id| super::super::tests::sent(&structured, &one(id), &capture(&["id"])).1);
        let batch = batch_of(&[5, 6]);
        assert_eq!(batch.body, format!("[{}]", bodies.join(",")));
        assert_eq!(batch.headers["content-type"], "application/cloudevents-batch+json");
    }

    #[test]
    fn a_batch_of_the_same_events_has_the_same_id() {
        let id = |numbers: &[i64]| batch_of(numbers).headers["webhook-id"].to_str().unwrap().to_owned();
        // Made by: printf 'LOG-5\nLOG-6\n' | sha256sum
        assert_eq!(id(&[5, 6]), format!("{LOG}-5-f40e7d62a64725ba"));
        assert_ne!(id(&[5, 7]), id(&[5, 6]));
        assert_ne!(id(&[5, 6, 7]), id(&[5, 6]));
        assert_eq!(id(&[5]), format!("{LOG}-5"));
    }
}
