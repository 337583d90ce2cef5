//! What is committed for `kubectl apply` is what the types say.

use std::path::Path;

use eventtrigger::api::crds;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

#[test]
fn the_committed_crds_are_those_of_the_types() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds/crds.yaml");
    let text = std::fs::read_to_string(file).unwrap();
    let committed: Vec<CustomResourceDefinition> = serde_saphyr::from_multiple(&text).unwrap();
    assert!(committed == crds(), "crds/crds.yaml is out of date: run `make crds`");
}
