//! What a Knative `SinkBinding` tells the program that it binds: where to send to, and what to say beside.
//! <https://knative.dev/docs/eventing/custom-event-source/sinkbinding/>

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use url::Url;

/// The sink's URL.
const SINK: &str = "K_SINK";
/// What to add to every event, as JSON: `{"extensions": {"name": "value"}}`.
const OVERRIDES: &str = "K_CE_OVERRIDES";

/// Whether a variable of the environment is one of those.
pub(in super::super) fn is_variable(name: &str) -> bool {
    [SINK, OVERRIDES].contains(&name)
}

/// Lets an EventTrigger that names no sink send to the bound one. Why that cannot be, if it cannot.
pub(super) fn bind(trigger: &mut Value, environment: &BTreeMap<String, String>) -> Result<(), String> {
    let Some(sink) = environment.get(SINK).filter(|sink| !sink.is_empty()) else { return Ok(()) };
    let Some(spec) = trigger["spec"].as_object_mut().filter(|spec| !spec.contains_key("sink")) else { return Ok(()) };
    // Not repeated: it is not the manifest's, and may hold a password.
    let refused = |why: &str| Err(format!("is missing, and the environment's {SINK} {why}; correct either"));
    match Url::parse(sink) {
        Ok(url) if !matches!(url.scheme(), "http" | "https") => return refused("is neither http nor https"),
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            return refused("holds a user or password");
        }
        Ok(_) => {}
        Err(_) => return refused("is not a URL"),
    }
    spec.insert("sink".to_owned(), json!({"uri": sink}));
    let Some(overrides) = environment.get(OVERRIDES).filter(|overrides| !overrides.is_empty()) else { return Ok(()) };
    let extensions = extensions(overrides).ok_or_else(|| {
        format!(
            "{OVERRIDES} in the environment is not as Knative writes it: {{\"extensions\": {{\"name\": \"value\"}}}}"
        )
    })?;
    let own = spec.entry("ceOverrides").or_insert_with(|| json!({}));
    // What is no mapping is told of by the schema.
    let own = own.as_object_mut().map(|own| own.entry("extensions").or_insert_with(|| json!({})));
    if let Some(own) = own.and_then(Value::as_object_mut) {
        own.extend(extensions);
    }
    Ok(())
}

fn extensions(overrides: &str) -> Option<Map<String, Value>> {
    match serde_json::from_str(overrides).ok()? {
        Value::Object(mut overrides) => match overrides.remove("extensions") {
            None | Some(Value::Null) => Some(Map::new()),
            Some(Value::Object(extensions)) => Some(extensions),
            Some(_) => None,
        },
        _ => None,
    }
}
