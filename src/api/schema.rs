//! The CRDs as `kubectl apply` takes them: what Rust types become, and what only the schema itself can say.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool, ValidationRule,
};
use kube::CustomResourceExt;

use super::{EventLog, EventSink, EventTrigger};

/// The CRDs of every kind.
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut crds = vec![EventLog::crd(), EventSink::crd(), EventTrigger::crd()];
    for crd in &mut crds {
        let versions = crd.spec.versions.iter_mut();
        for schema in versions.filter_map(|version| version.schema.as_mut()?.open_api_v3_schema.as_mut()) {
            refuse_null(schema);
            default_status(schema);
            take_unquoted_on(schema);
        }
    }
    crds
}

/// Makes a resource that no controller has seen yet read as in progress: kstatus takes a missing status for done.
fn default_status(schema: &mut JSONSchemaProps) {
    if let Some(status) = property(schema, "status") {
        status.default = Some(JSON(serde_json::json!({"observedGeneration": -1})));
    }
}

/// `insert:` with nothing after it is null. It reads like `insert: {}` and would mean that it is left out; so it is refused.
fn refuse_null(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    schema.properties.iter_mut().flat_map(|properties| properties.values_mut()).for_each(refuse_null);
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(item)) => refuse_null(item),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(refuse_null),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(value)) = &mut schema.additional_properties {
        refuse_null(value);
    }
}

/// In YAML 1.1, which kubectl, Helm and Flux read, the key `on` is the truth value, and arrives as `true`. Both spellings are
/// taken, so that nobody needs to know about quotes.
fn take_unquoted_on(schema: &mut JSONSchemaProps) {
    let Some(spec) = property(schema, "spec") else { return };
    let Some(mut unquoted) = property(spec, "on").cloned() else { return };
    unquoted.description =
        Some("What `on` is called when it is written without quotes in YAML 1.1; the same.".to_owned());
    spec.properties.get_or_insert_default().insert("true".to_owned(), unquoted);
    spec.required.get_or_insert_default().retain(|name| name != "on");
    spec.x_kubernetes_validations.get_or_insert_default().push(ValidationRule {
        // Words that CEL reserves are written between underscores.
        rule: "has(self.on) != has(self.__true__)".to_owned(),
        message: Some("on: name at least one of insert, update and delete, such as on: {insert: {}}".to_owned()),
        ..ValidationRule::default()
    });
}

fn property<'a>(schema: &'a mut JSONSchemaProps, name: &str) -> Option<&'a mut JSONSchemaProps> {
    schema.properties.as_mut()?.get_mut(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolve::testing::parse;

    #[test]
    fn on_may_arrive_as_yaml_1_1_reads_it() {
        let trigger: EventTrigger = parse(
            r#"{apiVersion: eventtrigger.dev/v1alpha1, kind: EventTrigger, metadata: {name: a}, spec: {eventLogRef: {name: l}, table: {name: t}, "true": {insert: {}}, sink: {uri: "http://a/"}}}"#,
        );
        assert!(trigger.spec.on.insert.is_some());
    }
}
