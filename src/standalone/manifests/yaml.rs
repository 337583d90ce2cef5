//! YAML text to JSON values that remember their lines.
//!
//! Read as kubectl reads it, which is YAML 1.1 where it differs: an unquoted `on` or `no` is a boolean there. As a key
//! it is refused, as a value it becomes the boolean, so that a file that works here works in a cluster.

use std::{borrow::Cow, collections::BTreeMap};

use saphyr::{MarkedYaml, Scalar, ScalarStyle, Tag, YamlData, YamlLoader};
use saphyr_parser::Parser;
use serde_json::{Map, Number, Value};

/// One document of a file.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Document {
    /// What it says.
    pub(super) value: Value,
    /// The line, from 1, of everything in it, by JSON pointer.
    pub(super) lines: BTreeMap<String, usize>,
    /// Values that are booleans only in YAML 1.1, as they were written.
    pub(super) spelled: BTreeMap<String, String>,
    /// What cannot be said in JSON, or would be read differently by kubectl: pointer and sentence.
    pub(super) findings: Vec<(String, String)>,
}

/// Text that is not YAML.
#[derive(Debug, PartialEq)]
pub(super) struct NotYaml {
    /// Where reading stopped.
    pub(super) line: usize,
    /// Why.
    pub(super) why: String,
}

/// Reads the documents before the first error, and the error.
pub(super) fn read(text: &str) -> (Vec<Document>, Option<NotYaml>) {
    let mut loader = YamlLoader::<MarkedYaml>::default();
    // Scalars stay as they were written, so that `on` and "on" can be told apart.
    loader.early_parse(false);
    let scanned = Parser::new_from_str(text).load(&mut loader, true);
    let error = scanned.err().or_else(|| loader.error().cloned());
    let error = error.map(|error| NotYaml { line: error.marker().line(), why: error.info().to_owned() });
    let documents = loader.into_documents().into_iter().map(|node| {
        let mut document = Document::default();
        document.lines.insert(String::new(), node.span.start.line());
        document.value = document.convert(&node, "");
        document
    });
    (documents.filter(|document| !document.value.is_null()).collect(), error)
}

impl Document {
    /// The part of a document that is an object by itself, such as an item of a List.
    pub(super) fn part(&self, pointer: &str) -> Self {
        let strip = |path: &String| {
            path.strip_prefix(pointer).filter(|rest| rest.is_empty() || rest.starts_with('/')).map(str::to_owned)
        };
        Self {
            value: self.value.pointer(pointer).cloned().unwrap_or_default(),
            lines: self.lines.iter().filter_map(|(path, line)| Some((strip(path)?, *line))).collect(),
            spelled: self.spelled.iter().filter_map(|(path, text)| Some((strip(path)?, text.clone()))).collect(),
            findings: self.findings.iter().filter_map(|(path, text)| Some((strip(path)?, text.clone()))).collect(),
        }
    }

    /// The line of what a pointer names, or of the nearest thing around it.
    pub(super) fn line(&self, pointer: &str) -> usize {
        let mut pointer = pointer;
        loop {
            match (self.lines.get(pointer), pointer.rfind('/')) {
                (Some(line), _) => return *line,
                (None, Some(end)) => pointer = &pointer[..end],
                (None, None) => return 1,
            }
        }
    }

    fn convert(&mut self, node: &MarkedYaml<'_>, pointer: &str) -> Value {
        match &node.data {
            YamlData::Representation(text, style, tag) => self.scalar(text, *style, tag.as_ref(), pointer),
            YamlData::Value(scalar) => json(scalar),
            YamlData::Sequence(items) => {
                let items = items.iter().enumerate().map(|(index, item)| {
                    let pointer = format!("{pointer}/{index}");
                    self.lines.insert(pointer.clone(), item.span.start.line());
                    self.convert(item, &pointer)
                });
                Value::Array(items.collect())
            }
            YamlData::Mapping(entries) => {
                let mut object = Map::new();
                for (key, value) in entries {
                    let name = self.key(key, pointer);
                    let pointer = format!("{pointer}/{}", escape(&name));
                    self.lines.insert(pointer.clone(), key.span.start.line());
                    let value = self.convert(value, &pointer);
                    if object.insert(name, value).is_some() {
                        self.findings.push((pointer, "stands here twice; keep one".to_owned()));
                    }
                }
                Value::Object(object)
            }
            YamlData::Tagged(tag, node) => {
                self.findings.push((pointer.to_owned(), format!("the tag {tag} has no meaning here; leave it out")));
                self.convert(node, pointer)
            }
            YamlData::Alias(_) | YamlData::BadValue => Value::Null,
        }
    }

    fn key(&mut self, key: &MarkedYaml<'_>, within: &str) -> String {
        let YamlData::Representation(text, style, _) = &key.data else {
            self.findings.push((within.to_owned(), "has a key that is not a string".to_owned()));
            return String::new();
        };
        if *style == ScalarStyle::Plain && boolean(text).is_some() {
            let why = format!("without quotes this key is a boolean to kubectl (YAML 1.1); write \"{text}\":");
            self.findings.push((format!("{within}/{}", escape(text)), why));
        }
        text.clone().into_owned()
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&Cow<'_, Tag>>, pointer: &str) -> Value {
        if style == ScalarStyle::Plain && tag.is_none() {
            if let Some(value) = boolean(text) {
                if !matches!(text.to_ascii_lowercase().as_str(), "true" | "false") {
                    self.spelled.insert(pointer.to_owned(), text.to_owned());
                }
                return Value::Bool(value);
            }
        }
        match Scalar::parse_from_cow_and_metadata(text.into(), style, tag) {
            Some(scalar) => json(&scalar),
            None => {
                let tag = tag.map(ToString::to_string).unwrap_or_default();
                self.findings.push((pointer.to_owned(), format!("{text:?} cannot be read as {tag}")));
                Value::Null
            }
        }
    }
}

/// A boolean of YAML 1.1 (<https://yaml.org/type/bool.html>).
fn boolean(text: &str) -> Option<bool> {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Some(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Some(false),
        _ => None,
    }
}

fn json(scalar: &Scalar<'_>) -> Value {
    match scalar {
        Scalar::Null => Value::Null,
        Scalar::Boolean(value) => Value::Bool(*value),
        Scalar::Integer(value) => Value::from(*value),
        // JSON has no infinity; the text form then meets a field that wants a number.
        Scalar::FloatingPoint(value) => {
            Number::from_f64(value.0).map_or_else(|| Value::String(value.to_string()), Value::Number)
        }
        Scalar::String(value) => Value::String(value.clone().into_owned()),
    }
}

/// A key as a segment of a JSON pointer (RFC 6901).
pub(super) fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn everything_knows_its_line() {
        let (documents, error) = read("# a comment\na:\n  - b: 1\n    c/d: [x,\n      z]\n---\n---\ne: |\n  f\n");
        assert_eq!(error, None);
        assert_eq!(documents.len(), 2, "an empty document is none");
        assert_eq!(documents[0].value, json!({"a": [{"b": 1, "c/d": ["x", "z"]}]}));
        for (pointer, line) in [("/a", 2), ("/a/0/b", 3), ("/a/0/c~1d", 4), ("/a/0/c~1d/1", 5), ("/a/0/b/none", 3)] {
            assert_eq!(documents[0].line(pointer), line, "{pointer}");
        }
        assert_eq!((documents[1].line("/e"), &documents[1].value), (8, &json!({"e": "f\n"})));
    }

    #[test]
    fn documents_before_an_error_are_kept() {
        let (documents, error) = read("a: 1\n---\nb: [1\nc: 2\n");
        assert_eq!(documents.len(), 1);
        assert_eq!(error.map(|error| error.line), Some(4));
    }

    #[test]
    fn what_kubectl_takes_for_a_boolean_is_one_here() {
        let (documents, _) = read("a: yes\nb: \"no\"\nc: [true, n]\n");
        assert_eq!(documents[0].value, json!({"a": true, "b": "no", "c": [true, false]}));
        assert_eq!(documents[0].spelled.keys().collect::<Vec<_>>(), ["/a", "/c/1"]);
        let (documents, _) = read("on: 1\n\"off\": 2\n");
        let why = "without quotes this key is a boolean to kubectl (YAML 1.1); write \"on\":";
        assert_eq!(documents[0].findings, [("/on".to_owned(), why.to_owned())]);
    }

    #[test]
    fn a_key_that_stands_twice_is_found() {
        let (documents, error) = read("a: 1\n\"a\": 2\n");
        assert!(error.is_some() || documents[0].findings[0].1.contains("twice"));
        assert_eq!(read("a: 1\na: 2\n").1.map(|error| error.line), Some(2));
    }

    #[test]
    fn anchors_are_followed_and_bombs_are_not() {
        assert_eq!(read("a: &x [1]\nb: *x\n").0[0].value, json!({"a": [1], "b": [1]}));
        let bomb: String =
            (1..12).map(|n| format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(","))).collect();
        assert!(read(&format!("a0: &a0 x\n{bomb}")).1.is_some());
    }
}
