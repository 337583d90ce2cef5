//! The objects that deliver from a log: a Secret that holds all that a worker is told, and a Deployment. Pure.

use std::collections::BTreeMap;

use k8s_openapi::{
    ByteString,
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        core::v1::{
            Capabilities, Container, ContainerPort, HTTPGetAction, PodSecurityContext, PodSpec, PodTemplateSpec, Probe,
            ResourceRequirements, SeccompProfile, Secret, SecretVolumeSource, SecurityContext, Volume, VolumeMount,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};
use kube::{Resource, ResourceExt};

use crate::{
    api::EventLog,
    delivery::{AddressOptions, Config},
};

/// Selects the Deployments to watch.
pub(in crate::controller) const MANAGED: &str =
    "app.kubernetes.io/managed-by=eventtrigger,app.kubernetes.io/component=delivery";
/// On the pod template: the version of the Secret that the pods were started with. A new one rolls them, and unlike a
/// hash of what it holds it tells nothing about that.
const SECRET_VERSION: &str = "eventtrigger.dev/secret-version";
/// Key in the Secret, and name of the mounted file.
const CONFIG: &str = "delivery.json";
/// Where the Secret is mounted.
const FOLDER: &str = "/etc/eventtrigger";
/// A worker finishes what is in flight within 30 s of SIGTERM; the rest is for stopping.
const GRACE: i64 = 35;
/// A user that the image need not know.
const NOBODY: i64 = 65532;

/// Name of both objects.
pub(in crate::controller) fn name(log: &EventLog) -> String {
    format!("{}-delivery", log.name_any())
}

/// Labels that select the pods; a Deployment's selector cannot be changed later.
pub(super) fn selector(log: &EventLog) -> BTreeMap<String, String> {
    let labels =
        [("name", "eventtrigger".to_owned()), ("component", "delivery".to_owned()), ("instance", log.name_any())];
    labels.into_iter().map(|(key, value)| (format!("app.kubernetes.io/{key}"), value)).collect()
}

fn metadata(log: &EventLog) -> ObjectMeta {
    let mut labels = selector(log);
    labels.insert("app.kubernetes.io/managed-by".to_owned(), "eventtrigger".to_owned());
    ObjectMeta {
        name: Some(name(log)),
        namespace: log.namespace(),
        labels: Some(labels),
        owner_references: log.controller_owner_ref(&()).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

/// All that a worker is told: connection and header values.
pub(super) fn secret(log: &EventLog, config: &Config) -> Secret {
    // Names as keys and text as values: nothing in it can fail to be JSON.
    let json = serde_json::to_vec(config).unwrap_or_default();
    Secret {
        metadata: metadata(log),
        type_: Some("Opaque".to_owned()),
        data: Some(BTreeMap::from([(CONFIG.to_owned(), ByteString(json))])),
        ..Secret::default()
    }
}

/// The workers, started with the given version of the Secret. They get no API token: all that they need is in the Secret
/// and in the log.
pub(super) fn deployment(log: &EventLog, image: &str, addresses: &AddressOptions, secret_version: &str) -> Deployment {
    let selector = selector(log);
    Deployment {
        metadata: metadata(log),
        spec: Some(DeploymentSpec {
            replicas: Some(log.spec.delivery.replicas),
            selector: LabelSelector { match_labels: Some(selector.clone()), ..LabelSelector::default() },
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_unavailable: Some(IntOrString::Int(0)),
                    max_surge: Some(IntOrString::Int(1)),
                }),
            }),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(selector),
                    annotations: Some(BTreeMap::from([(SECRET_VERSION.to_owned(), secret_version.to_owned())])),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(log, image, addresses)),
            },
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

fn pod(log: &EventLog, image: &str, addresses: &AddressOptions) -> PodSpec {
    PodSpec {
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(NOBODY),
            run_as_group: Some(NOBODY),
            fs_group: Some(NOBODY),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), ..SeccompProfile::default() }),
            ..PodSecurityContext::default()
        }),
        termination_grace_period_seconds: Some(GRACE),
        containers: vec![container(log, image, addresses)],
        volumes: Some(vec![Volume {
            name: "config".to_owned(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(name(log)),
                // Readable by the group, which is the pod's own.
                default_mode: Some(0o440),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        }]),
        ..PodSpec::default()
    }
}

fn container(log: &EventLog, image: &str, addresses: &AddressOptions) -> Container {
    let mut arguments = ["deliver", "--config", &format!("{FOLDER}/{CONFIG}")].map(str::to_owned).to_vec();
    arguments.extend(addresses.arguments());
    let probe = |path: &str, period: i32| Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("http".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        ..Probe::default()
    };
    Container {
        name: "deliver".to_owned(),
        image: Some(image.to_owned()),
        args: Some(arguments),
        ports: Some(vec![ContainerPort {
            name: Some("http".to_owned()),
            container_port: 8080,
            ..ContainerPort::default()
        }]),
        liveness_probe: Some(probe("/livez", 10)),
        // Often, as a roll-out waits for it.
        readiness_probe: Some(probe("/readyz", 2)),
        resources: Some(log.spec.delivery.resources.clone().unwrap_or_else(resources)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), ..Capabilities::default() }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(vec![VolumeMount {
            name: "config".to_owned(),
            mount_path: FOLDER.to_owned(),
            read_only: Some(true),
            ..VolumeMount::default()
        }]),
        ..Container::default()
    }
}

/// A worker at rest needs under 20 MiB.
fn resources() -> ResourceRequirements {
    let quantities = |list: &[(&str, &str)]| {
        Some(list.iter().map(|(name, quantity)| ((*name).to_owned(), Quantity((*quantity).to_owned()))).collect())
    };
    ResourceRequirements {
        requests: quantities(&[("cpu", "10m"), ("memory", "32Mi")]),
        limits: quantities(&[("memory", "128Mi")]),
        ..ResourceRequirements::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::TlsMode,
        log::{ConnectConfig, Owner, definition::SecretName},
        name::{Ident, ObjectName},
        resolve::testing::parse,
    };

    fn log() -> EventLog {
        parse(
            r"{apiVersion: eventtrigger.dev/v1alpha1, kind: EventLog, metadata: {name: shop, namespace: shop, uid: u-1},
               spec: {connection: {uri: {secretKeyRef: {name: app, key: uri}}}, delivery: {replicas: 2}}}",
        )
    }

    #[test]
    fn the_workers() {
        insta::assert_yaml_snapshot!(deployment(&log(), "eventtrigger:dev", &AddressOptions::default(), "4711"));
    }

    #[test]
    fn the_clusters_addresses_are_told_to_the_workers() {
        let addresses = AddressOptions {
            allow_addresses: vec!["127.0.0.0/8".parse().unwrap()],
            deny_addresses: vec!["10.0.0.0/8".parse().unwrap()],
        };
        let pod = deployment(&log(), "i", &addresses, "1").spec.unwrap().template.spec.unwrap();
        let arguments = pod.containers[0].args.clone().unwrap();
        assert_eq!(arguments[3..], ["--allow-addresses=127.0.0.0/8", "--deny-addresses=10.0.0.0/8"]);
    }

    #[test]
    fn the_secret_holds_what_a_worker_reads_back() {
        let config = Config {
            owner: Owner { uid: "u-1".to_owned(), log: ObjectName::new("shop", "shop") },
            schema: Ident::new("eventlog"),
            connection: ConnectConfig {
                host: "db".to_owned(),
                port: 5432,
                dbname: "shop".to_owned(),
                user: "app".to_owned(),
                password: Some("p".to_owned()),
                tls: TlsMode::Prefer,
                ca: None,
            },
            secrets: BTreeMap::from([(SecretName::new("shop", "keys", "token"), "t".to_owned())]),
        };
        let secret = secret(&log(), &config);
        assert_eq!(serde_json::from_slice::<Config>(&secret.data.unwrap()["delivery.json"].0).unwrap(), config);
        assert_eq!(secret.metadata.owner_references.unwrap()[0].uid, "u-1");
    }

    #[test]
    fn the_watch_selects_the_deployment() {
        let labels = deployment(&log(), "i", &AddressOptions::default(), "1").metadata.labels.unwrap();
        for pair in MANAGED.split(',') {
            let (key, value) = pair.split_once('=').unwrap();
            assert_eq!(labels[key], value);
        }
    }
}
