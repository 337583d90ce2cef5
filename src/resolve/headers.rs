//! An EventSink's headers.

use super::{Objects, Problem, Secrets, Stop, secret};
use crate::{
    api,
    log::definition::{Header, HeaderValue, SecretName},
};

/// The headers of a sink in `namespace`, and the values of those that come from Secrets. Every value is there and legal.
pub(super) async fn headers(
    specs: &[api::Header],
    namespace: &str,
    objects: &impl Objects,
) -> Result<(Vec<Header>, Secrets), Stop> {
    let mut headers = Vec::with_capacity(specs.len());
    let mut secrets = Secrets::default();
    for (at, api::Header { name, value, value_from }) in specs.iter().enumerate() {
        let field = format!("spec.headers[{at}]");
        if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
            let message = format!("{field}.name: {name:?} is not a header's name; use letters, digits and -");
            return Err(Problem::new("InvalidHeader", message).into());
        }
        let value = match (value, value_from) {
            (Some(value), None) => {
                legal(value, &format!("{field}.value"), "the value")?;
                HeaderValue::Literal(value.clone())
            }
            (None, Some(source)) => {
                let field = format!("{field}.valueFrom");
                let selector = &source.secret_key_ref;
                let value = secret::value(objects, namespace, &field, selector).await?;
                legal(
                    &value,
                    &field,
                    &format!("the value of key {:?} in Secret {namespace}/{}", selector.key, selector.name),
                )?;
                let name = SecretName::new(namespace, &selector.name, &selector.key);
                secrets.0.insert(name.clone(), value);
                HeaderValue::Secret(name)
            }
            _ => {
                let message = format!("{field}: set exactly one of value and valueFrom");
                return Err(Problem::new("InvalidHeader", message).into());
            }
        };
        headers.push(Header { name: name.clone(), value });
    }
    Ok((headers, secrets))
}

/// Never repeats the value.
pub(super) fn legal(value: &str, field: &str, what: &str) -> Result<(), Problem> {
    let fault = if value.ends_with('\n') {
        "ends with a line break; write it without one (echo -n, printf)"
    } else if !value.chars().all(|c| c == '\t' || (' '..='~').contains(&c)) {
        "holds characters that a header cannot carry; use visible ASCII"
    } else {
        return Ok(());
    };
    Err(Problem::new("InvalidHeader", format!("{field}: {what} {fault}")))
}
