//! Durations as people write them (`30s`, `1h30m`) and as Knative writes them (`PT30S`).

use std::{borrow::Cow, fmt, str::FromStr};

use jiff::SignedDuration;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A length of time that is not negative. Keeps the spelling it was written in, so that an apply of the same manifest
/// changes nothing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Duration {
    written: String,
    length: std::time::Duration,
}

impl Duration {
    /// The length of time.
    pub fn get(&self) -> std::time::Duration {
        self.length
    }
}

impl FromStr for Duration {
    type Err = String;

    fn from_str(written: &str) -> Result<Self, String> {
        let length = written
            .parse::<SignedDuration>()
            .ok()
            .and_then(|length| std::time::Duration::try_from(length).ok())
            .ok_or_else(|| format!("{written:?} is not a duration; write it as 30s, 1m30s or PT30S"))?;
        Ok(Self { written: written.to_owned(), length })
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.written)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 32,
            "pattern": r"^(P(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+(\.\d+)?S)?)?|(\d+(\.\d+)?(ms|s|m|h|d))+)$".replace("(?=\\d)", ""),
        })
    }
}
