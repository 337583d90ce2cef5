//! Starting and stopping: the lease, the three loops, the watches and the server.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::ListParams,
    runtime::{Controller, reflector::store::Writer, watcher},
};
use kube_lease_manager::LeaseManagerError;
use prometheus_client::registry::Registry;
use tokio::{
    net::TcpListener,
    pin,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Options,
    admins::Admins,
    backoff::Backoffs,
    cluster::Cluster,
    context::{Context, Needs, Stores, Watched},
    error::explain,
    events::Events,
    leader::Leader,
    metrics::Metrics,
    notice,
    own::Own,
    pokes::{Receivers, pokes},
    reread::reread,
    run as each,
    scope::Scope,
};
use crate::{
    api::{EventLog, EventSink, EventTrigger},
    delivery::{AddressOptions, TraceOptions},
    name::ObjectName,
    server::{self, Readiness},
};

/// Name of the controller's container in its pod.
const CONTAINER: &str = "controller";
/// Between two attempts to start: rights, or an API server, that come are found soon.
const AGAIN: Duration = Duration::from_secs(2);
/// How long reconciles that are under way may take to end when this replica stops. Whoever is next does them again, and waits for
/// the Lease until then: it must not wait for a database that does not answer.
const FINISH: Duration = Duration::from_secs(5);

/// Why the controller does not run, or ended.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No cluster to work for.
    #[error("failed to connect to the cluster")]
    Client(#[source] Box<kube::Error>),
    /// No image for the workers.
    #[error(
        "failed to find out the image of pod {pod}, container {CONTAINER}; outside of a cluster, say --delivery-image"
    )]
    Image {
        /// Namespace and name of the pod that this should be.
        pod: String,
        /// Why; nothing if there is no such pod or container.
        source: Option<Box<kube::Error>>,
    },
    /// No Lease to agree on.
    #[error("failed to set up the lease {lease}")]
    Lease {
        /// What it should be.
        lease: ObjectName,
        /// Why.
        source: LeaseManagerError,
    },
    /// No address to answer probes at.
    #[error("failed to listen on {address}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Another replica works now; a fresh start makes this one stand by.
    #[error("the lease was lost to another replica")]
    LostLease,
}

/// Works while this replica holds the lease, until `shutdown`; then finishes what is under way and releases it.
pub async fn run(options: Options, shutdown: CancellationToken) -> Result<(), StartError> {
    let Options { delivery_image, watch_namespaces, lease_name, lease_namespace, identity, listen, addresses, traces } =
        options;
    let scopes = Scope::of(&watch_namespaces);
    let client = Client::try_default().await.map_err(|error| StartError::Client(Box::new(error)))?;
    let failed = |source| StartError::Listen { address: listen, source };
    let listener = TcpListener::bind(listen).await.map_err(failed)?;
    let metrics = Metrics::default();
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    // A replica that stands by is ready to; the one that works is once it knows every resource.
    let waits = Waits::default();
    let stop = CancellationToken::new();
    let server = tokio::spawn(server::serve(listener, waits.readiness(), Arc::new(registry), stop.clone()));
    let lease = ObjectName::new(lease_namespace, lease_name);
    let prepare = patiently(&waits, async || {
        let image = match &delivery_image {
            Some(image) => image.clone(),
            None => own_image(&client, &lease.namespace, &identity).await?,
        };
        let stood = Leader::stand(client.clone(), &lease, &identity).await;
        Ok((image, stood.map_err(|source| StartError::Lease { lease: lease.clone(), source })?))
    });
    let Some(prepared) = shutdown.run_until_cancelled(prepare).await else { return Ok(()) };
    let (image, mut leader) = prepared?;
    tracing::info!(identity, "waiting for the lease");
    let outcome = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        () = leader.elected() => {
            tracing::info!(identity, "holds the lease");
            metrics.elected();
            let work = Work { client, scopes, image, addresses, traces, identity, metrics, waits };
            Box::pin(work.run(&mut leader, &shutdown)).await
        }
    };
    leader.resign().await;
    stop.cancel();
    match server.await {
        Ok(Ok(())) => outcome,
        Ok(Err(source)) => outcome.and(Err(failed(source))),
        Err(error) => outcome.and(Err(failed(io::Error::other(error)))),
    }
}

/// The image that this very pod runs, whoever chose it.
async fn own_image(client: &Client, namespace: &str, name: &str) -> Result<String, StartError> {
    let unknown = |source| StartError::Image { pod: format!("{namespace}/{name}"), source };
    let pod = Api::<Pod>::namespaced(client.clone(), namespace).get_opt(name).await;
    let pod = pod.map_err(|error| unknown(Some(Box::new(error))))?;
    let mut containers = pod.into_iter().filter_map(|pod| pod.spec).flat_map(|spec| spec.containers);
    let own = containers.find(|container| container.name == CONTAINER);
    own.and_then(|container| container.image).ok_or_else(|| unknown(None))
}

/// What keeps this replica from being ready, for `/readyz` to tell.
#[derive(Clone, Default)]
struct Waits(Arc<Mutex<Option<String>>>);

impl Waits {
    fn set(&self, why: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    fn readiness(&self) -> Readiness {
        let why = self.0.clone();
        Arc::new(move || why.lock().unwrap_or_else(PoisonError::into_inner).clone().map_or(Ok(()), Err))
    }
}

/// Scopes of which not every kind has been listed yet: until there are none, this replica is not ready.
#[derive(Clone)]
struct Unlisted {
    waits: Waits,
    count: Arc<AtomicUsize>,
}

impl Unlisted {
    fn new(waits: Waits, count: usize) -> Self {
        waits.set(Some("the resources have not been listed yet; are the CRDs installed?".to_owned()));
        Self { waits, count: Arc::new(AtomicUsize::new(count)) }
    }

    fn one_less(&self) {
        if self.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.waits.set(None);
        }
    }
}

/// Does what needs the API server until that lets it: what is lacking is for somebody to read, and no reason to be restarted.
async fn patiently<T>(waits: &Waits, mut attempt: impl AsyncFnMut() -> Result<T, StartError>) -> Result<T, StartError> {
    loop {
        match attempt().await {
            Ok(done) => {
                waits.set(None);
                return Ok(done);
            }
            // There is no such pod or container: that will not change.
            Err(error @ StartError::Image { source: None, .. }) => return Err(error),
            Err(error) => {
                let error = explain(&error);
                tracing::warn!(error, "failed to start; will try again");
                waits.set(Some(error));
                sleep(AGAIN).await;
            }
        }
    }
}

/// What the holder of the lease does.
struct Work {
    client: Client,
    scopes: Vec<Scope>,
    image: String,
    addresses: AddressOptions,
    traces: TraceOptions,
    identity: String,
    metrics: Metrics,
    waits: Waits,
}

impl Work {
    async fn run(self, leader: &mut Leader, shutdown: &CancellationToken) -> Result<(), StartError> {
        let Self { client, scopes, image, addresses, traces, identity, metrics, waits } = self;
        let mut stores = Stores::default();
        let (pokes, receivers) = pokes(&scopes);
        let own = Own::default();
        let each = scopes.iter().map(|scope| Controllers::new(scope, &client, &own, &mut stores));
        let controllers: Vec<_> = each.collect();
        metrics.watches(&stores);
        let ctx = Arc::new(Context {
            client: client.clone(),
            cluster: Cluster::new(client.clone(), &scopes),
            image,
            addresses,
            traces,
            stores: stores.clone(),
            pokes: pokes.clone(),
            admins: Admins::new(pokes.clone(), metrics.clone()),
            backoffs: Backoffs::default(),
            events: Events::new(client.clone(), &identity),
            own,
            needs: Needs::default(),
            bare: Mutex::default(),
            metrics,
        });
        let work = shutdown.child_token();
        let unlisted = Unlisted::new(waits, scopes.len());
        // On tasks of their own: many namespaces would wait for one another in one.
        let mut each = JoinSet::new();
        for (controllers, receivers) in controllers.into_iter().zip(receivers) {
            each.spawn(controllers.run(receivers, ctx.clone(), work.clone(), unlisted.clone()));
        }
        let notices =
            scopes.into_iter().map(|scope| notice::watch(client.clone(), scope, stores.clone(), pokes.clone()));
        let loops = async {
            tokio::join!(each.join_all(), work.run_until_cancelled(join_all(notices)));
        };
        work_until(loops, shutdown, leader.lost(), &work).await
    }
}

/// Runs `loops` until they end, which they soon do after `work` is cancelled: at `shutdown`, or when the Lease is lost.
async fn work_until(
    loops: impl Future<Output = ()>,
    shutdown: &CancellationToken,
    lost: impl Future<Output = ()>,
    work: &CancellationToken,
) -> Result<(), StartError> {
    pin!(loops);
    let outcome = tokio::select! {
        () = &mut loops => return Ok(()),
        () = shutdown.cancelled() => Ok(()),
        () = lost => Err(StartError::LostLease),
    };
    work.cancel();
    if timeout(FINISH, loops).await.is_err() {
        tracing::warn!("broke off what was under way: a database or the API server does not answer");
    }
    outcome
}

/// The three loops of one scope.
struct Controllers {
    logs: Controller<Watched<EventLog>>,
    sinks: Controller<Watched<EventSink>>,
    triggers: Controller<Watched<EventTrigger>>,
}

impl Controllers {
    /// Adds what they know to `stores`.
    fn new(scope: &Scope, client: &Client, own: &Own, stores: &mut Stores) -> Self {
        let (logs, sinks, triggers) = (of(scope, client, own), of(scope, client, own), of(scope, client, own));
        stores.logs.push(logs.store());
        stores.sinks.push(sinks.store());
        stores.triggers.push(triggers.store());
        Self { logs, sinks, triggers }
    }

    async fn run(self, pokes: Receivers, ctx: Arc<Context>, work: CancellationToken, unlisted: Unlisted) {
        let (logs, sinks, triggers) = (self.logs.store(), self.sinks.store(), self.triggers.store());
        let listed = async {
            let all = tokio::try_join!(logs.wait_until_ready(), sinks.wait_until_ready(), triggers.wait_until_ready());
            // It fails only when the loops have ended.
            if all.is_ok() {
                unlisted.one_less();
            }
        };
        // In one task with the controllers, which wait for the same: a store wakes only the task that has asked it last.
        tokio::join!(
            work.run_until_cancelled(listed),
            each::run(self.logs, pokes.logs, ctx.clone(), work.clone()),
            each::run(self.sinks, pokes.sinks, ctx.clone(), work.clone()),
            each::run(self.triggers, pokes.triggers, ctx, work.clone()),
        );
    }
}

/// A kind's loop, which looks again at an object when anybody but this controller has changed it, or when it could not be
/// read and now can.
fn of<K: each::Kind>(scope: &Scope, client: &Client, own: &Own) -> Controller<Watched<K>> {
    let writer = Writer::default();
    let store = writer.as_reader();
    let watch = watcher(scope.api::<Watched<K>>(client), watcher::Config::default());
    let client = client.clone();
    let watch = reread(watch, async move |ObjectName { namespace, name }: &ObjectName| {
        // By a list: to read one by its name is a right that nothing else needs.
        let one = ListParams::default().fields(&format!("metadata.name={name}"));
        let found = Api::namespaced(client.clone(), namespace).list(&one).await?;
        Ok(found.items.into_iter().next())
    });
    Controller::for_stream(own.reasons(watch, writer), store)
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[test]
    fn a_replica_is_ready_once_every_scope_has_been_listed() {
        let waits = Waits::default();
        let readiness = waits.readiness();
        assert_eq!(readiness(), Ok(()), "it stands by");
        let unlisted = Unlisted::new(waits, 2);
        unlisted.clone().one_less();
        assert!(readiness().unwrap_err().contains("CRDs"));
        unlisted.one_less();
        assert_eq!(readiness(), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_at_the_start_is_tried_again_and_told_meanwhile() {
        let (waits, mut attempts) = (Waits::default(), 0);
        let readiness = waits.readiness();
        let pod = || "eventtrigger-system/controller".to_owned();
        let refused = || kube::Error::LinesCodecMaxLineLengthExceeded;
        let done = patiently(&waits, async || {
            attempts += 1;
            match attempts {
                3 => Ok(readiness().unwrap_err()),
                _ => Err(StartError::Image { pod: pod(), source: Some(Box::new(refused())) }),
            }
        });
        assert!(done.await.unwrap().contains("eventtrigger-system/controller"));
        assert_eq!(readiness(), Ok(()));
        // Where there is no pod there never will be: outside of a cluster.
        let outside = patiently(&waits, async || Err::<(), _>(StartError::Image { pod: pod(), source: None }));
        assert!(outside.await.is_err());
    }
    #[tokio::test(start_paused = true)]
    async fn nobody_waits_long_for_what_is_under_way_at_the_end() {
        let (shutdown, work) = (CancellationToken::new(), CancellationToken::new());
        let began = tokio::time::Instant::now();
        let lost = work_until(pending(), &shutdown, async {}, &work).await;
        assert!(matches!(lost, Err(StartError::LostLease)) && work.is_cancelled());
        assert_eq!(began.elapsed(), FINISH);
        shutdown.cancel();
        assert!(work_until(pending(), &shutdown, pending(), &work).await.is_ok());
        assert_eq!(began.elapsed(), FINISH * 2);
        // What ends is not waited for any longer.
        assert!(work_until(work.cancelled(), &shutdown, pending(), &work).await.is_ok());
        assert_eq!(began.elapsed(), FINISH * 2);
    }
}
