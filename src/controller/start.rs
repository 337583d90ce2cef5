//! Starting and stopping: the lease, the three loops, the watches and the server.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    runtime::{Controller, watcher},
};
use kube_lease_manager::LeaseManagerError;
use prometheus_client::registry::Registry;
use tokio::{net::TcpListener, pin};
use tokio_util::sync::CancellationToken;

use super::{
    Options,
    admins::Admins,
    backoff::Backoffs,
    context::{Context, Needs, Stores, Watched},
    events::Events,
    leader::Leader,
    metrics::Metrics,
    notice,
    pokes::pokes,
    run as each,
};
use crate::{
    api::{EventLog, EventSink, EventTrigger},
    delivery::AddressOptions,
    server::{self, Readiness},
};

/// Name of the controller's container in its pod.
const CONTAINER: &str = "controller";

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
    #[error("failed to set up the lease in namespace {namespace}")]
    Lease {
        /// Where it should be.
        namespace: String,
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
    let Options { delivery_image, lease_namespace, identity, listen, addresses } = options;
    let client = Client::try_default().await.map_err(|error| StartError::Client(Box::new(error)))?;
    let image = match delivery_image {
        Some(image) => image,
        None => own_image(&client, &lease_namespace, &identity).await?,
    };
    let failed = |source| StartError::Listen { address: listen, source };
    let listener = TcpListener::bind(listen).await.map_err(failed)?;
    let metrics = Metrics::default();
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    // A replica that stands by is ready to; the one that works is once it knows every resource.
    let behind = Arc::new(AtomicBool::new(false));
    let stop = CancellationToken::new();
    let server = tokio::spawn(server::serve(listener, readiness(behind.clone()), Arc::new(registry), stop.clone()));
    let stood = Leader::stand(client.clone(), &lease_namespace, &identity).await;
    let mut leader = stood.map_err(|source| StartError::Lease { namespace: lease_namespace, source })?;
    tracing::info!(identity, "waiting for the lease");
    let outcome = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        () = leader.elected() => {
            tracing::info!(identity, "holds the lease");
            metrics.elected();
            let work = Work { client, image, addresses, identity, metrics, behind };
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

fn readiness(behind: Arc<AtomicBool>) -> Readiness {
    Arc::new(move || {
        if behind.load(Ordering::Relaxed) {
            return Err("the resources have not been listed yet; are the CRDs installed?".to_owned());
        }
        Ok(())
    })
}

/// What the holder of the lease does.
struct Work {
    client: Client,
    image: String,
    addresses: AddressOptions,
    identity: String,
    metrics: Metrics,
    behind: Arc<AtomicBool>,
}

impl Work {
    async fn run(self, leader: &mut Leader, shutdown: &CancellationToken) -> Result<(), StartError> {
        let Self { client, image, addresses, identity, metrics, behind } = self;
        let logs = Controller::new(Api::<Watched<EventLog>>::all(client.clone()), watcher::Config::default());
        let sinks = Controller::new(Api::<Watched<EventSink>>::all(client.clone()), watcher::Config::default());
        let triggers = Controller::new(Api::<Watched<EventTrigger>>::all(client.clone()), watcher::Config::default());
        let stores = Stores { logs: logs.store(), sinks: sinks.store(), triggers: triggers.store() };
        let (pokes, receivers) = pokes();
        let ctx = Arc::new(Context {
            client: client.clone(),
            image,
            addresses,
            stores: stores.clone(),
            pokes: pokes.clone(),
            admins: Admins::new(pokes.clone()),
            backoffs: Backoffs::default(),
            events: Events::new(client.clone(), &identity),
            needs: Needs::default(),
            metrics,
        });
        let work = shutdown.child_token();
        let loops = async {
            tokio::join!(
                each::run(logs, receivers.logs, ctx.clone(), work.clone()),
                each::run(sinks, receivers.sinks, ctx.clone(), work.clone()),
                each::run(triggers, receivers.triggers, ctx.clone(), work.clone()),
                work.run_until_cancelled(notice::watch(client, stores.clone(), pokes)),
                work.run_until_cancelled(synced(&stores, &behind)),
            );
        };
        pin!(loops);
        tokio::select! {
            () = &mut loops => Ok(()),
            () = leader.lost() => {
                work.cancel();
                loops.await;
                Err(StartError::LostLease)
            }
        }
    }
}

/// Not ready until every kind has been listed once.
async fn synced(stores: &Stores, behind: &AtomicBool) {
    behind.store(true, Ordering::Relaxed);
    let Stores { logs, sinks, triggers } = stores;
    let listed = tokio::try_join!(logs.wait_until_ready(), sinks.wait_until_ready(), triggers.wait_until_ready());
    // It fails only when the loops have ended.
    behind.store(listed.is_err(), Ordering::Relaxed);
}
