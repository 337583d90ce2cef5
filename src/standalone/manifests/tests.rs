//! Every mistake by its whole message: that is what people get.

use rstest::rstest;

use super::*;

const GOOD: &str = "\
apiVersion: eventtrigger.dev/v1alpha1
kind: EventLog
metadata: {name: shop}
spec: {connection: {uri: {secretKeyRef: {name: shop-app, key: uri}}}}
---
apiVersion: eventtrigger.dev/v1alpha1
kind: EventTrigger
metadata: {name: paid}
spec:
  eventLogRef: {name: shop}
  table: {name: orders}
  on: {insert: {}}
  sink: {uri: http://localhost:8080/}
";

fn settings() -> Settings {
    Settings { namespace: "shop".to_owned(), services: BTreeMap::new(), environment: BTreeMap::new() }
}

fn load_one(text: &str, settings: &Settings) -> Result<Manifests, Vec<String>> {
    let source = Source { name: "shop.yaml".to_owned(), text: text.to_owned() };
    load(&[source], settings).map_err(|mistakes| mistakes.iter().map(Mistake::to_string).collect())
}

fn mistakes(text: &str) -> Vec<String> {
    load_one(text, &settings()).expect_err("no mistake was found")
}

/// `GOOD` with something else in place of `from`, which must be there.
fn with(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    GOOD.replace(from, to)
}

#[test]
fn good_manifests_get_their_defaults_and_the_same_uid_in_every_run() {
    let found = load_one(GOOD, &settings()).unwrap();
    let name = ObjectName::new("shop", "paid");
    let trigger = &found.triggers[&name];
    assert_eq!(trigger.spec.table.schema, "public");
    assert_eq!(found.logs[&ObjectName::new("shop", "shop")].spec.schema, "eventlog");
    assert_eq!(uid_of(trigger), "c74ce005-c5f1-f214-02d9-af909f43c4b4");
    assert_eq!(found.notes, Vec::<String>::new());
}

#[rstest]
#[case::unknown_field("sink: {uri", "snik: {uri",
    &["shop.yaml:9: EventTrigger shop/paid: spec.sink: is missing; add it: Where the events go",
      "shop.yaml:13: EventTrigger shop/paid: spec.snik: there is no such field; did you mean sink? (of: captureReplicated, ceOverrides, columns, context, delivery, deployment, eventLogRef, on, ordering, partitions, reclaimPolicy, sink, suspend, table)"])]
#[case::unknown_operation("insert: {}", "upsert: {}",
    &["shop.yaml:12: EventTrigger shop/paid: spec.on.upsert: there is no such field; did you mean insert? (of: delete, insert, truncate, update)",
      "shop.yaml:12: EventTrigger shop/paid: spec.on: name at least one of insert, update, delete and truncate, such as insert: {}"])]
#[case::nothing_may_stand_there("insert: {}", "insert: {columns: [a]}",
    &["shop.yaml:12: EventTrigger shop/paid: spec.on.insert.columns: there is no such field; nothing may stand here: write {}"])]
#[case::a_key_that_kubectl_takes_for_false("metadata: {name: paid}", "metadata: {name: paid, labels: {no: way}}",
    &["shop.yaml:8: EventTrigger shop/paid: metadata.labels.no: without quotes this key is a boolean to kubectl (YAML 1.1); write \"no\":"])]
#[case::a_value_that_kubectl_takes_for_false("insert: {}", "update: {columns: [y, no]}",
    &["shop.yaml:12: EventTrigger shop/paid: spec.on.update.columns[0]: y without quotes is a boolean to kubectl (YAML 1.1); write \"y\"",
      "shop.yaml:12: EventTrigger shop/paid: spec.on.update.columns[1]: no without quotes is a boolean to kubectl (YAML 1.1); write \"no\""])]
#[case::no_operation("{insert: {}}", "{}",
    &["shop.yaml:12: EventTrigger shop/paid: spec.on: name at least one of insert, update, delete and truncate, such as insert: {}"])]
#[case::no_on("  on: {insert: {}}\n", "",
    &["shop.yaml:9: EventTrigger shop/paid: spec: on: name at least one of insert, update, delete and truncate, such as on: {insert: {}}"])]
#[case::nothing_after_it("{insert: {}}", "\n    insert:",
    &["shop.yaml:13: EventTrigger shop/paid: spec.on.insert: there is nothing after it; write its value, such as {}, or leave the field out"])]
#[case::type_of_a_scalar("table: {name: orders}", "table: {name: 5}\n  suspend: \"true\"",
    &["shop.yaml:11: EventTrigger shop/paid: spec.table.name: 5 is a number; put it in quotes",
      "shop.yaml:12: EventTrigger shop/paid: spec.suspend: \"true\" is a string; write true or false"])]
#[case::type_of_a_mapping("table: {name: orders}", "table: public.orders",
    &["shop.yaml:11: EventTrigger shop/paid: spec.table: \"public.orders\" is a string; write a mapping of name, schema"])]
#[case::type_of_a_list("insert: {}", "update: {columns: status}",
    &["shop.yaml:12: EventTrigger shop/paid: spec.on.update.columns: \"status\" is a string; write a list, such as [a, b]"])]
#[case::enumeration("table: {name: orders}", "table: {name: orders}\n  reclaimPolicy: retain",
    &["shop.yaml:12: EventTrigger shop/paid: spec.reclaimPolicy: \"retain\" is none of its values; did you mean Retain? (of: Retain, Delete)"])]
#[case::duration("table: {name: orders}", "table: {name: orders}\n  delivery: {timeout: 30, backoffDelay: 30 seconds, retry: -1}",
    &["shop.yaml:12: EventTrigger shop/paid: spec.delivery.timeout: 30 is a number; put it in quotes",
      "shop.yaml:12: EventTrigger shop/paid: spec.delivery.retry: -1 is too small; the least is 0",
      "shop.yaml:12: EventTrigger shop/paid: spec.delivery.backoffDelay: \"30 seconds\": write a duration as 500ms, 30s, 1m30s or PT1M30S"])]
#[case::empty("name: orders", "name: ''",
    &["shop.yaml:11: EventTrigger shop/paid: spec.table.name: \"\" is too short; write at least 1 character"])]
#[case::empty_list("insert: {}", "update: {columns: []}",
    &["shop.yaml:12: EventTrigger shop/paid: spec.on.update.columns: [] is too short; name at least 1 item, or leave the field out"])]
#[case::twice("insert: {}", "update: {columns: [a, a]}",
    &["shop.yaml:12: EventTrigger shop/paid: spec.on.update.columns: [\"a\",\"a\"] names something twice; name it once"])]
#[case::rule_of_an_object("sink: {uri: http://localhost:8080/}", "sink: {uri: /orders}",
    &["shop.yaml:13: EventTrigger shop/paid: spec.sink: without ref, uri must be absolute, such as http://billing.example.com/orders, and without user or password (use headers)"])]
#[case::rule_of_a_field("key: uri}}}", "key: uri}}}, schema: pg_log",
    &["shop.yaml:4: EventLog shop/shop: spec.schema: \"pg_log\": schema names that start with pg_, and information_schema, belong to PostgreSQL"])]
#[case::name("name: paid", "name: Order_Paid",
    &["shop.yaml:8: EventTrigger shop/Order_Paid: metadata.name: \"Order_Paid\" does not have the form ^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$: Small letters, digits, dots and dashes, such as order-paid"])]
#[case::no_name("metadata: {name: paid}", "metadata: {labels: {a: b}}",
    &["shop.yaml:8: EventTrigger: metadata.name: is missing; add it: Small letters, digits, dots and dashes, such as order-paid"])]
#[case::version("kind: EventTrigger", "kind: EventTriger",
    &["shop.yaml:7: EventTriger shop/paid: kind: \"EventTriger\" is no kind of eventtrigger.dev; did you mean EventTrigger? (of: EventLog, EventSink, EventTrigger)"])]
#[case::log("eventLogRef: {name: shop}", "eventLogRef: {name: shpo}",
    &["shop.yaml:10: EventTrigger shop/paid: spec.eventLogRef.name: there is no EventLog shop/shpo; did you mean shop?"])]
#[case::log_elsewhere("metadata: {name: paid}", "metadata: {name: paid, namespace: other}",
    &["shop.yaml:10: EventTrigger other/paid: spec.eventLogRef.name: there is no EventLog other/shop; there is one in namespace shop; use that namespace for both"])]
#[case::service("{uri: http://localhost:8080/}", "{ref: {kind: Service, name: billing}}",
    &["shop.yaml:13: EventTrigger shop/paid: spec.sink.ref: there is no Service shop/billing; say where it is with --service billing.shop=http://127.0.0.1:8080, or add it to the manifests"])]
#[case::sink("{uri: http://localhost:8080/}", "{ref: {kind: EventSink, name: billing}}",
    &["shop.yaml:13: EventTrigger shop/paid: spec.sink.ref: there is no EventSink shop/billing; add it to the manifests"])]
#[case::addressable("{uri: http://localhost:8080/}", "{ref: {apiVersion: eventing.knative.dev/v1, kind: Broker, name: b}}",
    &["shop.yaml:13: EventTrigger shop/paid: spec.sink.ref: without a cluster, nobody can tell the address of Broker shop/b; add it to the manifests with its status.address.url, or use uri alone"])]
#[case::not_yaml("table: {name: orders}", "table: {name: orders",
    &["shop.yaml:12: is not YAML from here on: while parsing a flow mapping, did not find expected ',' or '}'; check indentation and quotes"])]
fn a_mistake_is_said_with_line_field_value_and_remedy(#[case] from: &str, #[case] to: &str, #[case] expected: &[&str]) {
    let mut found = mistakes(&with(from, to));
    // What follows from a trigger that cannot be read.
    found.retain(|mistake| !mistake.contains("there is no EventTrigger;"));
    assert_eq!(found, expected);
}

#[test]
fn every_mistake_of_every_document_and_file_is_said_in_order() {
    let a = Source {
        name: "a.yaml".to_owned(),
        text: with("insert: {}", "udpate: {}").replace("name: orders", "nam: orders"),
    };
    let b = Source { name: "b.yaml".to_owned(), text: GOOD.replace("name: shop", "name: shop2") };
    let found = load(&[a, b], &settings()).unwrap_err();
    let found: Vec<_> = found.iter().map(Mistake::to_string).collect();
    assert_eq!(
        found,
        [
            "a.yaml:11: EventTrigger shop/paid: spec.table.nam: there is no such field; did you mean name? (of: name, schema)",
            "a.yaml:11: EventTrigger shop/paid: spec.table.name: is missing; add it: Name of the table",
            "a.yaml:12: EventTrigger shop/paid: spec.on.udpate: there is no such field; did you mean update? (of: delete, insert, truncate, update)",
            "a.yaml:12: EventTrigger shop/paid: spec.on: name at least one of insert, update, delete and truncate, such as insert: {}",
            "b.yaml:4: EventLog shop/shop2: spec.schema: \"eventlog\" is also the schema of EventLog shop/shop, and without a cluster both are in one database; give each its own",
            "b.yaml:8: EventTrigger shop/paid: metadata.name: \"paid\" is also defined at a.yaml:6; remove one of them",
        ]
    );
}

const SINK: &str = "
---
apiVersion: eventtrigger.dev/v1alpha1
kind: EventSink
metadata: {name: billing}
spec:
  uri: http://localhost:8080/
  headers:
  - {name: Authorization, valueFrom: {secretKeyRef: {name: billing, key: api-token}}}
";

#[test]
fn a_secret_is_taken_from_manifests_or_the_environment_and_never_shown() {
    let missing = mistakes(&format!("{GOOD}{SINK}"));
    let variable = "EVENTTRIGGER_SECRET_SHOP_BILLING_API_TOKEN";
    let expected = format!(
        "shop.yaml:22: EventSink shop/billing: spec.headers[0].valueFrom.secretKeyRef: there is no Secret shop/billing with a key \
         \"api-token\"; add it to the manifests, or set the environment variable {variable}"
    );
    assert_eq!(missing, [expected]);

    let environment = BTreeMap::from([(variable.to_owned(), "Bearer x".to_owned())]);
    let found = load_one(&format!("{GOOD}{SINK}"), &Settings { environment, ..settings() }).unwrap();
    let secret = &found.secrets[&ObjectName::new("shop", "billing")];
    assert_eq!(secret.data.as_ref().unwrap()["api-token"].0, b"Bearer x");

    let secret = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: billing}\n";
    load_one(&format!("{GOOD}{SINK}{secret}stringData: {{api-token: s3cret}}"), &settings()).unwrap();
    load_one(&format!("{GOOD}{SINK}{secret}data: {{api-token: czNjcmV0}}"), &settings()).unwrap();
    let wrong = mistakes(&format!("{GOOD}{SINK}{secret}data: {{api-token: s3cret!}}\nstringData: {{pin: 1234}}"));
    assert_eq!(
        wrong,
        [
            "shop.yaml:27: Secret shop/billing: data.api-token: the value is not base64; encode it, or move it to stringData as it is",
            "shop.yaml:28: Secret shop/billing: stringData.pin: the value is not a string; put it in quotes",
        ]
    );
    let password = mistakes(&with(
        "uri: {secretKeyRef: {name: shop-app, key: uri}}",
        "host: {value: db}, dbname: {value: a}, user: {value: b}, password: {value: 1234}",
    ));
    assert_eq!(
        password,
        ["shop.yaml:4: EventLog shop/shop: spec.connection.password.value: the value is a number; put it in quotes"]
    );
}

#[test]
fn a_list_is_its_items_and_other_kinds_are_left_alone() {
    let items: Vec<_> =
        GOOD.split("---\n").map(|text| format!("- {}", text.trim_end().replace('\n', "\n  "))).collect();
    let list = format!("apiVersion: v1\nkind: List\nitems:\n{}\n", items.join("\n"));
    assert_eq!(load_one(&list, &settings()).unwrap().triggers.len(), 1);
    let wrong = mistakes(&list.replace("insert: {}", "isnert: {}"));
    assert_eq!(wrong.len(), 2, "{wrong:?}");
    assert!(wrong[0].starts_with("shop.yaml:14: EventTrigger shop/paid: spec.on.isnert:"), "{wrong:?}");

    let others = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: shop}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
    let found = load_one(&format!("{GOOD}{others}"), &settings()).unwrap();
    assert_eq!(found.notes, ["shop.yaml:15: ConfigMap shop/shop is of no use here; ignored"]);
}

#[test]
fn an_object_of_any_kind_is_a_target_once_its_status_has_an_address() {
    let broker = "---\napiVersion: eventing.knative.dev/v1\nkind: Broker\nmetadata: {name: b}\nstatus: {address: {url: http://localhost:1/}}\n";
    let reference = "{ref: {apiVersion: eventing.knative.dev/v1, kind: Broker, name: b}}";
    load_one(&format!("{}{broker}", with("{uri: http://localhost:8080/}", reference)), &settings()).unwrap();
}

#[test]
fn files_without_a_trigger_are_a_mistake() {
    assert_eq!(mistakes("# nothing yet\n"), ["shop.yaml: there is no EventTrigger; nothing would be captured"]);
}

#[test]
fn folders_are_read_by_name_and_what_is_not_there_is_said() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["b.yml", "a.yaml", "c.json", "notes.txt"] {
        std::fs::write(folder.path().join(name), name).unwrap();
    }
    let found = read(&[folder.path().to_owned()]).unwrap();
    assert_eq!(found.iter().map(|source| source.text.as_str()).collect::<Vec<_>>(), ["a.yaml", "b.yml", "c.json"]);
    let missing = read(&["none.yaml".into(), folder.path().join("gone")]).unwrap_err();
    let what = "there is no such file or folder; correct the path given with -f";
    let missing: Vec<_> = missing.iter().map(Mistake::to_string).collect();
    assert_eq!(missing, [format!("none.yaml: {what}"), format!("{}: {what}", folder.path().join("gone").display())]);
}

#[rstest]
#[case("format: {}", Some("set exactly one of cloudEvents and hasura"))]
#[case("format: {cloudEvents: {mode: Structured}}", None)]
#[case("format: {cloudEvents: {}, hasura: {}}", Some("set exactly one of cloudEvents and hasura"))]
#[case("format: {cloudEvents: {mode: Batch, batch: {maxEvents: 10, maxBytes: 64Ki, linger: 5ms}}}", None)]
#[case("format: {cloudEvents: {mode: Batched}}", Some("Structured"))]
#[case("format: {cloudEvents: {batch: {maxEvents: 10}}}", Some("batch is for mode: Batch"))]
#[case("auth: {}", Some("set exactly one of bearer"))]
#[case("auth: {bearer: {secretKeyRef: {name: keys, key: a}}}", None)]
#[case(
    "auth: {bearer: {secretKeyRef: {name: keys, key: a}}, clientCertificate: {secretRef: {name: keys}}}",
    Some("set exactly one of bearer")
)]
#[case(
    "auth: {bearer: {secretKeyRef: {name: keys, key: a}}}, headers: [{name: AUTHORIZATION, value: x}]",
    Some("the header Authorization is set by auth")
)]
#[case("headers: [{name: Webhook-Id, value: x}]", Some("set by the protocol"))]
#[case(
    "auth: {clientCertificate: {secretRef: {name: tls}}}",
    Some("spec.auth.clientCertificate.secretRef: there is no Secret shop/tls with a key \"tls.crt\"")
)]
fn a_sink_that_contradicts_itself_is_refused(#[case] fields: &str, #[case] fault: Option<&str>) {
    let sink =
        "apiVersion: eventtrigger.dev/v1alpha1\nkind: EventSink\nmetadata: {name: billing}\nspec: {uri: 'https://a/', ";
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: keys}\nstringData: {a: t0ken}";
    let found = load_one(&format!("{GOOD}---\n{secret}\n---\n{sink}{fields}}}\n"), &settings());
    match (found, fault) {
        (Ok(_), None) => {}
        (Err(said), Some(fault)) => assert!(said.iter().any(|said| said.contains(fault)), "{said:?}"),
        (found, fault) => panic!("{found:?} instead of {fault:?}"),
    }
}

/// `GOOD` without a sink, with what a `SinkBinding` puts into the environment.
fn bound(sink: &str, overrides: &str, more: &str) -> Result<Manifests, Vec<String>> {
    let environment = [("K_SINK", sink), ("K_CE_OVERRIDES", overrides)];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    load_one(&with("  sink: {uri: http://localhost:8080/}\n", more), &Settings { environment, ..settings() })
}

#[test]
fn an_event_trigger_without_a_sink_sends_to_that_of_a_sink_binding() {
    let name = ObjectName::new("shop", "paid");
    let overrides = r#"{"extensions": {"region": "eu", "team": "a"}}"#;
    let found = bound("http://broker.example.com/shop", overrides, "  ceOverrides: {extensions: {team: b, x: c}}\n");
    let spec = &found.unwrap().triggers[&name].spec;
    assert_eq!(spec.sink.uri.as_deref(), Some("http://broker.example.com/shop"));
    let extensions = &spec.ce_overrides.as_ref().unwrap().extensions;
    let extensions: Vec<_> = extensions.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(extensions, [("region", "eu"), ("team", "a"), ("x", "c")]);
    let found = bound("http://broker/", "", "").unwrap();
    assert_eq!(found.triggers[&name].spec.ce_overrides, None);
    let found = bound("http://broker/", overrides, "  sink: {uri: http://own/}\n").unwrap();
    let spec = &found.triggers[&name].spec;
    assert_eq!((spec.sink.uri.as_deref(), &spec.ce_overrides), (Some("http://own/"), &None));
}

#[rstest]
#[case::scheme(
    "ftp://a/",
    "",
    "shop.yaml:9: EventTrigger shop/paid: spec.sink: is missing, and the environment's K_SINK is neither http nor https; correct either"
)]
#[case::password(
    "http://u:secret@a/",
    "",
    "shop.yaml:9: EventTrigger shop/paid: spec.sink: is missing, and the environment's K_SINK holds a user or password; correct either"
)]
#[case::words(
    "broker",
    "",
    "shop.yaml:9: EventTrigger shop/paid: spec.sink: is missing, and the environment's K_SINK is not a URL; correct either"
)]
#[case::overrides("http://a/", "[]", r#"shop.yaml:9: EventTrigger shop/paid: spec.sink: K_CE_OVERRIDES in the environment is not as Knative writes it: {"extensions": {"name": "value"}}"#)]
#[case::attribute(
    "http://a/",
    r#"{"extensions": {"id": "1"}}"#,
    "shop.yaml:9: EventTrigger shop/paid: spec.ceOverrides.extensions: an event has that attribute already; choose another name"
)]
#[case::nothing("", "", "shop.yaml:9: EventTrigger shop/paid: spec.sink: is missing; add it: Where the events go")]
fn what_a_sink_binding_says_must_fit(#[case] sink: &str, #[case] overrides: &str, #[case] expected: &str) {
    assert_eq!(bound(sink, overrides, "").unwrap_err(), [expected]);
}
