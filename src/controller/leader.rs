//! One replica works, the others stand by: whoever holds the Lease.

use kube::Client;
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder, LeaseManagerError};
use tokio::{sync::watch, task::JoinHandle};

/// How long the Lease outlives its holder.
const DURATION: u64 = 15;
/// How long before its end it is renewed: every 10 s, the only periodic write of a controller at rest.
const GRACE: u64 = 5;
/// Name of the Lease.
const NAME: &str = "eventtrigger-controller";

/// A replica's share in the Lease.
pub(super) struct Leader {
    held: watch::Receiver<bool>,
    task: JoinHandle<Result<LeaseManager, LeaseManagerError>>,
}

impl Leader {
    /// Begins to try for the Lease in `namespace`.
    pub(super) async fn stand(client: Client, namespace: &str, identity: &str) -> Result<Self, LeaseManagerError> {
        let manager = LeaseManagerBuilder::new(client, NAME)
            .with_namespace(namespace)
            .with_identity(identity)
            .with_duration(DURATION)
            .with_grace(GRACE)
            .build()
            .await?;
        let (held, task) = manager.watch().await;
        Ok(Self { held, task })
    }

    /// Waits until this replica holds the Lease.
    pub(super) async fn elected(&mut self) {
        // An error means that the task has ended: then nobody is elected any more.
        if self.held.wait_for(|held| *held).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until this replica, elected before, holds the Lease no longer.
    pub(super) async fn lost(&mut self) {
        let _ = self.held.wait_for(|held| !*held).await;
    }

    /// Gives the Lease up, so that another replica need not wait for its end.
    pub(super) async fn resign(self) {
        let Self { held, task } = self;
        drop(held);
        match task.await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "failed to release the lease"),
            Err(error) => tracing::warn!(%error, "the lease's task failed"),
        }
    }
}
