//! A row as the log has it, JSON text, taken apart without changing a byte of its values.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// The columns of a row, in its order.
#[derive(Debug)]
pub(super) struct Row<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// What should have been a JSON object is none.
#[derive(Debug, thiserror::Error)]
#[error("the log's row is not a JSON object")]
pub(super) struct NotARow(#[from] serde_json::Error);

impl<'a> Row<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, NotARow> {
        Ok(serde_json::from_str(text)?)
    }

    /// A column's value as text: a string without its quotes, anything else as it is written, `null` if it is missing.
    pub(super) fn text(&self, column: &str) -> Cow<'a, str> {
        let value = self.0.iter().find(|(name, _)| name == column).map_or("null", |(_, value)| value.get());
        // To try it with a number would cost more than all the rest.
        let text = value.starts_with('"').then(|| serde_json::from_str::<Name<'_>>(value).ok()).flatten();
        text.map_or(Cow::Borrowed(value), |Name(text)| text)
    }

    /// A row of some of the columns.
    pub(super) fn keep(&self, wanted: impl Fn(&str) -> bool) -> String {
        let kept = self.0.iter().filter(|(name, _)| wanted(name));
        let columns: Vec<_> =
            kept.map(|(name, value)| format!("{}:{}", serde_json::Value::from(&**name), value.get())).collect();
        format!("{{{}}}", columns.join(","))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Row<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Columns;

        impl<'de> Visitor<'de> for Columns {
            type Value = Row<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a row")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Row<'de>, M::Error> {
                let mut columns = Vec::new();
                while let Some((Name(name), value)) = map.next_entry()? {
                    columns.push((name, value));
                }
                Ok(Row(columns))
            }
        }

        deserializer.deserialize_map(Columns)
    }
}

/// Text, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);
