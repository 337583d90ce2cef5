//! One replica works, the others stand by: whoever holds the Lease.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder, LeaseManagerError};
use tokio::{sync::watch, task::JoinHandle, time::sleep};

use crate::name::ObjectName;

/// How long the Lease outlives its holder.
const DURATION: u64 = 15;
/// How long before its end it is renewed: every 10 s, the only periodic write of a controller at rest.
const GRACE: u64 = 5;
/// Between two looks whether the holder has given it up; as often as the controllers of Kubernetes itself look.
const LOOK: Duration = Duration::from_secs(2);

/// A replica's share in the Lease.
pub(super) struct Leader {
    client: Client,
    lease: ObjectName,
    identity: String,
    held: watch::Receiver<bool>,
    task: JoinHandle<Result<LeaseManager, LeaseManagerError>>,
}

impl Leader {
    /// Begins to try for a Lease.
    pub(super) async fn stand(client: Client, lease: &ObjectName, identity: &str) -> Result<Self, LeaseManagerError> {
        let manager = LeaseManagerBuilder::new(client.clone(), &lease.name)
            .with_namespace(&lease.namespace)
            .with_identity(identity)
            .with_duration(DURATION)
            .with_grace(GRACE)
            .build()
            .await?;
        let (held, task) = manager.watch().await;
        Ok(Self { client, lease: lease.clone(), identity: identity.to_owned(), held, task })
    }

    /// Waits until this replica holds the Lease.
    ///
    /// The library looks again when the holder's time is over, not before. One that leaves gives the Lease up, which is seen
    /// here: then this replica stands anew, and takes it.
    pub(super) async fn elected(&mut self) {
        loop {
            tokio::select! {
                biased;
                held = self.held.wait_for(|held| *held) => match held {
                    Ok(_) => return,
                    // The task has ended: then nobody is elected any more.
                    Err(_) => std::future::pending().await,
                },
                () = given_up(&self.client, &self.lease) => {}
            }
            match Self::stand(self.client.clone(), &self.lease, &self.identity).await {
                Ok(anew) => {
                    // Not ended, which would release what the new one takes.
                    self.task.abort();
                    *self = anew;
                    // Time to take it.
                    let _ = tokio::time::timeout(LOOK, self.held.wait_for(|held| *held)).await;
                }
                Err(error) => tracing::debug!(%error, "failed to stand for the lease anew"),
            }
        }
    }

    /// Waits until this replica, elected before, holds the Lease no longer.
    pub(super) async fn lost(&mut self) {
        let _ = self.held.wait_for(|held| !*held).await;
    }

    /// Gives the Lease up, so that another replica need not wait for its end.
    pub(super) async fn resign(self) {
        let Self { held, task, .. } = self;
        drop(held);
        match task.await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "failed to release the lease"),
            Err(error) => tracing::warn!(%error, "the lease's task failed"),
        }
    }
}

/// Waits until nobody holds the Lease.
async fn given_up(client: &Client, lease: &ObjectName) {
    let leases = Api::<Lease>::namespaced(client.clone(), &lease.namespace);
    loop {
        sleep(LOOK).await;
        // Whatever is wrong is the library's to tell.
        let Ok(Some(found)) = leases.get_opt(&lease.name).await else { continue };
        if found.spec.is_none_or(|spec| spec.holder_identity.is_none_or(|holder| holder.is_empty())) {
            return;
        }
    }
}
