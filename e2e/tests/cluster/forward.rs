//! Ports of pods, reached through the API server: works on any cluster, wherever the tests run.

use std::{io, net::SocketAddr};

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt};
use tokio::net::{TcpListener, TcpStream};

use super::cluster::Cluster;

/// Opens a port on the loopback that leads to port `port` of whichever pod with these labels is ready. Each connection
/// looks for the pod anew, so a killed one is replaced by its successor.
pub async fn forward(cluster: &Cluster, namespace: &str, selector: &str, port: u16) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen on the loopback");
    let address = listener.local_addr().expect("an address");
    let (cluster, namespace, selector) = (cluster.clone(), namespace.to_owned(), selector.to_owned());
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let (cluster, namespace, selector) = (cluster.clone(), namespace.clone(), selector.clone());
            tokio::spawn(async move {
                // The other side sees the connection end, and says what it was doing.
                let _ = lead(&cluster, &namespace, &selector, port, connection).await;
            });
        }
    });
    address
}

async fn lead(cluster: &Cluster, namespace: &str, selector: &str, port: u16, mut near: TcpStream) -> io::Result<()> {
    let pod = cluster.ready_pod(namespace, selector).await.map_err(io::Error::other)?;
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), namespace);
    let mut forwarder = pods.portforward(&pod.name_any(), &[port]).await.map_err(io::Error::other)?;
    let mut far = forwarder.take_stream(port).ok_or(io::ErrorKind::NotConnected)?;
    near.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut near, &mut far).await?;
    Ok(())
}
