//! The CRDs as text, for people and for `kubectl`.

use crate::api;

/// Why a CRD could not be written.
#[derive(Debug, thiserror::Error)]
#[error("failed to write CRD {name} as YAML")]
pub struct CrdError {
    name: String,
    source: serde_saphyr::ser_error::Error,
}

/// Every CRD, as `kubectl apply -f -` takes them.
pub fn yaml() -> Result<String, CrdError> {
    let mut stream = String::new();
    for crd in api::crds() {
        let text = serde_saphyr::to_string(&crd).map_err(|source| {
            let name = crd.metadata.name.clone().unwrap_or_default();
            CrdError { name, source }
        })?;
        stream.push_str("---\n");
        stream.push_str(&text);
    }
    Ok(stream)
}
