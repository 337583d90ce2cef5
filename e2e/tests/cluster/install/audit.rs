//! What the operator may do, held against what it did: by the API server's own record of all tests that ran before.

use std::collections::BTreeSet;

use serde_json::Value;

use super::ACCOUNT;
use crate::{
    cluster::{Cluster, text},
    scene::OPERATOR_NAMESPACE,
};

/// A request, as a rule allows it: verb, API group and resource.
type Right = (String, String, String);

/// What a role allows.
fn rights(role: &Value) -> BTreeSet<Right> {
    let strings = |rule: &Value, field: &str| -> Vec<String> {
        rule[field].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut rights = BTreeSet::new();
    for rule in role["rules"].as_array().expect("rules") {
        for verb in strings(rule, "verbs") {
            for group in strings(rule, "apiGroups") {
                for resource in strings(rule, "resources") {
                    assert!(![&verb, &group, &resource].contains(&&"*".to_owned()), "a rule for everything: {rule}");
                    rights.insert((verb.clone(), group.clone(), resource));
                }
            }
        }
    }
    rights
}

/// The audit log's entries, from when the API server began.
fn entries() -> Vec<Value> {
    let path = std::env::var("E2E_AUDIT_LOG").expect("E2E_AUDIT_LOG names the API server's audit log");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("E2E_AUDIT_LOG {path}: {error}"));
    // The last line may still be being written.
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn right(entry: &Value) -> Right {
    let (resource, part) = (text(entry, "/objectRef/resource"), text(entry, "/objectRef/subresource"));
    let resource = if part.is_empty() { resource.to_owned() } else { format!("{resource}/{part}") };
    (text(entry, "/verb").to_owned(), text(entry, "/objectRef/apiGroup").to_owned(), resource)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_controller_has_used_each_of_its_rights_and_asked_for_no_other() {
    let cluster = Cluster::connect().await;
    let rbac = "rbac.authorization.k8s.io/v1";
    let mut allowed = BTreeSet::new();
    for (namespace, kind) in [("", "ClusterRole"), (OPERATOR_NAMESPACE, "Role")] {
        let role = cluster.get(namespace, rbac, kind, "eventtrigger-controller").await;
        allowed.extend(rights(&role.unwrap_or_else(|| panic!("no {kind} eventtrigger-controller"))));
    }
    let mut used = BTreeSet::new();
    let mut refused = BTreeSet::new();
    for entry in entries().iter().filter(|entry| text(entry, "/user/username") == ACCOUNT) {
        // Discovery, which everybody may, has no object.
        if entry.get("objectRef").is_none_or(|object| object.get("resource").is_none()) {
            continue;
        }
        let right = right(entry);
        // Of the kinds that tests make and allow by a role of their own, as Knative does.
        if right.1 == "e2e.eventtrigger.dev" {
            continue;
        }
        if text(entry, "/annotations/authorization.k8s.io~1decision") == "allow" {
            // A server-side apply that makes the object needs the right to create it, too, and is recorded as a patch.
            if right.0 == "patch" && entry.pointer("/responseStatus/code") == Some(&201.into()) {
                used.insert(("create".to_owned(), right.1.clone(), right.2.clone()));
            }
            used.insert(right);
        } else {
            refused.insert(right);
        }
    }
    let unused: Vec<_> = allowed.difference(&used).collect();
    assert!(unused.is_empty(), "no test needs these rights: {unused:#?}");
    let others: Vec<_> = used.difference(&allowed).collect();
    assert!(others.is_empty(), "rights that come from elsewhere: {others:#?}");
    assert!(refused.is_empty(), "asked for and refused: {refused:#?}");
}

#[test]
fn delivery_workers_never_ask_the_api_server() {
    let by_pods = entries().into_iter().filter(|entry| {
        let user = text(entry, "/user/username");
        user.starts_with("system:serviceaccount:e2e-") || user.starts_with("system:serviceaccount:eventtrigger-e2e")
    });
    let by_pods: Vec<_> = by_pods.map(|entry| right(&entry)).collect();
    assert!(by_pods.is_empty(), "{by_pods:#?}");
}
