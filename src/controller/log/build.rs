//! The objects that deliver from a log: a Secret that holds all that a worker is told, a Deployment, and one more for each
//! EventTrigger that asks for workers of its own. Pure.

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
    api::{EventLog, EventTrigger, TriggerDeployment, WorkerPod},
    controller::context::name_of,
    delivery::{AddressOptions, Config, TraceOptions},
    name::ObjectName,
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
/// A worker lets attempts under way end, for as long as their timeouts say, up to `Options::LONG_GRACE`: one that is cut off is
/// made again by the next worker. The rest is for the last commit.
const GRACE: i64 = 310;
/// A user that the image need not know.
const NOBODY: i64 = 65532;

/// Name of a log's own two objects.
pub(in crate::controller) fn name(log: &EventLog) -> String {
    format!("{}-delivery", log.name_any())
}

/// Name of an EventTrigger's Deployment. No EventLog's ends like it.
pub(in crate::controller) fn own_name(trigger: &EventTrigger) -> String {
    format!("{}-workers", trigger.name_any())
}

/// Labels that select the pods; a Deployment's selector cannot be changed later.
fn selector(instance: String) -> BTreeMap<String, String> {
    let labels = [("name", "eventtrigger".to_owned()), ("component", "delivery".to_owned()), ("instance", instance)];
    labels.into_iter().map(|(key, value)| (format!("app.kubernetes.io/{key}"), value)).collect()
}

fn metadata(owner: &impl Resource<DynamicType = ()>, name: String, mut labels: BTreeMap<String, String>) -> ObjectMeta {
    labels.insert("app.kubernetes.io/managed-by".to_owned(), "eventtrigger".to_owned());
    ObjectMeta {
        name: Some(name),
        namespace: owner.meta().namespace.clone(),
        labels: Some(labels),
        owner_references: owner.controller_owner_ref(&()).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

/// All that a worker is told: connection and the values of Secrets.
pub(super) fn secret(log: &EventLog, config: &Config) -> Secret {
    // Names as keys and text as values: nothing in it can fail to be JSON.
    let json = serde_json::to_vec(config).unwrap_or_default();
    Secret {
        metadata: metadata(log, name(log), selector(log.name_any())),
        type_: Some("Opaque".to_owned()),
        data: Some(BTreeMap::from([(CONFIG.to_owned(), ByteString(json))])),
        ..Secret::default()
    }
}

/// What all workers of a log have in common.
#[derive(Clone, Copy)]
pub(in crate::controller) struct Common<'a> {
    pub(in crate::controller) log: &'a EventLog,
    pub(in crate::controller) image: &'a str,
    pub(in crate::controller) addresses: &'a AddressOptions,
    /// Where they trace attempts.
    pub(in crate::controller) traces: &'a TraceOptions,
    /// The version of the Secret that they are started with.
    pub(in crate::controller) secret_version: &'a str,
}

/// In what they differ.
struct Pool<'a> {
    metadata: ObjectMeta,
    selector: BTreeMap<String, String>,
    replicas: i32,
    resources: Option<&'a ResourceRequirements>,
    /// The EventTrigger whose own they are.
    only: Option<ObjectName>,
}

/// The workers of a log.
pub(super) fn deployment(common: Common<'_>) -> Deployment {
    let Common { log, .. } = common;
    let selector = selector(log.name_any());
    workers(
        common,
        Pool {
            metadata: metadata(log, name(log), selector.clone()),
            selector,
            replicas: log.spec.delivery.replicas,
            resources: log.spec.delivery.resources.as_ref(),
            only: None,
        },
    )
}

/// The workers of an EventTrigger's own.
pub(in crate::controller) fn own_deployment(
    trigger: &EventTrigger,
    asked: &TriggerDeployment,
    common: Common<'_>,
) -> Deployment {
    // An EventLog may be called like the EventTrigger, and would have its pods; no object's name has this character.
    let selector = selector(format!("trigger_{}", trigger.name_any()));
    workers(
        common,
        Pool {
            metadata: metadata(trigger, own_name(trigger), selector.clone()),
            selector,
            replicas: asked.replicas,
            resources: asked.resources.as_ref().or(common.log.spec.delivery.resources.as_ref()),
            only: Some(name_of(trigger)),
        },
    )
}

/// They get no API token: all that they need is in the Secret and in the log.
fn workers(common: Common<'_>, pool: Pool<'_>) -> Deployment {
    let spec = pod(common, &pool);
    let Pool { metadata, selector, replicas, .. } = pool;
    let WorkerPod { labels, annotations, .. } = common.log.spec.delivery.pod.clone().unwrap_or_default();
    let version = (SECRET_VERSION.to_owned(), common.secret_version.to_owned());
    Deployment {
        metadata,
        spec: Some(DeploymentSpec {
            replicas: Some(replicas),
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
                    labels: Some(labels.into_iter().chain(selector).collect()),
                    annotations: Some(annotations.into_iter().chain([version]).collect()),
                    ..ObjectMeta::default()
                }),
                spec: Some(spec),
            },
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

fn pod(common: Common<'_>, pool: &Pool<'_>) -> PodSpec {
    let WorkerPod {
        labels: _,
        annotations: _,
        node_selector,
        tolerations,
        affinity,
        topology_spread_constraints,
        priority_class_name,
        image_pull_secrets,
    } = common.log.spec.delivery.pod.clone().unwrap_or_default();
    PodSpec {
        node_selector: (!node_selector.is_empty()).then_some(node_selector),
        tolerations: (!tolerations.is_empty()).then_some(tolerations),
        affinity,
        topology_spread_constraints: (!topology_spread_constraints.is_empty()).then_some(topology_spread_constraints),
        priority_class_name,
        image_pull_secrets: (!image_pull_secrets.is_empty()).then_some(image_pull_secrets),
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
        containers: vec![container(common, pool)],
        volumes: Some(vec![Volume {
            name: "config".to_owned(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(name(common.log)),
                // Readable by the group, which is the pod's own.
                default_mode: Some(0o440),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        }]),
        ..PodSpec::default()
    }
}

fn container(common: Common<'_>, pool: &Pool<'_>) -> Container {
    let mut arguments = ["deliver", "--config", &format!("{FOLDER}/{CONFIG}")].map(str::to_owned).to_vec();
    arguments.extend(pool.only.iter().map(|trigger| format!("--only={trigger}")));
    arguments.extend(common.addresses.arguments());
    arguments.extend(common.traces.arguments());
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
        image: Some(common.image.to_owned()),
        args: Some(arguments),
        ports: Some(vec![ContainerPort {
            name: Some("http".to_owned()),
            container_port: 8080,
            ..ContainerPort::default()
        }]),
        liveness_probe: Some(probe("/livez", 10)),
        // Often, as a roll-out waits for it.
        readiness_probe: Some(probe("/readyz", 2)),
        resources: Some(pool.resources.cloned().unwrap_or_else(resources)),
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

/// A worker at rest needs under 25 MiB, one with much to do up to 105, and an event of 32 MB passes (docs/guarantees.md).
fn resources() -> ResourceRequirements {
    let quantities = |list: &[(&str, &str)]| {
        Some(list.iter().map(|(name, quantity)| ((*name).to_owned(), Quantity((*quantity).to_owned()))).collect())
    };
    ResourceRequirements {
        requests: quantities(&[("cpu", "10m"), ("memory", "32Mi")]),
        limits: quantities(&[("memory", "256Mi")]),
        ..ResourceRequirements::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::TlsMode,
        delivery::Options,
        log::{ConnectConfig, Owner, definition::SecretName},
        name::Ident,
        resolve::testing::parse,
    };

    fn log() -> EventLog {
        parse(
            r"{apiVersion: eventtrigger.dev/v1alpha1, kind: EventLog, metadata: {name: shop, namespace: shop, uid: u-1},
               spec: {connection: {uri: {secretKeyRef: {name: app, key: uri}}}, delivery: {replicas: 2}}}",
        )
    }

    fn of(log: &EventLog) -> Deployment {
        let (addresses, traces) = (AddressOptions::default(), TraceOptions::default());
        deployment(Common {
            log,
            image: "eventtrigger:dev",
            addresses: &addresses,
            traces: &traces,
            secret_version: "4711",
        })
    }

    fn own(spec: &str, log: &EventLog) -> Deployment {
        let trigger: EventTrigger = parse(&format!(
            "{{apiVersion: eventtrigger.dev/v1alpha1, kind: EventTrigger, metadata: {{name: paid, namespace: shop, uid: t-1}}, spec: {{eventLogRef: {{name: shop}}, table: {{name: orders}}, on: {{insert: {{}}}}, sink: {{uri: 'http://a/'}}, deployment: {spec}}}}}"
        ));
        let (addresses, traces) = (AddressOptions::default(), TraceOptions::default());
        let common =
            Common { log, image: "eventtrigger:dev", addresses: &addresses, traces: &traces, secret_version: "4711" };
        own_deployment(&trigger, trigger.spec.deployment.as_ref().unwrap(), common)
    }

    #[test]
    fn the_workers() {
        insta::assert_yaml_snapshot!(of(&log()));
    }

    #[test]
    fn the_workers_of_an_eventtriggers_own() {
        insta::assert_yaml_snapshot!(own("{replicas: 3, resources: {limits: {memory: 1Gi}}}", &log()));
    }

    #[test]
    fn resources_that_are_not_asked_for_are_the_logs() {
        let memory = |deployment: Deployment| {
            let pod = deployment.spec.unwrap().template.spec.unwrap();
            pod.containers[0].resources.clone().unwrap().limits.unwrap()["memory"].0.clone()
        };
        let log = parse(
            r"{apiVersion: eventtrigger.dev/v1alpha1, kind: EventLog, metadata: {name: shop, namespace: shop, uid: u-1},
               spec: {connection: {}, delivery: {resources: {limits: {memory: 512Mi}}}}}",
        );
        assert_eq!(memory(own("{}", &log)), "512Mi");
        assert_eq!(own("{}", &log).spec.unwrap().replicas, Some(1));
    }

    #[test]
    fn pods_run_where_the_log_says_also_those_of_an_eventtriggers_own() {
        let log = parse(
            r"{apiVersion: eventtrigger.dev/v1alpha1, kind: EventLog, metadata: {name: shop, namespace: shop, uid: u-1},
               spec: {connection: {}, delivery: {pod: {
                 labels: {team: shop, app.kubernetes.io/part-of: shop}, annotations: {sidecar.istio.io/inject: 'false'},
                 nodeSelector: {pool: workers}, tolerations: [{key: dedicated, value: workers, effect: NoSchedule}],
                 affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: kubernetes.io/hostname}]}},
                 topologySpreadConstraints: [{maxSkew: 1, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: DoNotSchedule}],
                 priorityClassName: high, imagePullSecrets: [{name: registry}]}}}}",
        );
        let [logs, own] = [of(&log), own("{}", &log)].map(|deployment| deployment.spec.unwrap());
        insta::assert_yaml_snapshot!(logs.template);
        let template = own.template;
        let pod = template.spec.unwrap();
        assert_eq!(pod.priority_class_name.as_deref(), Some("high"));
        let labels = template.metadata.unwrap().labels.unwrap();
        assert_eq!(labels["team"], "shop");
        let selected = own.selector.match_labels.unwrap();
        assert!(selected.iter().all(|(key, value)| labels[key] == *value), "{labels:?}");
    }

    #[test]
    fn pods_are_given_the_time_that_workers_take_to_stop() {
        let pod = of(&log()).spec.unwrap().template.spec.unwrap();
        let given = pod.termination_grace_period_seconds.unwrap();
        assert!(given >= i64::try_from(Options::LONG_GRACE.as_secs()).unwrap() + 5);
    }

    #[test]
    fn the_clusters_addresses_and_its_collector_are_told_to_the_workers() {
        let addresses = AddressOptions {
            allow_addresses: vec!["127.0.0.0/8".parse().unwrap()],
            deny_addresses: vec!["10.0.0.0/8".parse().unwrap()],
        };
        let traces = TraceOptions { traces_endpoint: Some("http://otel:4318".to_owned()), ..TraceOptions::default() };
        let common = Common { log: &log(), image: "i", addresses: &addresses, traces: &traces, secret_version: "1" };
        let pod = deployment(common).spec.unwrap().template.spec.unwrap();
        let arguments = pod.containers[0].args.clone().unwrap();
        let expected =
            ["--allow-addresses=127.0.0.0/8", "--deny-addresses=10.0.0.0/8", "--traces-endpoint=http://otel:4318"];
        assert_eq!(arguments[3..], expected);
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
    fn the_watch_selects_the_deployments() {
        for labels in [of(&log()), own("{}", &log())].map(|deployment| deployment.metadata.labels.unwrap()) {
            for pair in MANAGED.split(',') {
                let (key, value) = pair.split_once('=').unwrap();
                assert_eq!(labels[key], value);
            }
        }
    }
}
