//! Durations as people write them (`30s`, `1h30m`) and as Knative writes them (`PT30S`).

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// What [`parse`] takes, for the API server to refuse the rest. Not as a `pattern`, whose error would be this. RE2 has no look-ahead, so each first unit has its branch.
/// Nine digits keep the sum far from overflowing.
const PATTERN: &str = concat!(
    r"^(PT(\d{1,9}H(\d{1,9}M)?(\d{1,9}(\.\d{1,9})?S)?|\d{1,9}M(\d{1,9}(\.\d{1,9})?S)?|\d{1,9}(\.\d{1,9})?S)",
    r"|\d{1,9}h(\d{1,9}m)?(\d{1,9}s)?(\d{1,9}ms)?|\d{1,9}m(\d{1,9}s)?(\d{1,9}ms)?|\d{1,9}s(\d{1,9}ms)?|\d{1,9}ms",
    r"|(\d{1,9}h)?(\d{1,9}m)?\d{1,9}\.\d{1,9}s)$",
);

/// A length of time that is not negative. Keeps the spelling it was written in, so that an apply of the same manifest
/// changes nothing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Duration {
    written: String,
    length: std::time::Duration,
}

impl Duration {
    /// Of whole hours.
    pub fn hours(hours: u32) -> Self {
        Self { written: format!("{hours}h"), length: std::time::Duration::from_hours(hours.into()) }
    }

    /// The length of time.
    pub fn get(&self) -> std::time::Duration {
        self.length
    }
}

impl FromStr for Duration {
    type Err = String;

    fn from_str(written: &str) -> Result<Self, String> {
        let length = parse(written)
            .ok_or_else(|| format!("{written:?} is not a duration; write it as 500ms, 30s, 1m30s or PT1M30S"))?;
        Ok(Self { written: written.to_owned(), length })
    }
}

/// Units from the longest to the shortest, each at most once; only seconds may have a fraction, and end it then.
fn parse(text: &str) -> Option<std::time::Duration> {
    const HOUR: u64 = 3_600_000_000_000;
    const MINUTE: u64 = 60_000_000_000;
    const SECOND: u64 = 1_000_000_000;
    let (mut rest, units): (_, &[(&str, u64)]) = match text.strip_prefix("PT") {
        Some(rest) => (rest, &[("H", HOUR), ("M", MINUTE), ("S", SECOND)]),
        None => (text, &[("h", HOUR), ("m", MINUTE), ("s", SECOND), ("ms", 1_000_000)]),
    };
    let mut left = units.iter();
    let mut nanoseconds: u128 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (whole, after) = digits(rest)?;
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => digits(after).map(|(fraction, after)| (Some(fraction), after))?,
            None => (None, after),
        };
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let (_, length) = left.find(|(name, _)| *name == unit)?;
        nanoseconds += u128::from(whole.parse::<u64>().ok()?) * u128::from(*length);
        if let Some(fraction) = fraction {
            if *length != SECOND || !after.is_empty() {
                return None;
            }
            nanoseconds += u128::from(format!("{fraction:0<9}").parse::<u64>().ok()?);
        }
        rest = after;
    }
    let second = u128::from(SECOND);
    let seconds = u64::try_from(nanoseconds / second).ok()?;
    Some(std::time::Duration::new(seconds, u32::try_from(nanoseconds % second).ok()?))
}

/// One to nine digits, and what follows them.
fn digits(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (1..=9).contains(&end).then(|| text.split_at(end))
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
            "maxLength": 64,
            "x-kubernetes-validations": [{
                "rule": format!("self.matches('{}')", PATTERN.replace('\\', r"\\")),
                "message": "write a duration as 500ms, 30s, 1m30s or PT1M30S",
            }],
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn schema_takes(text: &str) -> bool {
        jsonschema::is_valid(&serde_json::json!({"pattern": PATTERN}), &serde_json::Value::from(text))
    }

    #[rstest]
    #[case("30s", 30_000)]
    #[case("1m30s", 90_000)]
    #[case("PT30S", 30_000)]
    #[case("PT1M30S", 90_000)]
    #[case("500ms", 500)]
    #[case("1h", 3_600_000)]
    #[case("1h30m", 5_400_000)]
    #[case("1s500ms", 1_500)]
    #[case("0.25s", 250)]
    #[case("PT0.25S", 250)]
    #[case("168h", 604_800_000)]
    #[case("0s", 0)]
    fn both_spellings_are_taken(#[case] text: &str, #[case] milliseconds: u64) {
        let duration: Duration = text.parse().unwrap();
        assert_eq!(duration.get(), std::time::Duration::from_millis(milliseconds));
        assert_eq!(duration.to_string(), text);
        assert!(schema_takes(text));
    }

    #[rstest]
    fn nonsense_is_refused(
        #[values(
            "",
            "30",
            "s",
            "PT",
            "P",
            "-1s",
            "30 s",
            "1s1m",
            "1m1m",
            "30S",
            "PT30s",
            "pt30s",
            "P1D",
            "1d",
            "1.5h",
            "1.s",
            ".5s",
            "1.5s500ms",
            "1e3s",
            "٣s",
            "30s\n",
            "1234567890s",
            "forever"
        )]
        text: &str,
    ) {
        assert!(text.parse::<Duration>().is_err());
        assert!(!schema_takes(text));
    }

    proptest! {
        #[test]
        fn pattern_and_parser_agree(text in "(PT)?([0-9]{1,2}(\\.[0-9])?(h|m|s|ms|H|M|S|d)){0,4}") {
            prop_assert_eq!(parse(&text).is_some(), schema_takes(&text), "{}", text);
        }
    }
}
