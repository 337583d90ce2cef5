//! One value of a Secret.

use k8s_openapi::api::core::v1::Secret;

use super::{Objects, Problem, Stop};
use crate::api::SecretKeySelector;

/// Reads the key that `field` of a resource in `namespace` names.
pub(super) async fn value(
    objects: &impl Objects,
    namespace: &str,
    field: &str,
    selector: &SecretKeySelector,
) -> Result<String, Stop> {
    let SecretKeySelector { name, key } = selector;
    let Some(secret) = objects.secret(namespace, name).await? else {
        let message = format!("{field}: there is no Secret {namespace}/{name}; create it with a key {key:?}");
        return Err(Problem::new("SecretNotFound", message).into());
    };
    Ok(read(&secret, namespace, field, selector)?)
}

fn read(secret: &Secret, namespace: &str, field: &str, selector: &SecretKeySelector) -> Result<String, Problem> {
    let SecretKeySelector { name, key } = selector;
    // A manifest may hold `stringData`, which the API server lays over `data`.
    if let Some(value) = secret.string_data.as_ref().and_then(|data| data.get(key)) {
        return Ok(value.clone());
    }
    if let Some(bytes) = secret.data.as_ref().and_then(|data| data.get(key)) {
        return String::from_utf8(bytes.0.clone()).map_err(|_| {
            let message = format!(
                "{field}: key {key:?} of Secret {namespace}/{name} is not text in UTF-8; write the value as text"
            );
            Problem::new("InvalidSecret", message)
        });
    }
    let there = match keys(secret) {
        keys if keys.is_empty() => "it is empty".to_owned(),
        keys => format!("it has: {keys}"),
    };
    Err(Problem::new("SecretKeyNotFound", format!("{field}: Secret {namespace}/{name} has no key {key:?}; {there}")))
}

fn keys(secret: &Secret) -> String {
    let data = secret.data.iter().flat_map(|data| data.keys());
    let mut keys: Vec<_> = data.chain(secret.string_data.iter().flat_map(|data| data.keys())).cloned().collect();
    keys.sort();
    keys.dedup();
    keys.join(", ")
}
