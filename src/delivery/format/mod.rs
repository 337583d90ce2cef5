//! What a request says: events become headers and a body. Pure.

pub(crate) mod cloudevents;
mod hasura;
mod text;

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;

use self::text::{push_json, push_number, pushed};
use super::{
    lanes::Keys,
    row::{NotARow, Row},
    signing,
    target::Target,
};
use crate::{
    log::{
        Capture, Event, Operation,
        definition::{Columns, Format, Mode, Ordering, Sink},
    },
    name::{Ident, ObjectName},
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

/// W3C's header for the trace that a request belongs to.
pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const AGENT: HeaderValue = HeaderValue::from_static(concat!("eventtrigger/", env!("CARGO_PKG_VERSION")));

/// An event to send.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item<'a> {
    pub(super) event: &'a Event,
    /// What caught it.
    pub(super) capture: &'a Capture,
    /// Its keys, as [`keys`] told them.
    pub(super) keys: &'a Keys<String>,
    /// Which attempt this is, from 1.
    pub(super) attempt: u32,
}

/// A request, but for what belongs to the attempt: signature and token.
#[derive(Clone, Debug)]
pub(super) struct Written {
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// What a dead letter sink is told beside the event, in Knative's words
/// (<https://knative.dev/docs/eventing/event-delivery/#configuring-subscription-event-delivery>).
#[derive(Clone, Debug)]
pub(super) struct Obituary([(&'static str, String); 3]);

impl Obituary {
    /// Of an event that `destination` did not take, though it answered with `code` or not at all; `said` is bounded text.
    pub(super) fn new(destination: &str, code: Option<u16>, said: &str) -> Self {
        let code = code.map(|code| code.to_string()).unwrap_or_default();
        Self([
            ("knativeerrordest", without_credentials(destination)),
            ("knativeerrorcode", code),
            ("knativeerrordata", STANDARD.encode(said)),
        ])
    }

    /// The request with it: where the event's other attributes stand; if it is no CloudEvent, in headers.
    pub(super) fn added(&self, format: &Format, mut written: Written) -> Written {
        // An attribute must not be empty.
        let attributes = self.0.iter().filter(|(_, value)| !value.is_empty());
        let start = match format {
            Format::CloudEvents(Mode::Structured) => "{",
            Format::CloudEvents(Mode::Batch(_)) => "[{",
            Format::CloudEvents(Mode::Binary) | Format::Hasura { .. } => {
                let header = |name| HeaderName::try_from(format!("ce-{name}")).expect("letters");
                let attributes = attributes.map(|(name, value)| (header(name), cloudevents::attribute(value)));
                written.headers.extend(attributes);
                return written;
            }
        };
        let mut body = start.as_bytes().to_vec();
        for (name, value) in attributes {
            body.extend(format!("{}:{},", json(name), json(value)).into_bytes());
        }
        body.extend(&written.body[start.len()..]);
        Written { body: body.into(), ..written }
    }
}

/// A definition's URL has none; this one may have been written by another version.
fn without_credentials(url: &str) -> String {
    let Ok(mut url) = Url::parse(url) else { return String::new() };
    let _ = (url.set_username(""), url.set_password(None));
    url.into()
}

impl Target {
    /// The request that sends `items`: several in batch mode, else one.
    ///
    /// In every format `webhook-id` is the event's id. Fails as a whole if the log's row of one of them is broken.
    pub(super) fn write(&self, items: &[Item<'_>]) -> Result<Written, NotARow> {
        let [first, ..] = items else { panic!("there is always an event to send") };
        let mut written = match &self.format {
            Format::CloudEvents(Mode::Binary) => cloudevents::binary(self, first)?,
            Format::CloudEvents(Mode::Structured) => cloudevents::structured(self, first)?,
            Format::CloudEvents(Mode::Batch(_)) => return cloudevents::batch(self, items),
            Format::Hasura { trigger } => hasura::event(self, trigger.as_deref(), first)?,
        };
        let id = pushed(|text| self.push_id(text, first.event));
        written.headers.insert(signing::ID, plain(&id));
        Ok(written)
    }

    /// An event's name for ever.
    fn push_id(&self, text: &mut String, event: &Event) {
        text.push_str(&self.log_id);
        text.push('-');
        push_number(text, event.id);
    }
}

/// Whether a header is one of those that are set here.
pub(super) fn sets(name: &HeaderName) -> bool {
    cloudevents::sets(name) || *name == TRACEPARENT || *name == header::CONTENT_TYPE
}

/// Adds to a sink's own headers those that are the same for every event of a subscription.
pub(super) fn constant(sink: &Sink, source: &str, trigger: &ObjectName, headers: &mut HeaderMap) {
    let (agent, kind) = match &sink.format {
        Format::CloudEvents(Mode::Binary) => {
            headers.extend(cloudevents::constant(source, trigger, &sink.extensions));
            (AGENT, "application/json")
        }
        Format::CloudEvents(Mode::Structured) => (AGENT, "application/cloudevents+json"),
        Format::CloudEvents(Mode::Batch(_)) => (AGENT, "application/cloudevents-batch+json"),
        Format::Hasura { .. } => (hasura::AGENT, "application/json"),
    };
    headers.entry(header::USER_AGENT).or_insert(agent);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
}

/// The values of the ordering key before and after the change, each as `ce-partitionkey` has it; where there is no order:
/// none; for a truncation: every key there is.
pub(super) fn keys(event: &Event, capture: &Capture, ordering: &Ordering) -> Result<Keys<String>, NotARow> {
    let columns = match ordering {
        Ordering::None => return Ok(Keys::None),
        Ordering::PrimaryKey => &capture.key,
        Ordering::Columns(columns) => columns,
    };
    if event.operation == Operation::Truncate {
        return Ok(Keys::All);
    }
    if columns.is_empty() {
        return Ok(Keys::None);
    }
    let (old, new) = (event.old.as_deref(), event.new.as_deref());
    let row = new.map(Row::parse).transpose()?;
    if let (Some(old), Some(row)) = (old, &row)
        && row.begins_as(old, columns)
    {
        return Ok(Keys::One(row_key(row, columns)));
    }
    let old = old.map(|old| key(old, columns)).transpose()?;
    Ok(Keys::of(old, row.map(|row| row_key(&row, columns))))
}

fn key(row: &str, columns: &[Ident]) -> Result<String, NotARow> {
    Ok(row_key(&Row::parse(row)?, columns))
}

fn row_key(row: &Row<'_>, columns: &[Ident]) -> String {
    let mut key = String::new();
    for (place, column) in columns.iter().enumerate() {
        if place > 0 {
            key.push('/');
        }
        key.extend(utf8_percent_encode(&row.text(column.as_str()), SEGMENT));
    }
    key
}

/// A row as a trigger shows it, as JSON. It stands there as the log has it, byte for byte; only columns that are not wanted are
/// taken out.
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

/// A text as JSON has it.
pub(super) fn json(text: &str) -> String {
    pushed(|json| push_json(json, text))
}

/// A header of text that is visible ASCII by nature.
fn plain(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("visible ASCII")
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use rstest::rstest;

    use super::{
        super::target::tests::{config, definition},
        *,
    };
    use crate::{
        log::{
            Bits, Definition,
            definition::{Batch, Context, Sink},
        },
        name::TableName,
    };

    pub(super) const LOG: &str = "6f1c3a9e-0000-4000-8000-00000000000a";

    pub(super) fn event(operation: Operation, old: Option<&str>, new: Option<&str>) -> Event {
        Event {
            id: 1234,
            txid: 740,
            place: 740,
            at: Timestamp::from_microsecond(1_767_225_600_000_120).unwrap(),
            capture: 1,
            operation,
            matched: Bits::new(1, &[0x80]),
            old: old.map(str::to_owned),
            new: new.map(str::to_owned),
            context: None,
            weight: crate::log::Weight::default(),
        }
    }

    pub(super) fn capture(key: &[&str]) -> Capture {
        Capture {
            id: 1,
            table: TableName::new("public", "orders"),
            key: key.iter().copied().map(Ident::new).collect(),
            triggers: vec![7],
        }
    }

    pub(super) fn target(format: Format, columns: Columns, context: Context) -> Target {
        let mut definition = Definition { columns, context, ..definition("http://billing", Vec::new()) };
        definition.sink = definition.sink.map(|sink| Sink { format, ..sink });
        Target::new(&definition, &config(), LOG).unwrap()
    }

    /// The request of one event, its headers sorted and as text.
    pub(super) fn sent(target: &Target, event: &Event, capture: &Capture) -> (Vec<(String, String)>, String) {
        let keys = keys(event, capture, &target.ordering).unwrap();
        let Written { headers, body } = target.write(&[Item { event, capture, keys: &keys, attempt: 1 }]).unwrap();
        let mut headers: Vec<_> =
            headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
        headers.sort();
        (headers, String::from_utf8(body.to_vec()).unwrap())
    }

    #[test]
    fn several_key_columns_are_joined_in_order() {
        let event = event(Operation::Delete, Some(r#"{"b":2,"a":"x/y","c":3}"#), None);
        assert_eq!(
            keys(&event, &capture(&["a", "b"]), &Ordering::PrimaryKey).unwrap(),
            Keys::One("x%2Fy/2".to_owned())
        );
    }

    #[rstest]
    #[case::same(r#"{"id":1,"n":1}"#, r#"{"id":1,"n":2}"#, &["1"])]
    #[case::one_begins_as_the_other(r#"{"id":1,"n":1}"#, r#"{"id":12,"n":1}"#, &["1", "12"])]
    #[case::the_other_way_round(r#"{"id":12,"n":1}"#, r#"{"id":1,"n":1}"#, &["12", "1"])]
    #[case::text(r#"{"id":"a","n":1}"#, r#"{"id":"a\"","n":1}"#, &["a", "a%22"])]
    #[case::alone(r#"{"id":1}"#, r#"{"id":1}"#, &["1"])]
    #[case::behind_what_changes(r#"{"n":1,"id":1}"#, r#"{"n":12,"id":1}"#, &["1"])]
    #[case::renamed_meanwhile(r#"{"old":1}"#, r#"{"id":1}"#, &["null", "1"])]
    #[case::missing(r#"{"n":1}"#, r#"{"n":1}"#, &["null"])]
    fn the_key_before_is_compared_with_that_after(#[case] old: &str, #[case] new: &str, #[case] expected: &[&str]) {
        let event = event(Operation::Update, Some(old), Some(new));
        let keys = keys(&event, &capture(&["id"]), &Ordering::PrimaryKey).unwrap();
        assert_eq!(keys.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_dead_letter_sink_is_told_where_the_other_attributes_stand() {
        let obituary = Obituary::new("http://u:secret@billing/x y", Some(422), "no ü");
        let event = event(Operation::Insert, None, Some(r#"{"id":1}"#));
        let keys = Keys::One("1".to_owned());
        let sent = |format: Format| {
            let target = target(format, Columns::All, Context::default());
            let items = [Item { event: &event, capture: &capture(&["id"]), keys: &keys, attempt: 1 }];
            let Written { headers, body } = obituary.added(&target.format, target.write(&items).unwrap());
            (headers, serde_json::from_slice::<serde_json::Value>(&body).unwrap())
        };
        let expected = [
            ("knativeerrordest", "http://billing/x%20y"),
            ("knativeerrorcode", "422"),
            ("knativeerrordata", "bm8gw7w="),
        ];
        let batch = Batch { max_events: 10, max_bytes: 1000, linger: std::time::Duration::ZERO };
        let (headers, _) = sent(Format::default());
        let (_, structured) = sent(Format::CloudEvents(Mode::Structured));
        let (_, batch) = sent(Format::CloudEvents(Mode::Batch(batch)));
        for (name, value) in expected {
            // What is not visible ASCII would be escaped once more; a URL has nothing of it but the %.
            assert_eq!(headers[format!("ce-{name}")], value.replace('%', "%25"));
            assert_eq!((&structured[name], &batch[0][name]), (&value.into(), &value.into()));
        }
        assert_eq!(structured["subject"], "public.orders/1");
        let silent = Obituary::new("http://billing/", None, "no response within 30s");
        let written = silent.added(&Format::default(), Written { headers: HeaderMap::new(), body: Bytes::new() });
        assert!(!written.headers.contains_key("ce-knativeerrorcode") && written.headers.len() == 2);
    }

    #[test]
    fn a_truncation_concerns_every_key() {
        let event = event(Operation::Truncate, None, None);
        assert_eq!(keys(&event, &capture(&["id"]), &Ordering::PrimaryKey).unwrap(), Keys::All);
        assert_eq!(keys(&event, &capture(&[]), &Ordering::PrimaryKey).unwrap(), Keys::All);
    }

    #[test]
    fn a_row_that_is_none_is_an_error() {
        let event = event(Operation::Insert, None, Some("[1]"));
        assert!(keys(&event, &capture(&["id"]), &Ordering::PrimaryKey).is_err());
        let target = target(Format::default(), Columns::Exclude(Vec::new()), Context::default());
        let item = Item { event: &event, capture: &capture(&[]), keys: &Keys::None, attempt: 1 };
        assert!(target.write(&[item]).is_err());
    }
}
