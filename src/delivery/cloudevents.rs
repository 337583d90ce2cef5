//! An event as CloudEvents' binary mode has it, over HTTP. Pure.
//!
//! Sources: CloudEvents 1.0.2, its HTTP protocol binding §3.1, and its extensions `sequence` and `partitionkey`.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{
    context::Noted,
    lanes::Keys,
    row::{NotARow, Row},
    target::Target,
};
use crate::{
    log::{
        Capture, Event, Operation,
        definition::{Columns, Ordering},
    },
    name::{Ident, ObjectName, TableName},
};

/// What a segment of a URI's path must not hold as it is (RFC 3986 §3.3, `pchar`).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b':')
    .remove(b'@');
/// What an attribute must not hold as it is in a header (HTTP binding §3.1.3.2); all that is not ASCII goes with it.
const ATTRIBUTE: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

const SPECVERSION: HeaderName = HeaderName::from_static("ce-specversion");
const SOURCE: HeaderName = HeaderName::from_static("ce-source");
const TRIGGER: HeaderName = HeaderName::from_static("ce-eventtrigger");
const ID: HeaderName = HeaderName::from_static("ce-id");
const TYPE: HeaderName = HeaderName::from_static("ce-type");
const SUBJECT: HeaderName = HeaderName::from_static("ce-subject");
const TIME: HeaderName = HeaderName::from_static("ce-time");
const SEQUENCE: HeaderName = HeaderName::from_static("ce-sequence");
const PARTITIONKEY: HeaderName = HeaderName::from_static("ce-partitionkey");
/// The attribute of CloudEvents' extension for distributed tracing, and W3C's own header.
const CE_TRACEPARENT: HeaderName = HeaderName::from_static("ce-traceparent");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Whether a header is one of those that are set here.
pub(super) fn sets(name: &HeaderName) -> bool {
    [
        SPECVERSION,
        SOURCE,
        TRIGGER,
        ID,
        TYPE,
        SUBJECT,
        TIME,
        SEQUENCE,
        PARTITIONKEY,
        CE_TRACEPARENT,
        TRACEPARENT,
        header::CONTENT_TYPE,
    ]
    .contains(name)
}

/// Headers that are the same for every event of a subscription.
pub(super) fn constant(log: &ObjectName, trigger: &ObjectName) -> HeaderMap {
    let source = format!("/namespaces/{}/eventlogs/{}", segment(&log.namespace), segment(&log.name));
    let trigger = format!("{}/{}", trigger.namespace, trigger.name);
    HeaderMap::from_iter([
        (SPECVERSION, HeaderValue::from_static("1.0")),
        (SOURCE, attribute(&source)),
        (TRIGGER, attribute(&trigger)),
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
    ])
}

/// The values of the ordering key before and after the change, each as `ce-partitionkey` has it; where there is no order:
/// none; for a truncation: every key there is.
pub(super) fn keys(event: &Event, capture: &Capture, ordering: &Ordering) -> Result<Keys<String>, NotARow> {
    let columns = match ordering {
        Ordering::None => return Ok(Keys::None),
        Ordering::PrimaryKey => &capture.key,
        Ordering::Columns(columns) => columns,
    };
    let key = |row: &Option<String>| row.as_ref().map(|row| key(row, columns)).transpose();
    if event.operation == Operation::Truncate {
        return Ok(Keys::All);
    }
    if columns.is_empty() {
        return Ok(Keys::None);
    }
    Ok(Keys::of(key(&event.old)?, key(&event.new)?))
}

fn key(row: &str, columns: &[Ident]) -> Result<String, NotARow> {
    let row = Row::parse(row)?;
    let values: Vec<_> = columns.iter().map(|column| segment(&row.text(column.as_str())).into_owned()).collect();
    Ok(values.join("/"))
}

/// All headers of an event's request. The event is named by its primary key after the change, a deleted one by that before.
pub(super) fn headers(
    target: &Target,
    event: &Event,
    noted: &Noted<'_>,
    capture: &Capture,
    keys: &Keys<String>,
) -> Result<HeaderMap, NotARow> {
    let Capture { table, key: columns, .. } = capture;
    let mut subject = format!("{}.{}", segment(table.schema.as_str()), segment(table.name.as_str()));
    let mut headers = target.headers.clone();
    let ordered = match keys {
        Keys::One(key) | Keys::Both(_, key) => Some(key),
        Keys::None | Keys::All => None,
    };
    if let Some(key) = ordered {
        headers.insert(PARTITIONKEY, attribute(key));
    }
    match (&target.ordering, ordered, event.new.as_ref().or(event.old.as_ref())) {
        (Ordering::PrimaryKey, Some(key), _) => subject = format!("{subject}/{key}"),
        (Ordering::Columns(_) | Ordering::None, _, Some(row)) if !columns.is_empty() => {
            subject = format!("{subject}/{}", key(row, columns)?);
        }
        _ => {}
    }
    if let Some(trace) = noted.traceparent(&target.context) {
        headers.insert(CE_TRACEPARENT, trace.clone());
        headers.insert(TRACEPARENT, trace);
    }
    let kind = match event.operation {
        Operation::Insert => "dev.eventtrigger.row.insert",
        Operation::Update => "dev.eventtrigger.row.update",
        Operation::Delete => "dev.eventtrigger.row.delete",
        Operation::Truncate => "dev.eventtrigger.row.truncate",
    };
    headers.insert(ID, attribute(&format!("{}-{}", target.log_id, event.id)));
    headers.insert(TYPE, HeaderValue::from_static(kind));
    headers.insert(SUBJECT, attribute(&subject));
    headers.insert(TIME, attribute(&format!("{:.6}", event.at)));
    headers.insert(SEQUENCE, attribute(&format!("{:020}", event.id)));
    Ok(headers)
}

/// The body. Rows stand in it as the log has them, byte for byte; only columns that are not wanted are taken out.
pub(super) fn body(target: &Target, event: &Event, noted: &Noted<'_>, table: &TableName) -> Result<Bytes, NotARow> {
    let columns = &target.columns;
    let (old, new) = (shown(event.old.as_deref(), columns)?, shown(event.new.as_deref(), columns)?);
    let (schema, name) = (json(table.schema.as_str()), json(table.name.as_str()));
    let Event { operation, txid, .. } = event;
    let omitted = noted.omitted(|column| shows(columns, column));
    let omitted = omitted.map(|names| format!(r#","omitted":{names}"#)).unwrap_or_default();
    let actor = noted.actor(&target.context).map(|actor| format!(r#","actor":{actor}"#)).unwrap_or_default();
    Ok(format!(
        r#"{{"op":"{operation}","table":{{"schema":{schema},"name":{name}}},"old":{old},"new":{new},"txid":"{txid}"{actor}{omitted}}}"#
    )
    .into())
}

fn shown<'a>(row: Option<&'a str>, columns: &Columns) -> Result<Cow<'a, str>, NotARow> {
    let Some(row) = row else { return Ok("null".into()) };
    Ok(match columns {
        Columns::All => row.into(),
        Columns::Include(_) | Columns::Exclude(_) => Row::parse(row)?.keep(|column| shows(columns, column)).into(),
    })
}

fn shows(columns: &Columns, column: &str) -> bool {
    let lists = |names: &[Ident]| names.iter().any(|name| name.as_str() == column);
    match columns {
        Columns::All => true,
        Columns::Include(names) => lists(names),
        Columns::Exclude(names) => !lists(names),
    }
}

fn segment(text: &str) -> Cow<'_, str> {
    utf8_percent_encode(text, SEGMENT).into()
}

fn attribute(text: &str) -> HeaderValue {
    let encoded = utf8_percent_encode(text, ATTRIBUTE).to_string();
    HeaderValue::from_str(&encoded).expect("percent-encoded text is visible ASCII")
}

fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use rstest::rstest;

    use super::{
        super::target::tests::{config, definition},
        *,
    };
    use crate::log::{Bits, Definition, definition::Context};

    fn event(operation: Operation, old: Option<&str>, new: Option<&str>) -> Event {
        Event {
            id: 1234,
            txid: 740,
            place: 740,
            at: Timestamp::from_microsecond(1_767_225_600_000_120).unwrap(),
            capture: 1,
            operation,
            matched: Bits::new(1, vec![0x80]),
            old: old.map(str::to_owned),
            new: new.map(str::to_owned),
            context: None,
        }
    }

    fn target(columns: Columns, context: Context) -> Target {
        let definition = Definition { columns, context, ..definition("http://billing", Vec::new()) };
        Target::new(&definition, &config(), "6f1c").unwrap()
    }

    fn written(event: &Event, table: &TableName, target: &Target) -> Bytes {
        body(target, event, &Noted::of(event).unwrap(), table).unwrap()
    }

    fn capture(key: &[&str]) -> Capture {
        Capture {
            id: 1,
            table: TableName::new("public", "orders"),
            key: key.iter().copied().map(Ident::new).collect(),
            subscriptions: vec![7],
        }
    }

    fn sent(event: &Event, capture: &Capture) -> Vec<(String, String)> {
        sent_by(&target(Columns::All, Context::default()), event, capture)
    }

    fn sent_by(target: &Target, event: &Event, capture: &Capture) -> Vec<(String, String)> {
        let noted = Noted::of(event).unwrap();
        let headers =
            headers(target, event, &noted, capture, &keys(event, capture, &target.ordering).unwrap()).unwrap();
        let mut headers: Vec<_> =
            headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
        headers.sort();
        headers
    }

    #[test]
    fn an_event_has_the_headers_of_binary_mode() {
        let sent = sent(&event(Operation::Update, Some(r#"{"id":42}"#), Some(r#"{"id":42}"#)), &capture(&["id"]));
        let expected = [
            ("ce-eventtrigger", "shop/order-paid"),
            ("ce-id", "6f1c-1234"),
            ("ce-partitionkey", "42"),
            ("ce-sequence", "00000000000000001234"),
            ("ce-source", "/namespaces/shop/eventlogs/shop"),
            ("ce-specversion", "1.0"),
            ("ce-subject", "public.orders/42"),
            ("ce-time", "2026-01-01T00:00:00.000120Z"),
            ("ce-type", "dev.eventtrigger.row.update"),
            ("content-type", "application/json"),
        ];
        assert_eq!(sent, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
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
    fn several_key_columns_are_joined_in_order() {
        let event = event(Operation::Delete, Some(r#"{"b":2,"a":"x/y","c":3}"#), None);
        assert_eq!(
            keys(&event, &capture(&["a", "b"]), &Ordering::PrimaryKey).unwrap(),
            Keys::One("x%2Fy/2".to_owned())
        );
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
        let value = |ordering, name: &str| {
            let definition = Definition { ordering, ..definition("http://billing", Vec::new()) };
            let target = Target::new(&definition, &config(), "6f1c").unwrap();
            sent_by(&target, &event, &capture(&["id"]))
                .into_iter()
                .find(|(found, _)| found == name)
                .map(|(_, value)| value)
        };
        assert_eq!(value(columns.clone(), "ce-partitionkey").unwrap(), "null/null");
        assert_eq!(value(columns, "ce-subject").unwrap(), "public.orders/1");
        assert_eq!(value(Ordering::None, "ce-subject").unwrap(), "public.orders/1");
        assert_eq!(value(Ordering::None, "ce-partitionkey"), None);
    }

    #[test]
    fn a_table_without_key_has_no_partition_key() {
        let sent = sent(&event(Operation::Insert, None, Some(r#"{"id":1}"#)), &capture(&[]));
        assert!(sent.iter().all(|(name, _)| name != "ce-partitionkey"));
        assert!(sent.contains(&("ce-subject".to_owned(), "public.orders".to_owned())));
    }

    #[test]
    fn a_truncation_is_about_the_table_and_every_key() {
        let event = event(Operation::Truncate, None, None);
        assert_eq!(keys(&event, &capture(&["id"]), &Ordering::PrimaryKey).unwrap(), Keys::All);
        assert_eq!(keys(&event, &capture(&[]), &Ordering::PrimaryKey).unwrap(), Keys::All);
        let sent = sent(&event, &capture(&["id"]));
        assert!(sent.iter().all(|(name, _)| name != "ce-partitionkey"));
        assert!(sent.contains(&("ce-subject".to_owned(), "public.orders".to_owned())));
        assert!(sent.contains(&("ce-type".to_owned(), "dev.eventtrigger.row.truncate".to_owned())));
        let target = target(Columns::Include(vec![Ident::new("id")]), Context::default());
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
        let target = target(Columns::All, asked);
        let expected = r#"{"op":"INSERT","table":{"schema":"public","name":"orders"},"old":null,"new":{},"txid":"740","actor":{"settings":{"app.user":"7"}}}"#;
        assert_eq!(written(&event, &TableName::new("public", "orders"), &target), expected);
        let traced = |target: &Target| {
            let headers = sent_by(target, &event, &capture(&[]));
            headers.into_iter().filter(|(_, value)| value == trace).map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(traced(&target), ["ce-traceparent", "traceparent"]);
        assert!(traced(&super::tests::target(Columns::All, Context::default())).is_empty());
    }

    #[test]
    fn rows_are_passed_through_byte_for_byte() {
        let new = r#"{"id":1,"n":1.10,"j":{"b": 1,  "a":[1e400]},"s":"\u00e4"}"#;
        let target = target(Columns::All, Context::default());
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
        let target = target(columns, Context::default());
        let body = written(&event(Operation::Delete, Some(row), None), &TableName::new("public", "orders"), &target);
        let expected =
            r#"{"op":"DELETE","table":{"schema":"public","name":"orders"},"old":OLD,"new":null,"txid":"740"}"#;
        assert_eq!(body, expected.replace("OLD", kept));
    }
}
