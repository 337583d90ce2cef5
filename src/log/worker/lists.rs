//! Long windows: the server lists the places of their events once, in order, and keeps the list in a file.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt::{self, Write as _},
    sync::Arc,
};

use futures::{FutureExt as _, future::BoxFuture};
use tokio_postgres::{Client, Statement, types::ToSql};
use tokio_util::task::AbortOnDropHandle;

use super::{
    WorkerError,
    page::Found,
    reader::{each, only, reading, settings},
    segments::Part,
    wire::Tid,
};
use crate::{
    log::{ConnectConfig, Snapshot},
    name::Ident,
};

/// Lists kept at a time. Each is a sorted file on the server; more than one is for triggers that lag apart.
const LISTS: usize = 8;
/// Places of a page, at least.
const FEWEST: usize = 8;
/// Places that are taken from a list at a time: of a few pages, for they are small.
const FETCHED: usize = 2000;
/// A page is asked for ahead of time only if the one before it had no more bytes: for so long nobody has weighed it.
const AHEAD: u64 = 1 << 20;

/// On a connection of their own: making one takes time, and the lease must be renewed meanwhile.
#[derive(Debug)]
pub(super) struct Lists {
    client: Client,
    /// Most recently used last.
    open: VecDeque<List>,
    number: u64,
}

/// What is listed: the events between two cuts, without those of some captures.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Window {
    pub(super) from: Snapshot,
    pub(super) to: Snapshot,
    pub(super) without: Arc<BTreeSet<i32>>,
}

/// A cursor `WITH HOLD` over the places of a window's events.
#[derive(Debug)]
pub(super) struct List {
    name: String,
    /// Takes [`FETCHED`] places from it.
    fetch: Statement,
    window: Window,
    /// The last event that was handed out.
    after: i64,
    /// Taken from it, and not asked for.
    ahead: VecDeque<Place>,
    /// Whether there is more on the server.
    open: bool,
    /// How many are worth looking at: of large events a page has few.
    worth: usize,
    /// Bytes of the last page; `None` before the first one.
    last: Option<u64>,
    /// The next page, if it was asked for ahead of time.
    coming: Option<Coming>,
}

/// An event's place: the row that holds it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) id: i64,
    pub(super) segment: i32,
    pub(super) ctid: Tid,
}

/// A page that was asked for.
pub(super) struct Coming {
    pub(super) places: VecDeque<Place>,
    pub(super) found: BoxFuture<'static, Result<Vec<Found>, WorkerError>>,
}

impl fmt::Debug for Coming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coming").field("places", &self.places.len()).finish_non_exhaustive()
    }
}

impl Lists {
    pub(super) async fn connect(config: &ConnectConfig, schema: &Ident) -> Result<Self, WorkerError> {
        let client = config.connect("eventtrigger deliver backlog").await?;
        client.batch_execute(&format!("{}; SET work_mem = '32MB'", settings(schema))).await.map_err(reading)?;
        Ok(Self { client, open: VecDeque::new(), number: 0 })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// The list of a window's events beyond `after`; it is made if there is none.
    pub(super) async fn list(&mut self, part: &Part, window: Window, after: i64) -> Result<List, WorkerError> {
        let known = self.open.iter().position(|list| list.after == after && list.window == window);
        match known.and_then(|at| self.open.remove(at)) {
            Some(list) => Ok(list),
            None => self.make(part, window, after).await,
        }
    }

    async fn make(&mut self, part: &Part, window: Window, after: i64) -> Result<List, WorkerError> {
        while self.open.len() >= LISTS
            && let Some(mut oldest) = self.open.pop_front()
        {
            self.close(&mut oldest).await?;
        }
        self.number += 1;
        let name = format!("window_{}", self.number);
        // The cursor outlives its transaction: no snapshot is held, only a file with some 30 bytes for each event.
        let declare =
            format!("DECLARE {name} NO SCROLL CURSOR WITH HOLD FOR {}", listing(part, after, &window.without));
        let Window { from, to, without } = &window;
        tracing::debug!(%from, %to, after, without = without.len(), "listing a long window");
        self.client.batch_execute(&declare).await.map_err(reading)?;
        let fetch = self.client.prepare(&format!("FETCH FORWARD {FETCHED} FROM {name}")).await.map_err(reading)?;
        let ahead = VecDeque::new();
        Ok(List { name, fetch, window, after, ahead, open: true, worth: usize::MAX, last: None, coming: None })
    }

    /// Keeps a list until its next page is read.
    pub(super) fn keep(&mut self, list: List) {
        self.open.push_back(list);
    }

    /// Takes further places from a list until it has so many, if there are so many.
    pub(super) async fn look_ahead(&mut self, list: &mut List, wanted: usize) -> Result<(), WorkerError> {
        while list.open && list.ahead.len() < wanted {
            let parameters: [&(dyn ToSql + Sync); 0] = [];
            let rows = self.client.query_raw(&list.fetch, parameters).await.map_err(reading)?;
            let before = list.ahead.len();
            each(rows, |row| {
                list.ahead.push_back(Place { id: row.get(0), segment: row.get(1), ctid: row.get(2) });
                Ok(())
            })
            .await?;
            if list.ahead.len() - before < FETCHED {
                self.close(list).await?;
            }
        }
        Ok(())
    }

    /// Removes what the server keeps of a list, if it still does.
    async fn close(&mut self, list: &mut List) -> Result<(), WorkerError> {
        if !std::mem::take(&mut list.open) {
            return Ok(());
        }
        self.client.batch_execute(&format!("CLOSE {}", list.name)).await.map_err(reading)
    }
}

impl List {
    /// How many places a page of at most `most` events is made of.
    pub(super) fn worth(&self, most: usize) -> usize {
        most.min(self.worth)
    }

    /// Whether places are missing for so many.
    pub(super) fn lacks(&self, wanted: usize) -> bool {
        self.open && self.ahead.len() < wanted
    }

    /// The places of the next page.
    pub(super) fn take(&mut self, wanted: usize) -> VecDeque<Place> {
        let rest = self.ahead.split_off(wanted.min(self.ahead.len()));
        std::mem::replace(&mut self.ahead, rest)
    }

    /// The page that was asked for ahead of time.
    pub(super) fn coming(&mut self) -> Option<Coming> {
        self.coming.take()
    }

    /// Whether a page of so many events may be asked for before the one before it has been handed out.
    pub(super) fn may_ask(&self, most: usize) -> bool {
        self.worth >= most && self.last.is_some_and(|bytes| bytes <= AHEAD)
    }

    /// Asks for a page ahead of time. A task of its own reads it: what is not read would hold up everything that comes after it on the
    /// connection.
    pub(super) fn ask(&mut self, Coming { places, found }: Coming) {
        let found = AbortOnDropHandle::new(tokio::spawn(found));
        // It is not cancelled but by dropping this.
        let found = found.map(|ended| ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())));
        self.coming = Some(Coming { places, found: found.boxed() });
    }

    /// Notes that of a page's places the first so many were handed out, of so many bytes; whether nothing is left.
    pub(super) fn handed(&mut self, mut places: VecDeque<Place>, handed: usize, bytes: u64) -> bool {
        let rest = places.split_off(handed.min(places.len()));
        let Some(taken) = places.back() else { return true };
        self.after = taken.id;
        self.last = Some(bytes);
        self.worth = if rest.is_empty() { self.worth.saturating_mul(2) } else { 2 * handed }.max(FEWEST);
        if !rest.is_empty() {
            // What was asked for is not what comes next.
            let asked = self.coming.take().map(|coming| coming.places).unwrap_or_default();
            for place in rest.into_iter().chain(asked).rev() {
                self.ahead.push_front(place);
            }
        }
        self.ahead.is_empty() && self.coming.is_none() && !self.open
    }
}

/// Everything in it is a number: `DECLARE` takes no parameters.
fn listing(part: &Part, after: i64, without: &Arc<BTreeSet<i32>>) -> String {
    let Part { segments, between, to, .. } = part;
    let late: Vec<String> = between.late.iter().map(|txid| format!("'{txid}'")).collect();
    let but: Vec<String> = without.iter().map(ToString::to_string).collect();
    // Hashed, so that it costs the same for one as for a thousand.
    let but = match but.as_slice() {
        [] => String::new(),
        all => format!(" capture NOT IN (SELECT unnest('{{{}}}'::int4[])) AND", all.join(",")),
    };
    let mut union = String::new();
    for (number, ids) in segments {
        let or = if union.is_empty() { "" } else { " UNION ALL " };
        let ids = only(*ids);
        let select =
            format!("SELECT id, {number} AS segment, ctid FROM event_{number} WHERE{ids}{but} id > {after} AND");
        let _ = write!(
            union,
            "{or}{select} txid >= '{}' AND txid < '{}' AND pg_visible_in_snapshot(txid, '{to}')",
            between.start, between.end
        );
        if !late.is_empty() {
            let _ = write!(union, " UNION ALL {select} txid = ANY (ARRAY[{}]::xid8[])", late.join(","));
        }
    }
    format!("SELECT id, segment, ctid FROM ({union}) AS w ORDER BY id")
}
