//! A TCP proxy in the test's own process, whose connections are reset or fall silent as it is told.

use std::sync::{
    Arc,
    atomic::{AtomicU16, Ordering::Relaxed},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
};

pub(crate) struct Proxy {
    pub(crate) port: u16,
    /// Where it leads: it may change, for later connections.
    target: Arc<AtomicU16>,
    /// Counts resets.
    resets: watch::Sender<u64>,
    silent: watch::Sender<bool>,
}

impl Proxy {
    /// To a port of this machine.
    pub(crate) async fn start(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let (target, resets, silent) =
            (Arc::new(AtomicU16::new(target)), watch::Sender::default(), watch::Sender::default());
        let (to, reset, still) = (target.clone(), resets.subscribe(), silent.subscribe());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, to.load(Relaxed), reset.clone(), still.clone()));
            }
        });
        Self { port, target, resets, silent }
    }

    pub(crate) fn lead_to(&self, port: u16) {
        self.target.store(port, Relaxed);
    }

    /// Resets every connection; what was on its way is lost.
    pub(crate) fn reset(&self) {
        self.resets.send_modify(|resets| *resets += 1);
    }

    /// Carries nothing any more, and says nothing, until it is told otherwise.
    pub(crate) fn silence(&self, silent: bool) {
        self.silent.send_replace(silent);
    }
}

async fn serve(mut from: TcpStream, port: u16, mut reset: watch::Receiver<u64>, silent: watch::Receiver<bool>) {
    reset.mark_unchanged();
    let Ok(mut to) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let _ = (from.set_nodelay(true), to.set_nodelay(true));
    {
        let ((from_read, from_write), (to_read, to_write)) = (from.split(), to.split());
        tokio::select! {
            () = carry(from_read, to_write, silent.clone()) => {}
            () = carry(to_read, from_write, silent) => {}
            _ = reset.changed() => {}
        }
    }
    // No goodbye.
    let _ = (from.set_zero_linger(), to.set_zero_linger());
}

async fn carry(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, mut silent: watch::Receiver<bool>) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if silent.wait_for(|silent| !silent).await.is_err() || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
