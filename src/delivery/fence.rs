//! Nothing is sent by a worker whose leases are over, not even what it was about to send when it was paused.
//!
//! It is looked at at the last moment there is: when bytes go to a connection. A worker that wakes has answers waiting, and
//! would follow them up with the next events before it comes round to its leases.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::time::Instant;

/// Until when a worker may send. Clones are the same fence.
#[derive(Clone, Debug)]
pub(super) struct Fence {
    start: Instant,
    /// Milliseconds after the start.
    until: Arc<AtomicU64>,
}

impl Fence {
    /// One that stops nothing before it is told for how long.
    pub(super) fn new() -> Self {
        Self { start: Instant::now(), until: Arc::new(AtomicU64::new(u64::MAX)) }
    }

    /// Bytes may go out until then.
    pub(super) fn open_until(&self, until: Instant) {
        self.until.store(self.millis(until), Relaxed);
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.start).as_millis()).unwrap_or(u64::MAX)
    }

    fn check(&self) -> io::Result<()> {
        if self.millis(Instant::now()) < self.until.load(Relaxed) {
            return Ok(());
        }
        Err(io::Error::other("this worker's leases are over"))
    }
}

/// A connection of a worker.
pub(super) struct Fenced<C> {
    connection: C,
    fence: Fence,
}

impl<C> Fenced<C> {
    pub(super) fn new(connection: C, fence: Fence) -> Self {
        Self { connection, fence }
    }
}

impl<C: Connection> Connection for Fenced<C> {
    fn connected(&self) -> Connected {
        self.connection.connected()
    }
}

impl<C: Read + Unpin> Read for Fenced<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_read(context, buffer)
    }
}

impl<C: Write + Unpin> Write for Fenced<C> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.fence.check()?;
        Pin::new(&mut self.connection).poll_write(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.fence.check()?;
        Pin::new(&mut self.connection).poll_write_vectored(context, slices)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(context)
    }
}
