//! A row as the log has it, JSON text, taken apart without changing a byte of its values.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::name::Ident;

/// A row.
#[derive(Debug)]
pub(super) struct Row<'a> {
    text: &'a str,
    /// In its order.
    columns: Columns<'a>,
}

#[derive(Debug)]
struct Columns<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// What should have been a JSON object is none.
#[derive(Debug, thiserror::Error)]
#[error("the log's row is not a JSON object")]
pub(super) struct NotARow(#[from] serde_json::Error);

impl<'a> Row<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, NotARow> {
        Ok(Self { text, columns: serde_json::from_str(text)? })
    }

    /// A column's value as text: a string without its quotes, anything else as it is written, `null` if it is missing.
    pub(super) fn text(&self, column: &str) -> Cow<'a, str> {
        let value = self.value(column).unwrap_or("null");
        // To try it with a number would cost more than all the rest.
        let text = value.starts_with('"').then(|| serde_json::from_str::<Name<'_>>(value).ok()).flatten();
        text.map_or(Cow::Borrowed(value), |Name(text)| text)
    }

    fn value(&self, column: &str) -> Option<&'a str> {
        self.columns.0.iter().find(|(name, _)| name == column).map(|(_, value)| value.get())
    }

    /// Whether another version of the row, so far unread, is the same up to where these columns are over. It is most of the time, for
    /// a key is rarely changed and usually comes first; then the other need not be read.
    pub(super) fn begins_as(&self, other: &str, columns: &[Ident]) -> bool {
        // With what follows the value: 1 is where 12 begins.
        let end = |column: &Ident| {
            let value = self.value(column.as_str())?;
            Some(value.as_ptr().addr() - self.text.as_ptr().addr() + value.len() + 1)
        };
        let ends = columns.iter().map(end).try_fold(0, |last, end| Some(last.max(end?)));
        ends.is_some_and(|end| self.text.as_bytes().get(..end) == other.as_bytes().get(..end))
    }

    /// A row of some of the columns.
    pub(super) fn keep(&self, wanted: impl Fn(&str) -> bool) -> String {
        let kept = self.columns.0.iter().filter(|(name, _)| wanted(name));
        let columns: Vec<_> =
            kept.map(|(name, value)| format!("{}:{}", serde_json::Value::from(&**name), value.get())).collect();
        format!("{{{}}}", columns.join(","))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Columns<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Columns<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a row")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Columns<'de>, M::Error> {
                let mut columns = Vec::new();
                while let Some((Name(name), value)) = map.next_entry()? {
                    columns.push((name, value));
                }
                Ok(Columns(columns))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

/// Text, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);
