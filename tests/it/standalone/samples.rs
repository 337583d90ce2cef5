//! Every sample is what it says: good to apply.

use std::{collections::BTreeMap, path::Path};

use eventtrigger::{
    name::ObjectName,
    standalone::manifests::{Mistake, Settings, load, read},
};

#[test]
fn every_sample_is_without_mistake() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/samples");
    let mut sources = read(&[folder]).unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
    // A Broker is somewhere in a cluster only.
    sources.retain(|source| !source.name.ends_with("knative.yaml"));
    assert!(sources.len() >= 4, "too few were found");
    let services =
        ["orders-receiver", "billing"].map(|name| (ObjectName::new("shop", name), "http://127.0.0.1:1".to_owned()));
    let settings =
        Settings { namespace: "default".to_owned(), services: services.into(), environment: BTreeMap::new() };
    let found = load(&sources, &settings).unwrap_or_else(|mistakes| {
        panic!("{}", mistakes.iter().map(Mistake::to_string).collect::<Vec<_>>().join("\n"));
    });
    assert!(found.notes.is_empty(), "{:?}", found.notes);
    assert!(found.triggers.len() >= 6 && !found.sinks.is_empty() && found.logs.len() == 4);
}
