//! The documentation holds together: the book has every page, links lead somewhere, manifests are right, and what is made
//! from the types is up to date.

// Clippy makes an exception for functions marked as tests, not for what they call.
#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Component, Path, PathBuf},
};

use eventtrigger::{
    api::crds,
    standalone::manifests::{Settings, Source, load},
};
use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};
use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every page for people: those of the book, and those that stand where people look for them.
fn pages() -> Vec<PathBuf> {
    let pages = ["README.md", "CONTRIBUTING.md", "SECURITY.md"].map(|name| root().join(name));
    pages.into_iter().chain(files(&["docs", "charts"], "md")).collect()
}

/// The files in these folders whose names end like this.
fn files(folders: &[&str], ending: &str) -> Vec<PathBuf> {
    let (mut files, mut folders) = (Vec::new(), folders.iter().map(|folder| root().join(folder)).collect::<Vec<_>>());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == ending) {
                files.push(entry);
            }
        }
    }
    files
}

fn read(page: &Path) -> String {
    fs::read_to_string(page).unwrap_or_else(|error| panic!("{}: {error}", page.display()))
}

/// Where a page's links lead.
fn links(text: &str) -> Vec<String> {
    let link = |event| match event {
        Event::Start(Tag::Link { dest_url, .. }) => Some(dest_url.into_string()),
        _ => None,
    };
    Parser::new_ext(text, Options::ENABLE_TABLES).filter_map(link).collect()
}

/// The anchors of a page's headings, as GitHub and mdBook make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let (mut anchors, mut heading) = (BTreeSet::new(), None);
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::End(TagEnd::Heading(_)) => {
                let words = heading.take().unwrap_or_default().to_lowercase().replace(' ', "-");
                anchors.insert(words.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect());
            }
            Event::Text(words) | Event::Code(words) => {
                if let Some(heading) = &mut heading {
                    heading.push_str(&words);
                }
            }
            _ => {}
        }
    }
    anchors
}

/// Without `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        if part == Component::ParentDir {
            plain.pop();
        } else {
            plain.push(part);
        }
    }
    plain
}

#[test]
fn every_link_leads_to_a_file_and_a_heading_that_are_there() {
    let mut wrong = Vec::new();
    for page in pages() {
        let text = read(&page);
        for link in links(&text).into_iter().filter(|link| !link.contains("://") && !link.starts_with("mailto:")) {
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() { page.clone() } else { plain(&page.parent().unwrap().join(file)) };
            let is_there =
                target.exists() && (anchor.is_empty() || target.is_file() && anchors(&read(&target)).contains(anchor));
            if !is_there {
                wrong.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_book_has_every_page_once() {
    let docs = root().join("docs");
    let summary = docs.join("SUMMARY.md");
    let listed = links(&read(&summary));
    let set: BTreeSet<_> = listed.iter().map(|link| docs.join(link)).collect();
    assert_eq!(set.len(), listed.len(), "a page is listed twice");
    let there: BTreeSet<_> = pages().into_iter().filter(|page| page.starts_with(&docs) && *page != summary).collect();
    assert_eq!(set, there);
}

#[test]
fn what_is_not_in_the_book_is_linked_by_its_whole_url() {
    let docs = root().join("docs");
    let mut wrong = Vec::new();
    for page in pages().into_iter().filter(|page| page.starts_with(&docs)) {
        for link in links(&read(&page)).into_iter().filter(|link| !link.contains("://") && !link.starts_with('#')) {
            let file = link.split_once('#').map_or(link.as_str(), |(file, _)| file);
            if !plain(&page.parent().unwrap().join(file)).starts_with(&docs) {
                wrong.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Blocks of YAML that are manifests of ours.
fn manifests(text: &str) -> Vec<String> {
    let (mut blocks, mut block) = (Vec::new(), None);
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(kind))) if &*kind == "yaml" => {
                block = Some(String::new());
            }
            Event::Text(words) => {
                if let Some(block) = &mut block {
                    block.push_str(&words);
                }
            }
            Event::End(TagEnd::CodeBlock) => blocks.extend(block.take()),
            _ => {}
        }
    }
    // Not those of another kind that name one of ours.
    blocks.retain(|block| block.lines().any(|line| line.starts_with("apiVersion: eventtrigger.dev/")));
    blocks
}

#[test]
fn every_manifest_is_without_mistake() {
    // What pages leave to the reader to have made before.
    let before = [
        (
            "kind: EventLog",
            "{apiVersion: eventtrigger.dev/v1alpha1, kind: EventLog, metadata: {name: shop, namespace: shop},
              spec: {connection: {host: {value: h}, dbname: {value: d}, user: {value: u}}}}",
        ),
        (
            "kind: EventTrigger",
            "{apiVersion: eventtrigger.dev/v1alpha1, kind: EventTrigger, metadata: {name: other, namespace: shop},
              spec: {eventLogRef: {name: shop}, table: {name: t}, 'on': {insert: {}}, sink: {uri: 'https://example.com/'}}}",
        ),
    ];
    let (mut seen, mut wrong) = (0, Vec::new());
    for page in pages() {
        for block in manifests(&read(&page)) {
            seen += 1;
            let mut sources = vec![Source { name: page.display().to_string(), text: block.clone() }];
            for (kind, text) in before.iter().filter(|(kind, _)| !block.contains(kind)) {
                sources.push(Source { name: format!("another {kind}"), text: (*text).to_owned() });
            }
            let settings = Settings {
                namespace: "shop".to_owned(),
                services: ["billing", "orders-receiver"]
                    .map(|name| (eventtrigger::name::ObjectName::new("shop", name), "http://127.0.0.1:1".to_owned()))
                    .into(),
                environment: BTreeMap::new(),
            };
            if let Err(mistakes) = load(&sources, &settings) {
                wrong.extend(mistakes.iter().map(ToString::to_string));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen >= 4, "only {seen} were found");
}

/// A schema's properties, each with its path, type and description, in depth.
fn fields(schema: &Value, path: &str, text: &mut String) {
    let Some(properties) = schema["properties"].as_object() else { return };
    let required: BTreeSet<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in properties {
        // The twin of `on` for those who leave its quotes away: decision 3.
        if name == "true" {
            continue;
        }
        let path = format!("{path}.{name}");
        let items = if field["type"] == "array" { &field["items"] } else { &Value::Null };
        let kind = match (field["type"].as_str(), items["type"].as_str()) {
            _ if field["x-kubernetes-int-or-string"] == true => "integer or string".to_owned(),
            (Some("array"), Some(of)) => format!("list of {of}"),
            (kind, _) => kind.unwrap_or("object").to_owned(),
        };
        let mut notes = Vec::new();
        if let Some(values) = field["enum"].as_array().or_else(|| items["enum"].as_array()) {
            let values = values.iter().filter_map(Value::as_str).map(|value| format!("`{value}`"));
            notes.push(format!("One of {}.", values.collect::<Vec<_>>().join(", ")));
        }
        match (field["minimum"].as_f64(), field["maximum"].as_f64()) {
            (Some(least), Some(most)) => notes.push(format!("{least} to {most}.")),
            (Some(least), None) => notes.push(format!("At least {least}.")),
            (None, Some(most)) => notes.push(format!("At most {most}.")),
            (None, None) => {}
        }
        if required.contains(name.as_str()) {
            notes.push("**Required.**".to_owned());
        }
        if !field["default"].is_null() && !field["default"].is_object() {
            notes.push(format!("Default `{}`.", field["default"]));
        }
        let described = field["description"].as_str().unwrap_or_default();
        let described = described.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
        let described = std::iter::once(described).chain(notes).filter(|part| !part.is_empty()).collect::<Vec<_>>();
        let list = if field["type"] == "array" { "[]" } else { "" };
        let _ = writeln!(text, "| `{}{list}` | {kind} | {} |", path.trim_start_matches('.'), described.join(" "));
        // A value, plain or from a Secret: said once, at the top of the page.
        let is_value = field["properties"].as_object().is_some_and(|inner| {
            inner.keys().map(String::as_str).collect::<BTreeSet<_>>() == BTreeSet::from(["secretKeyRef", "value"])
        });
        let is_secret =
            field["properties"].as_object().is_some_and(|inner| inner.len() == 1 && inner.contains_key("secretKeyRef"));
        // A pod's own words: Kubernetes describes them.
        let is_pods = path.starts_with("spec.delivery.pod.");
        if !is_value && !is_secret && !is_pods && name != "conditions" && name != "secretKeyRef" {
            fields(if items.is_null() { field } else { items }, &format!("{path}{list}"), text);
        }
    }
}

#[test]
fn every_field_is_listed_as_the_types_have_it() {
    let mut text = "# Every field\n\n\
        Made from the CRDs: `kubectl explain eventtrigger.spec` says the same. A list has `[]`. Where a field is an object that may hold a value, it has \
        either `value`, which whoever can read the resource can read, or `secretKeyRef: {name, key}`, a key of a Secret in the same namespace; some have \
        only the latter.\n\nConditions and their reasons have [a page of their own](conditions.md).\n"
        .to_owned();
    for crd in crds() {
        let version = serde_json::to_value(&crd.spec.versions[0]).unwrap();
        let schema = &version["schema"]["openAPIV3Schema"];
        let kind = &crd.spec.names.kind;
        let short = crd.spec.names.short_names.iter().flatten().map(|name| format!("`{name}`")).collect::<Vec<_>>();
        let _ = write!(
            text,
            "\n## {kind}\n\n{} `apiVersion: {}/{}`; short {}.\n\n| field | type | |\n|---|---|---|\n",
            schema["description"].as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" "),
            crd.spec.group,
            crd.spec.versions[0].name,
            short.join(", "),
        );
        for part in ["spec", "status"] {
            fields(&schema["properties"][part], part, &mut text);
        }
    }
    let file = root().join("docs/reference/fields.md");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&file, &text).unwrap();
    }
    assert!(read(&file) == text, "{} is out of date: run `make crds`", file.display());
}

/// Words of the code that look like a reason, and are something of Kubernetes or of ours.
const NO_REASONS: [&str; 11] = [
    "EventLog",
    "EventLogStatus",
    "EventSink",
    "EventSinkStatus",
    "EventTrigger",
    "EventTriggerStatus",
    "ExternalName",
    "PartialEq",
    "ReplicaFailure",
    "RollingUpdate",
    "RuntimeDefault",
];

#[test]
fn every_reason_of_the_code_is_explained() {
    let two_words = |text: &str| {
        let capitals = text.chars().filter(char::is_ascii_uppercase).count();
        let abbreviated =
            text.chars().zip(text.chars().skip(1)).any(|(c, next)| c.is_uppercase() && next.is_uppercase());
        text.starts_with(|c: char| c.is_uppercase())
            && text.chars().all(|c| c.is_ascii_alphabetic())
            && capitals >= 2
            && !abbreviated
    };
    let page = read(&root().join("docs/reference/conditions.md"));
    let mut found = BTreeSet::new();
    for file in files(&["src/api", "src/capture", "src/controller", "src/delivery", "src/log", "src/resolve"], "rs") {
        let code = read(&file);
        let code = code.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        found.extend(
            lines.flat_map(|line| line.split('"').skip(1).step_by(2)).filter(|word| two_words(word)).map(str::to_owned),
        );
    }
    // Reading it does find them.
    assert!(
        ["TableNotFound", "SinkUnreachable", "ServerPromoted"].iter().all(|reason| found.contains(*reason)),
        "{found:?}"
    );
    found.retain(|word| !NO_REASONS.contains(&word.as_str()) && !page.contains(&format!("`{word}`")));
    assert!(found.is_empty(), "docs/reference/conditions.md does not explain {found:?}");
}
