//! Manifests from files, checked as the API server and the controller would check them; all mistakes at once.

mod binding;
mod references;
mod schema;
mod source;
mod yaml;

use std::{collections::BTreeMap, fmt};

use k8s_openapi::{
    ByteString,
    api::core::v1::{Secret, Service},
};
use kube::core::Resource;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use self::{
    schema::{Finding, Schema, field, offer},
    yaml::{Document, escape},
};
use crate::{
    api::{EventLog, EventSink, EventTrigger, GROUP, VERSION},
    name::ObjectName,
};

pub(super) use binding::is_variable;
pub use references::variable;
pub use source::{Source, read};

/// Something that the user must change before anything is done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mistake {
    /// The file.
    pub file: String,
    /// The line in it, from 1.
    pub line: Option<usize>,
    /// Kind, namespace and name.
    pub object: Option<String>,
    /// Field, value and remedy.
    pub what: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, object, what } = self;
        f.write_str(file)?;
        if let Some(line) = line {
            write!(f, ":{line}")?;
        }
        if let Some(object) = object {
            write!(f, ": {object}")?;
        }
        write!(f, ": {what}")
    }
}

/// What the command line says about all manifests.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The namespace of objects that name none.
    pub namespace: String,
    /// Where Services are.
    pub services: BTreeMap<ObjectName, String>,
    /// Environment variables: Secrets may be in them, see [`variable`], and what a Knative `SinkBinding` says.
    pub environment: BTreeMap<String, String>,
}

/// Where an object stands.
#[derive(Debug)]
struct Origin {
    file: String,
    document: Document,
}

/// Names an object: its kind, and its namespace and name.
type Key = (String, ObjectName);

/// Every object of all files.
#[derive(Debug, Default)]
pub struct Manifests {
    /// EventLogs.
    pub logs: BTreeMap<ObjectName, EventLog>,
    /// EventSinks.
    pub sinks: BTreeMap<ObjectName, EventSink>,
    /// EventTriggers.
    pub triggers: BTreeMap<ObjectName, EventTrigger>,
    /// Secrets, also those from the environment.
    pub secrets: BTreeMap<ObjectName, Secret>,
    /// Services.
    pub services: BTreeMap<ObjectName, Service>,
    /// Where Services are, by command line.
    pub service_urls: BTreeMap<ObjectName, String>,
    /// `status.address.url` of objects of other kinds, by API version, kind and name.
    pub addresses: BTreeMap<(String, String, ObjectName), Option<String>>,
    /// What was read and left alone, a sentence each.
    pub notes: Vec<String>,
    origins: BTreeMap<Key, Origin>,
}

/// Reads manifests. If there is any mistake, all of them, in the order of the files.
pub fn load(sources: &[Source], settings: &Settings) -> Result<Manifests, Vec<Mistake>> {
    let mut schemas = Schema::ours();
    schemas.extend(["Secret", "Service"].map(Schema::metadata_only));
    let mut loader = Loader { schemas, settings, found: Manifests::default(), mistakes: Vec::new() };
    for source in sources {
        let (documents, error) = yaml::read(&source.text);
        for document in &documents {
            loader.document(&source.name, document);
        }
        if let Some(yaml::NotYaml { line, why }) = error {
            let what = format!("is not YAML from here on: {why}; check indentation and quotes");
            loader.mistakes.push(Mistake { file: source.name.clone(), line: Some(line), object: None, what });
        }
    }
    let Loader { mut found, mut mistakes, .. } = loader;
    found.service_urls.clone_from(&settings.services);
    mistakes.extend(references::check(&mut found, &settings.environment));
    if mistakes.is_empty() && found.triggers.is_empty() {
        let file = sources.iter().map(|source| source.name.as_str()).collect::<Vec<_>>().join(", ");
        let what = "there is no EventTrigger; nothing would be captured".to_owned();
        mistakes.push(Mistake { file, line: None, object: None, what });
    }
    let order = |mistake: &Mistake| sources.iter().position(|source| source.name == mistake.file);
    mistakes.sort_by_key(|mistake| (order(mistake), mistake.line));
    if mistakes.is_empty() { Ok(found) } else { Err(mistakes) }
}

impl Manifests {
    /// A mistake at a field of an object, such as `spec.sink.ref`.
    pub fn mistake(&self, kind: &str, name: &ObjectName, field: &str, what: impl Into<String>) -> Mistake {
        let object = Some(format!("{kind} {name}"));
        let origin = self.origins.get(&(kind.to_owned(), name.clone()));
        let line = origin.map(|origin| origin.document.line(&schema::pointer(field)));
        let file = origin.map_or_else(String::new, |origin| origin.file.clone());
        Mistake { file, line, object, what: what.into() }
    }

    fn has(&self, kind: &str, name: &ObjectName) -> bool {
        self.origins.contains_key(&(kind.to_owned(), name.clone()))
    }
}

struct Loader<'a> {
    schemas: Vec<Schema>,
    settings: &'a Settings,
    found: Manifests,
    mistakes: Vec<Mistake>,
}

impl Loader<'_> {
    fn document(&mut self, file: &str, document: &Document) {
        let is_list = document.value["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
        match &document.value["items"] {
            Value::Array(items) if is_list => {
                for index in 0..items.len() {
                    self.document(file, &document.part(&format!("/items/{index}")));
                }
            }
            _ => self.object(file, document),
        }
    }

    fn object(&mut self, file: &str, document: &Document) {
        let mut value = document.value.clone();
        let at = Place { file, document, object: described(&value, &self.settings.namespace) };
        if !value.is_object() {
            self.mistakes.push(at.mistake("", "is not a manifest; one begins with apiVersion and kind"));
            return;
        }
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            // kubectl prints `creationTimestamp: null`.
            metadata.retain(|_, value| !value.is_null());
        }
        let text = |name: &str| value[name].as_str().map(str::to_owned);
        let (Some(api_version), Some(kind)) = (text("apiVersion"), text("kind")) else {
            for (name, example) in [("apiVersion", format!("{GROUP}/{VERSION}")), ("kind", "EventTrigger".to_owned())] {
                if !value[name].is_string() {
                    self.mistakes
                        .push(at.mistake(&format!("/{name}"), format!("is missing; write it, such as {example}")));
                }
            }
            return;
        };
        let ours = ["EventLog", "EventSink", "EventTrigger"];
        let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
        if group == GROUP && !ours.contains(&kind.as_str()) {
            self.mistakes.push(at.mistake("/kind", format!("{kind:?} is no kind of {GROUP}; {}", offer(&kind, &ours))));
            return;
        }
        if group == GROUP && version != VERSION {
            let what = format!("{api_version:?} is not a version of {kind}; write {GROUP}/{VERSION}");
            self.mistakes.push(at.mistake("/apiVersion", what));
        }
        let known = group == GROUP || api_version == "v1" && matches!(kind.as_str(), "Secret" | "Service");
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.entry("namespace").or_insert_with(|| Value::from(self.settings.namespace.as_str()));
        }
        let name = ObjectName::new(
            value["metadata"]["namespace"].as_str().unwrap_or(&self.settings.namespace),
            value["metadata"]["name"].as_str().unwrap_or_default(),
        );
        if known {
            self.known(&at, &kind, name, value);
        } else {
            let address = value.pointer("/status/address/url").and_then(Value::as_str).map(str::to_owned);
            // A Namespace stands at the head of many a file, and there is nothing to say about it.
            if address.is_none() && kind != "Namespace" {
                let (line, object) = (document.line(""), at.object.as_deref().unwrap_or(&kind));
                self.found.notes.push(format!("{file}:{line}: {object} is of no use here; ignored"));
            }
            self.found.addresses.insert((api_version, kind, name), address);
        }
    }

    fn known(&mut self, at: &Place<'_>, kind: &str, name: ObjectName, mut value: Value) {
        let Some(schema) = self.schemas.iter().find(|schema| schema.kind == kind) else { return };
        let bound = if kind == "EventTrigger" { binding::bind(&mut value, &self.settings.environment) } else { Ok(()) };
        if let Err(why) = bound {
            self.mistakes.push(at.mistake("/spec/sink", why));
            return;
        }
        let mut findings = schema.check(&value);
        let value_with_defaults = schema.with_defaults(&value);
        if kind == "Secret" {
            findings.extend(secret_findings(&value));
        }
        let mut mistakes: Vec<Mistake> = findings.into_iter().map(|finding| at.found(finding)).collect();
        mistakes.extend(at.document.findings.iter().map(|(pointer, text)| at.mistake(pointer, text.clone())));
        let key = (kind.to_owned(), name.clone());
        if let Some(first) = self.found.origins.get(&key).filter(|_| !name.name.is_empty()) {
            let place = format!("{}:{}", first.file, first.document.line(""));
            mistakes.push(
                at.mistake("/metadata/name", format!("{:?} is also defined at {place}; remove one of them", name.name)),
            );
        }
        if mistakes.is_empty() {
            value = value_with_defaults;
            value["metadata"]["uid"] = json!(uid(kind, &name));
            if kind != "Service" {
                // Not ours to read: a status that somebody pasted must not pass for one that we found.
                value.as_object_mut().map(|object| object.remove("status"));
            }
            let kept = match kind {
                "EventLog" => keep(&mut self.found.logs, name, value),
                "EventSink" => keep(&mut self.found.sinks, name, value),
                "EventTrigger" => keep(&mut self.found.triggers, name, value),
                "Secret" => keep(&mut self.found.secrets, name, value),
                _ => keep(&mut self.found.services, name, value),
            };
            if let Err(why) = kept {
                mistakes.push(at.mistake("", format!("cannot be read: {why}")));
            }
        }
        self.mistakes.append(&mut mistakes);
        let document = at.document.part("");
        self.found.origins.entry(key).or_insert(Origin { file: at.file.to_owned(), document });
    }
}

/// Where an object stands, to say what is wrong with it.
struct Place<'a> {
    file: &'a str,
    document: &'a Document,
    object: Option<String>,
}

impl Place<'_> {
    fn mistake(&self, pointer: &str, text: impl Into<String>) -> Mistake {
        let text = text.into();
        let field = field(pointer);
        let what = if field.is_empty() { text } else { format!("{field}: {text}") };
        let line = Some(self.document.line(pointer));
        Mistake { file: self.file.to_owned(), line, object: self.object.clone(), what }
    }

    fn found(&self, Finding { pointer, text }: Finding) -> Mistake {
        let text = match self.document.spelled.get(&pointer) {
            Some(word) if text.contains("is a boolean") => {
                format!("{word} without quotes is a boolean to kubectl (YAML 1.1); write \"{word}\"")
            }
            _ => text,
        };
        self.mistake(&pointer, text)
    }
}

fn keep<T: DeserializeOwned>(
    map: &mut BTreeMap<ObjectName, T>,
    name: ObjectName,
    value: Value,
) -> Result<(), serde_json::Error> {
    map.insert(name, serde_json::from_value(value)?);
    Ok(())
}

/// Kind, namespace and name, as far as they are known.
fn described(value: &Value, namespace: &str) -> Option<String> {
    let kind = value["kind"].as_str()?;
    let namespace = value["metadata"]["namespace"].as_str().unwrap_or(namespace);
    Some(match value["metadata"]["name"].as_str() {
        Some(name) => format!("{kind} {namespace}/{name}"),
        None => kind.to_owned(),
    })
}

/// Values are never repeated.
fn secret_findings(secret: &Value) -> Vec<Finding> {
    let mut findings = Vec::new();
    for part in ["data", "stringData"] {
        for (key, value) in secret[part].as_object().into_iter().flatten() {
            let pointer = format!("/{part}/{}", escape(key));
            if !value.is_string() {
                findings.push(Finding { pointer, text: "the value is not a string; put it in quotes".to_owned() });
            } else if part == "data" && serde_json::from_value::<ByteString>(value.clone()).is_err() {
                let text = "the value is not base64; encode it, or move it to stringData as it is".to_owned();
                findings.push(Finding { pointer, text });
            }
        }
    }
    findings
}

/// The same for the same object in every run: the log's owner and definitions are known by it.
fn uid(kind: &str, name: &ObjectName) -> String {
    let digest = Sha256::digest(format!("eventtrigger run\n{kind}\n{name}"));
    let half = digest.first_chunk().expect("a SHA-256 has 32 bytes");
    let hex = format!("{:032x}", u128::from_be_bytes(*half));
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// The UID that [`load`] gave an object.
pub fn uid_of(object: &impl Resource) -> String {
    object.meta().uid.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests;
