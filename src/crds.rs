//! The CRDs as text, for people and for `kubectl`.

use crate::api;

/// Why a CRD could not be written.
#[derive(Debug, thiserror::Error)]
#[error("failed to write CRD {name} as YAML")]
pub struct CrdError {
    name: String,
    source: serde_saphyr::ser_error::Error,
}

/// Each CRD by the name of its file in `crds/`, with the file's content.
pub fn files() -> Result<Vec<(String, String)>, CrdError> {
    let files = api::crds().into_iter().map(|crd| {
        let name = crd.metadata.name.clone().unwrap_or_default();
        let file = format!("{name}.yaml");
        serde_saphyr::to_string(&crd).map(|text| (file, text)).map_err(|source| CrdError { name, source })
    });
    files.collect()
}

/// All of them, as `kubectl apply -f -` takes them.
pub fn stream() -> Result<String, CrdError> {
    let files = files()?;
    Ok(files.into_iter().map(|(_, text)| format!("---\n{}\n", text.trim_end())).collect())
}
