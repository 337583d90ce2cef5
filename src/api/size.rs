//! Sizes in bytes, as Kubernetes writes quantities: `20Gi`, `500M`.

use std::{borrow::Cow, fmt, str::FromStr};

use parse_size::parse_size;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// What the API server takes: of Kubernetes' quantities those that make sense for bytes.
const PATTERN: &str = r"^[0-9]{1,15}(\.[0-9]{1,3})?(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$";

/// A number of bytes. Keeps the spelling it was written in, so that an apply of the same manifest changes nothing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Size {
    written: String,
    bytes: u64,
}

impl Size {
    /// The number of bytes.
    pub fn get(&self) -> u64 {
        self.bytes
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(written: &str) -> Result<Self, String> {
        let wrong = || format!("{written:?} is not a size; write it as 500M, 512Mi or 20Gi");
        let units = ["", "k", "M", "G", "T", "P", "Ki", "Mi", "Gi", "Ti", "Pi"];
        let unit = written.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        if !units.contains(&unit) || !written.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(wrong());
        }
        let bytes = parse_size(written).map_err(|_| wrong())?;
        Ok(Self { written: written.to_owned(), bytes })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.written)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl JsonSchema for Size {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 32,
            "x-kubernetes-validations": [{
                "rule": format!("self.matches('{}')", PATTERN.replace('\\', r"\\")),
                "message": "write a size as 500M, 512Mi or 20Gi",
            }],
        })
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn schema_takes(text: &str) -> bool {
        jsonschema::is_valid(&serde_json::json!({"pattern": PATTERN}), &serde_json::Value::from(text))
    }

    #[rstest]
    #[case("20Gi", 20 << 30)]
    #[case("500M", 500_000_000)]
    #[case("1.5Ki", 1536)]
    #[case("4096", 4096)]
    #[case("3k", 3000)]
    fn sizes_are_taken_as_kubernetes_means_them(#[case] text: &str, #[case] bytes: u64) {
        assert_eq!(text.parse::<Size>().unwrap().get(), bytes);
        assert!(schema_takes(text));
    }

    #[rstest]
    fn nonsense_is_refused(
        #[values("", "Gi", "-1Gi", "20 Gi", "20GB", "20gi", "1m", "1e3", "1_000", "ten")] text: &str,
    ) {
        assert!(text.parse::<Size>().is_err(), "{text}");
        assert!(!schema_takes(text), "{text}");
    }
}
