//! What the API server would say of an object, said for people: the CRD's own schema, its defaults and its CEL rules.

use jsonschema::{ValidationError, Validator, error::ValidationErrorKind};
use kube_cel::ErrorKind;
use serde_json::{Value, json};

use super::yaml::escape;
use crate::api;

/// What is wrong at one place of an object.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Finding {
    /// Where, as a JSON pointer.
    pub(super) pointer: String,
    /// The value and the remedy.
    pub(super) text: String,
}

/// One kind's schema.
pub(super) struct Schema {
    pub(super) kind: String,
    /// As the CRD has it: defaults and rules are read from here.
    published: Value,
    /// With what the API server checks beside it.
    strict: Value,
    validator: Validator,
    /// The form of durations: said by examples, as people do not read it.
    durations: String,
}

impl Schema {
    /// Of every kind that we define.
    pub(super) fn ours() -> Vec<Self> {
        api::crds()
            .into_iter()
            .map(|crd| {
                let version = crd.spec.versions.into_iter().next();
                let schema = version.and_then(|version| version.schema).and_then(|schema| schema.open_api_v3_schema);
                let published = serde_json::to_value(schema).expect("a schema is JSON");
                Self::new(crd.spec.names.kind, published)
            })
            .collect()
    }

    /// Of a kind whose content is checked elsewhere.
    pub(super) fn metadata_only(kind: &str) -> Self {
        Self::new(kind.to_owned(), json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}))
    }

    fn new(kind: String, published: Value) -> Self {
        let mut strict = published.clone();
        tighten(&mut strict);
        strict["properties"]["apiVersion"] = json!({"type": "string"});
        strict["properties"]["kind"] = json!({"type": "string"});
        strict["properties"]["metadata"] = metadata();
        // Whoever pastes what kubectl printed has one; nobody reads it.
        strict["properties"]["status"] = json!({});
        let required = strict["required"].as_array().into_iter().flatten().cloned().chain([json!("metadata")]);
        strict["required"] = required.collect();
        let validator = jsonschema::validator_for(&strict).expect("a CRD's schema is a JSON schema");
        let durations = schemars::schema_for!(api::Duration);
        let durations = durations.get("pattern").and_then(Value::as_str).unwrap_or_default().to_owned();
        Self { kind, published, strict, validator, durations }
    }

    /// Fills in what the API server would.
    pub(super) fn with_defaults(&self, object: &Value) -> Value {
        kube_cel::apply_defaults(&self.published, object)
    }

    /// Everything that is wrong with `object`.
    pub(super) fn check(&self, object: &Value) -> Vec<Finding> {
        let mut findings: Vec<Finding> =
            self.validator.iter_errors(object).flat_map(|error| self.explain(&error)).collect();
        let broken = kube_cel::Validator::new().validate(&self.published, object, None).err();
        for rule in broken.into_iter().flatten().filter(|rule| rule.kind == ErrorKind::ValidationFailure) {
            let pointer = pointer(&rule.field_path);
            // A rule about an object whose fields are wrong mostly complains of the same mistake once more.
            if !findings.iter().any(|finding| finding.pointer.starts_with(&pointer)) {
                let value = object.pointer(&pointer).filter(|value| !value.is_object() && !value.is_array());
                let value = value.map(|value| format!("{}: ", shown(&pointer, value))).unwrap_or_default();
                findings.push(Finding { text: format!("{value}{}", rule.message), pointer });
            }
        }
        findings
    }

    fn explain(&self, error: &ValidationError<'_>) -> Vec<Finding> {
        let pointer = error.instance_path().as_str().to_owned();
        let keyword = error.schema_path().as_str();
        let schema =
            keyword.rsplit_once('/').and_then(|(parent, _)| self.strict.pointer(parent)).unwrap_or(&Value::Null);
        let value = shown(&pointer, error.instance());
        let one = |text: String| vec![Finding { pointer: pointer.clone(), text }];
        match error.kind() {
            ValidationErrorKind::AdditionalProperties { unexpected } => {
                let unknown = unexpected.iter().map(|name| Finding {
                    pointer: format!("{pointer}/{}", escape(name)),
                    text: format!("there is no such field; {}", offer(name, &properties(schema))),
                });
                unknown.collect()
            }
            ValidationErrorKind::MaxProperties { limit: 0 } => {
                let fields = error.instance().as_object().into_iter().flatten();
                let unknown = fields.map(|(name, _)| Finding {
                    pointer: format!("{pointer}/{}", escape(name)),
                    text: format!("there is no such field; {}", offer(name, &[])),
                });
                unknown.collect()
            }
            ValidationErrorKind::Required { property } => {
                let name = property.as_str().unwrap_or_default();
                let meaning = meaning(&schema["properties"][name]);
                vec![Finding {
                    pointer: format!("{pointer}/{}", escape(name)),
                    text: format!("is missing; add it{meaning}"),
                }]
            }
            ValidationErrorKind::Type { .. } => one(wrong_type(&value, error.instance(), schema)),
            ValidationErrorKind::Enum { options } => {
                let options: Vec<_> = options.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                one(format!(
                    "{value} is none of its values; {}",
                    offer(error.instance().as_str().unwrap_or_default(), &options)
                ))
            }
            ValidationErrorKind::Pattern { pattern } if self.durations == *pattern => {
                one(format!("{value} is not a duration; write it as 30s, 1m30s or PT30S"))
            }
            ValidationErrorKind::Pattern { pattern } => {
                one(format!("{value} does not have the form {pattern}{}", meaning(schema)))
            }
            ValidationErrorKind::MinLength { limit } => {
                one(format!("{value} is too short; write at least {}", count(*limit, "character")))
            }
            ValidationErrorKind::MaxLength { limit } => {
                one(format!("{value} is too long; write at most {}", count(*limit, "character")))
            }
            ValidationErrorKind::MinItems { limit } => {
                one(format!("{value} is too short; name at least {}, or leave the field out", count(*limit, "item")))
            }
            ValidationErrorKind::MaxItems { limit } => {
                one(format!("is too long; name at most {}", count(*limit, "item")))
            }
            ValidationErrorKind::Minimum { limit } => {
                one(format!("{value} is too small; the least is {}", whole(limit)))
            }
            ValidationErrorKind::Maximum { limit } => {
                one(format!("{value} is too large; the most is {}", whole(limit)))
            }
            ValidationErrorKind::UniqueItems => one(format!("{value} names something twice; name it once")),
            _ => one(error.to_string()),
        }
    }
}

/// A mistyped scalar, with the way to write it.
fn wrong_type(value: &str, instance: &Value, schema: &Value) -> String {
    let wanted = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or "),
        kind => kind.as_str().unwrap_or("something else").to_owned(),
    };
    let is = match instance {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    };
    let remedy = match (wanted.as_str(), instance) {
        ("string", Value::Bool(_) | Value::Number(_)) => "put it in quotes".to_owned(),
        ("boolean", _) => "write true or false".to_owned(),
        ("object", _) => format!("write a mapping of {}", list(&properties(schema))),
        ("array", _) => "write a list, such as [a, b]".to_owned(),
        (wanted, _) => format!("write one {wanted}"),
    };
    format!("{value} is {is}; {remedy}")
}

/// Makes the schema say what the API server's strict field validation and its own extensions of OpenAPI say.
fn tighten(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            let closed = match object.get("additionalProperties") {
                Some(additional) => *additional == Value::Bool(false),
                None => !object.contains_key("x-kubernetes-preserve-unknown-fields"),
            };
            let has_properties = object.get("properties").is_some_and(Value::is_object);
            if closed && has_properties {
                object.insert("additionalProperties".to_owned(), Value::Bool(false));
            } else if closed && object.get("type") == Some(&json!("object")) {
                // Tells of the field, where `additionalProperties: false` alone tells of a false schema.
                object.remove("additionalProperties");
                object.insert("maxProperties".to_owned(), json!(0));
            }
            if object.contains_key("x-kubernetes-int-or-string") {
                object.insert("type".to_owned(), json!(["integer", "string"]));
            }
            if object.get("x-kubernetes-list-type") == Some(&json!("set")) {
                object.insert("uniqueItems".to_owned(), Value::Bool(true));
            }
            for (key, value) in object.iter_mut() {
                match (key.as_str(), value) {
                    ("properties", Value::Object(properties)) => properties.values_mut().for_each(tighten),
                    ("items" | "additionalProperties", value) => tighten(value),
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

/// What the API server wants of every object's metadata: RFC 1123 names, and strings.
fn metadata() -> Value {
    let strings = json!({"type": "object", "additionalProperties": {"type": "string"}});
    json!({
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {
                "type": "string",
                "maxLength": 253,
                "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
                "description": "Small letters, digits, dots and dashes, such as order-paid."
            },
            "namespace": {
                "type": "string",
                "maxLength": 63,
                "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
                "description": "Small letters, digits and dashes, such as shop."
            },
            "labels": strings,
            "annotations": strings,
        },
    })
}

fn properties(schema: &Value) -> Vec<&str> {
    schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect()
}

/// The first sentence of a field's description.
fn meaning(schema: &Value) -> String {
    let Some(description) = schema["description"].as_str() else { return String::new() };
    let first = description.split_once(". ").map_or(description, |(first, _)| first);
    format!(": {}", first.trim_end_matches('.'))
}

/// The way out of a misspelt name: the nearest one if it is near, and all of them.
pub(super) fn offer(wrong: &str, names: &[&str]) -> String {
    if names.is_empty() {
        return "nothing may stand here: write {}".to_owned();
    }
    let all = list(names);
    match nearest(wrong, names) {
        Some(near) => format!("did you mean {near}? (of: {all})"),
        None => format!("use one of: {all}"),
    }
}

/// The name that `wrong` is probably meant to be: at most a third of it is different.
pub(super) fn nearest<'a>(wrong: &str, names: &[&'a str]) -> Option<&'a str> {
    let distance = |name: &str| strsim::damerau_levenshtein(&name.to_lowercase(), &wrong.to_lowercase());
    let near = names.iter().min_by_key(|name| distance(name))?;
    (distance(near) * 3 <= wrong.chars().count().max(3)).then_some(near)
}

fn list(names: &[&str]) -> String {
    names.join(", ")
}

fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// A limit, which a CRD writes as `0.0`.
fn whole(limit: &Value) -> String {
    limit.as_f64().map_or_else(|| limit.to_string(), |limit| limit.to_string())
}

/// A value for people: short, and not at all where it is secret.
fn shown(pointer: &str, value: &Value) -> String {
    if pointer.contains("/password") {
        return "the value".to_owned();
    }
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// `spec.headers[0].name` as a JSON pointer.
pub(super) fn pointer(path: &str) -> String {
    let segments = path.split(['.', '[']).map(|segment| segment.trim_end_matches(']'));
    segments.filter(|segment| !segment.is_empty()).map(|segment| format!("/{}", escape(segment))).collect()
}

/// A JSON pointer as people write a field: `spec.headers[0].name`.
pub(super) fn field(pointer: &str) -> String {
    let mut field = String::new();
    for segment in pointer.split('/').skip(1) {
        let segment = segment.replace("~1", "/").replace("~0", "~");
        if segment.parse::<usize>().is_ok() {
            field.push_str(&format!("[{segment}]"));
        } else if segment.chars().all(|char| char.is_alphanumeric() || char == '-' || char == '_') {
            field.push_str(if field.is_empty() { "" } else { "." });
            field.push_str(&segment);
        } else {
            field.push_str(&format!("[{segment:?}]"));
        }
    }
    field
}
