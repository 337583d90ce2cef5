//! The CRDs as `kubectl apply` takes them: what Rust types become, and what only the schema itself can say.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool, ValidationRule,
};
use kube::CustomResourceExt;

use super::{EventLog, EventSink, EventTrigger};

/// A quantity as Kubernetes' own CRD tools check it:
/// <https://github.com/kubernetes-sigs/controller-tools/blob/main/pkg/crd/known_types.go>
const QUANTITY: &str = r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$";

/// The CRDs of every kind.
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut crds = vec![EventLog::crd(), EventSink::crd(), EventTrigger::crd()];
    for crd in &mut crds {
        be_a_duck(crd);
        let versions = crd.spec.versions.iter_mut();
        for schema in versions.filter_map(|version| version.schema.as_mut()?.open_api_v3_schema.as_mut()) {
            refuse_null(schema);
            keep_null(schema);
            check_quantities(schema);
            default_status(schema);
            take_unquoted_on(schema);
        }
    }
    crds
}

/// By these labels Knative finds kinds that events come from, and kinds that they can be sent to
/// (<https://github.com/knative/eventing/blob/main/docs/spec/sources.md>).
fn be_a_duck(crd: &mut CustomResourceDefinition) {
    let duck = match crd.spec.names.kind.as_str() {
        "EventTrigger" => "duck.knative.dev/source",
        "EventSink" => "duck.knative.dev/addressable",
        _ => return,
    };
    crd.metadata.labels.get_or_insert_default().insert(duck.to_owned(), "true".to_owned());
    if duck.ends_with("source") {
        let types = ["insert", "update", "delete", "truncate"];
        let types = types.map(|operation| serde_json::json!({"type": format!("dev.eventtrigger.row.{operation}")}));
        let annotations = crd.metadata.annotations.get_or_insert_default();
        annotations.insert("registry.knative.dev/eventTypes".to_owned(), serde_json::json!(types).to_string());
    }
}

/// Makes a resource that no controller has seen yet read as in progress: kstatus takes a missing status for done.
fn default_status(schema: &mut JSONSchemaProps) {
    if let Some(status) = property(schema, "status") {
        status.default = Some(JSON(serde_json::json!({"observedGeneration": -1})));
    }
}

/// A field that may be left out need not be null besides.
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

/// Quantities of `resources` are refused here, and not only when the workers' Deployment is applied.
fn check_quantities(schema: &mut JSONSchemaProps) {
    let resources = property(schema, "spec").and_then(|spec| property(property(spec, "delivery")?, "resources"));
    let Some(resources) = resources else { return };
    for name in ["limits", "requests"] {
        let quantities = property(resources, name).and_then(|quantities| quantities.additional_properties.as_mut());
        if let Some(JSONSchemaPropsOrBool::Schema(quantity)) = quantities {
            quantity.pattern = Some(QUANTITY.to_owned());
        }
    }
}

/// `insert:` with nothing after it is null, and means `insert: {}`: it must reach us.
fn keep_null(schema: &mut JSONSchemaProps) {
    let Some(on) = property(schema, "spec").and_then(|spec| property(spec, "on")) else { return };
    on.properties.iter_mut().flat_map(|operations| operations.values_mut()).for_each(|one| one.nullable = Some(true));
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
        message: Some(
            "on: name at least one of insert, update, delete and truncate, such as on: {insert: {}}".to_owned(),
        ),
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
    fn an_operation_with_nothing_after_it_is_named_all_the_same() {
        let trigger: EventTrigger = parse(
            r#"{apiVersion: eventtrigger.dev/v1alpha1, kind: EventTrigger, metadata: {name: a}, spec: {eventLogRef: {name: l}, table: {name: t}, "on": {insert: }, sink: {uri: "http://a/"}}}"#,
        );
        assert!(trigger.spec.on.insert.is_some() && trigger.spec.on.update.is_none());
    }

    #[test]
    fn on_may_arrive_as_yaml_1_1_reads_it() {
        let trigger: EventTrigger = parse(
            r#"{apiVersion: eventtrigger.dev/v1alpha1, kind: EventTrigger, metadata: {name: a}, spec: {eventLogRef: {name: l}, table: {name: t}, "true": {insert: {}}, sink: {uri: "http://a/"}}}"#,
        );
        assert!(trigger.spec.on.insert.is_some());
    }
}
