//! Reading a window: a short one is one query; of a long one the places of its events are listed first, in order, and
//! then fetched page by page. So a page costs the same however long the backlog is, and neither side holds it in memory.
//!
//! A page is bounded in bytes, too: values that are long come apart from their rows, and only as far as there is room.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
};

use futures::TryStreamExt as _;
use tokio_postgres::{Client, Row, RowStream, Statement, types::ToSql};

use super::{
    WorkerError,
    page::{self, COLUMNS, Found, Most, Page},
    segments::{Ids, Part, Segment, Segments},
    wire::{PgSnapshot, Tid, Xid8},
};
use crate::{
    log::{ConnectConfig, Event, Snapshot, event::Scale, snapshot::Txid},
    name::Ident,
};

/// Lists kept at a time. Each is a sorted file on the server; more than one is for triggers that lag apart.
const LISTS: usize = 8;
/// Statements kept prepared: a few for each set of segments.
const PREPARED: usize = 64;
/// Places that are looked at for a page, at least.
const FEWEST: usize = 8;
/// Places that are taken from a list at a time: of a few pages, for they are small.
const FETCHED: usize = 2000;

/// Settings of a connection that reads. No plan but an index scan is ever right, however few rows the planner believes
/// there are, and compiling it would cost more than running it.
pub(super) fn settings(schema: &Ident) -> String {
    format!(
        "SET search_path = pg_catalog, {schema}; SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan; \
         SET jit = off; SET max_parallel_workers_per_gather = 0"
    )
}

#[derive(Debug)]
pub(super) struct Reader {
    config: ConnectConfig,
    schema: Ident,
    segments: Mutex<Arc<Segments>>,
    prepared: Mutex<HashMap<String, Statement>>,
    /// Lists are made on a connection of their own: that takes time, and the lease must be renewed meanwhile.
    lists: tokio::sync::Mutex<Option<Lists>>,
    scale: Scale,
}

#[derive(Debug)]
struct Lists {
    client: Client,
    /// Most recently used last.
    open: VecDeque<List>,
    number: u64,
}

/// A cursor `WITH HOLD` over the places of a window's events.
#[derive(Debug)]
struct List {
    name: String,
    /// Takes [`FETCHED`] places from it.
    fetch: Statement,
    from: Snapshot,
    to: Snapshot,
    /// The last event that was handed out.
    after: i64,
    /// Taken from it, and not handed out.
    ahead: VecDeque<Place>,
    /// Whether there is more on the server.
    open: bool,
    /// How many are worth looking at: of large events a page has few.
    worth: usize,
    /// Captures whose events are not in it.
    without: Arc<BTreeSet<i32>>,
}

/// An event's place: the row that holds it.
#[derive(Clone, Copy, Debug)]
struct Place {
    id: i64,
    segment: i32,
    ctid: Tid,
}

impl Reader {
    pub(super) fn new(config: &ConnectConfig, schema: &Ident) -> Self {
        Self {
            config: config.clone(),
            schema: schema.clone(),
            segments: Mutex::default(),
            prepared: Mutex::default(),
            lists: tokio::sync::Mutex::default(),
            scale: Scale::default(),
        }
    }

    pub(super) fn scale(&self) -> &Scale {
        &self.scale
    }

    pub(super) fn segments(&self) -> Arc<Segments> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Learns the segments, if they may have changed since state `definitions`. To be called before any cut of that state
    /// is used: a segment that is not known is not read.
    pub(super) async fn learn(&self, client: &Client, definitions: i64, base: Txid) -> Result<(), WorkerError> {
        if self.segments().definitions == Some(definitions) {
            return Ok(());
        }
        let rows = client
            .query(
                "SELECT number, NULL::bigint, nullif(before, 0), base, upto FROM segment
                 UNION ALL SELECT number, before, NULL, before_base, before_upto FROM segment WHERE before > 0 ORDER BY 1",
                &[],
            )
            .await
            .map_err(|source| WorkerError::Sql { doing: "read the log's segments", source })?;
        let place = |number: i64| Txid::try_from(number).unwrap_or_default();
        let segment = |row: &Row| Segment {
            number: row.get(0),
            ids: match (row.get(1), row.get(2)) {
                (Some(last), _) => Ids::UpTo(last),
                (None, Some(last)) => Ids::Beyond(last),
                (None, None) => Ids::All,
            },
            base: place(row.get(3)),
            upto: row.get::<_, Option<i64>>(4).map(place),
        };
        let segments = Segments { definitions: Some(definitions), base, all: rows.iter().map(segment).collect() };
        *self.segments.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(segments);
        Ok(())
    }

    /// The id of an event that is about the newest: the last one of the last transaction. A look into an index.
    pub(super) async fn newest(&self, client: &Client) -> Result<i64, WorkerError> {
        let segments = self.segments();
        let mut numbers: Vec<_> = segments.all.iter().map(|segment| segment.number).collect();
        numbers.dedup();
        // The very last one may be empty yet.
        let last = numbers
            .iter()
            .rev()
            .take(2)
            .map(|number| format!("(SELECT id FROM event_{number} ORDER BY txid DESC LIMIT 1)"));
        let union = last.collect::<Vec<_>>().join(" UNION ALL ");
        if union.is_empty() {
            return Ok(0);
        }
        let statement = self.prepare(client, format!("SELECT coalesce(max(id), 0) FROM ({union}) AS e")).await?;
        Ok(client.query_one(&statement, &[]).await.map_err(reading)?.get(0))
    }

    /// See [`super::Worker::page`].
    pub(super) async fn page(
        &self,
        client: &Client,
        from: &Snapshot,
        to: &Snapshot,
        after: i64,
        most: Most,
        without: &Arc<BTreeSet<i32>>,
    ) -> Result<Page, WorkerError> {
        let part = self.segments().part(from, to);
        if part.segments.is_empty() {
            return Ok(Page { events: Vec::new(), passed: false, ends: true });
        }
        // Beyond the first page the window is known to be long, or may be. What is left out matters only there.
        if after == 0 {
            let found = self.short(client, &part, most.events).await?;
            if found.len() < most.events {
                let all = found.len();
                let events = self.fill(client, &part, found, most.bytes).await?;
                return Ok(Page { passed: all > 0, ends: events.len() == all, events });
            }
        }
        let (mut list, places) = self.places(&part, (from, to), after, most.events, without).await?;
        let ahead = async {
            if list.open && list.ahead.len() < most.events { self.look_ahead(&mut list).await } else { Ok(()) }
        };
        let (found, ()) = tokio::try_join!(self.fetch(client, &part, &places), ahead)?;
        let events = self.fill(client, &part, found, most.bytes).await?;
        let ends = self.give_back(list, places, events.len()).await?;
        Ok(Page { events, passed: true, ends })
    }

    /// Whether the window has events.
    pub(super) async fn any(&self, client: &Client, from: &Snapshot, to: &Snapshot) -> Result<bool, WorkerError> {
        let part = self.segments().part(from, to);
        Ok(!part.segments.is_empty() && !self.short(client, &part, 1).await?.is_empty())
    }

    /// All events of a window of fewer than `limit`, in order of id; of a longer one `limit` of them, whichever.
    async fn short(&self, client: &Client, part: &Part, limit: usize) -> Result<Vec<Found>, WorkerError> {
        let late = !part.between.late.is_empty();
        let mut union = String::new();
        for (number, ids) in &part.segments {
            let or = if union.is_empty() { "" } else { " UNION ALL " };
            let select = |condition| page::measured(*number, &format!("{}{condition}", only(*ids)));
            let seen = select("txid >= $2 AND txid < $3 AND pg_visible_in_snapshot(txid, $4)");
            let _ = write!(union, "{or}({seen})");
            if late {
                let _ = write!(union, " UNION ALL ({})", select("txid = ANY ($5)"));
            }
        }
        let sql = format!("SELECT {COLUMNS} FROM ({union} LIMIT $1) AS w ORDER BY id");
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let (start, end, to) = (Xid8(part.between.start), Xid8(part.between.end), PgSnapshot(&part.to));
        let ids: Vec<Xid8> = part.between.late.iter().copied().map(Xid8).collect();
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&limit, &start, &end, &to];
        if late {
            parameters.push(&ids);
        }
        let statement = self.prepare(client, sql).await?;
        let rows = client.query_raw(&statement, parameters).await.map_err(reading)?;
        let mut found = Vec::new();
        each(rows, |row| {
            found.push(page::found(row, part.base)?);
            Ok(())
        })
        .await?;
        Ok(found)
    }

    /// Places of the window's next events beyond `after`, at most `limit`, from its list; the list is made if there is none.
    async fn places(
        &self,
        part: &Part,
        (from, to): (&Snapshot, &Snapshot),
        after: i64,
        limit: usize,
        without: &Arc<BTreeSet<i32>>,
    ) -> Result<(List, VecDeque<Place>), WorkerError> {
        let mut lists = self.lists.lock().await;
        let lists = match lists.take() {
            Some(known) if !known.client.is_closed() => lists.insert(known),
            _ => {
                let client = self.config.connect("eventtrigger deliver backlog").await?;
                client
                    .batch_execute(&format!("{}; SET work_mem = '32MB'", settings(&self.schema)))
                    .await
                    .map_err(reading)?;
                lists.insert(Lists { client, open: VecDeque::new(), number: 0 })
            }
        };
        let known = lists
            .open
            .iter()
            .position(|list| list.after == after && list.from == *from && list.to == *to && list.without == *without);
        let mut list = match known.and_then(|at| lists.open.remove(at)) {
            Some(list) => list,
            None => lists.list(part, (from, to), after, without).await?,
        };
        let wanted = limit.min(list.worth);
        while list.open && list.ahead.len() < wanted {
            lists.look_ahead(&mut list).await?;
        }
        let rest = list.ahead.split_off(wanted.min(list.ahead.len()));
        let places = std::mem::replace(&mut list.ahead, rest);
        Ok((list, places))
    }

    /// Takes further places from a list while something else is done.
    async fn look_ahead(&self, list: &mut List) -> Result<(), WorkerError> {
        match self.lists.lock().await.as_mut() {
            Some(lists) => lists.look_ahead(list).await,
            None => Ok(()),
        }
    }

    /// Keeps a list of which the first so many of `places` were handed out; whether nothing is left of it.
    async fn give_back(&self, mut list: List, mut places: VecDeque<Place>, handed: usize) -> Result<bool, WorkerError> {
        let rest = places.split_off(handed.min(places.len()));
        let Some(taken) = places.back() else { return Ok(true) };
        list.after = taken.id;
        list.worth = if rest.is_empty() { list.worth.saturating_mul(2) } else { 2 * handed }.max(FEWEST);
        for place in rest.into_iter().rev() {
            list.ahead.push_front(place);
        }
        if list.ahead.is_empty() && !list.open {
            return Ok(true);
        }
        if let Some(lists) = self.lists.lock().await.as_mut() {
            lists.open.push_back(list);
        }
        Ok(false)
    }

    /// The events at `places`, which are in order of id.
    async fn fetch(&self, client: &Client, part: &Part, places: &VecDeque<Place>) -> Result<Vec<Found>, WorkerError> {
        let mut found = Vec::with_capacity(places.len());
        for (number, _) in &part.segments {
            let here: Vec<Tid> =
                places.iter().filter(|place| place.segment == *number).map(|place| place.ctid).collect();
            if here.is_empty() {
                continue;
            }
            let sql = format!("SELECT {COLUMNS} FROM ({}) AS w", page::measured(*number, "ctid = ANY ($1)"));
            let statement = self.prepare(client, sql).await?;
            let rows = client.query_raw(&statement, [&here]).await.map_err(reading)?;
            each(rows, |row| {
                found.push(page::found(row, part.base)?);
                Ok(())
            })
            .await?;
        }
        // They come in the order of their places, which is nearly that of their ids.
        found.sort_by_key(|one| one.event.id);
        let ids = found.iter().map(|one| Some(one.event.id)).chain(std::iter::repeat(None));
        match places.iter().zip(ids).find(|(place, id)| Some(place.id) != *id) {
            Some((place, _)) => Err(missing(place.id)),
            None => Ok(found),
        }
    }

    /// The first of `found`, at least one, of `bytes` together, with their long values.
    async fn fill(
        &self,
        client: &Client,
        part: &Part,
        mut found: Vec<Found>,
        bytes: u64,
    ) -> Result<Vec<Event>, WorkerError> {
        found.truncate(page::fitting(&found, bytes));
        let mut room = bytes;
        for one in found.iter().filter(|one| one.far.is_none()) {
            room = room.saturating_sub(one.event.bytes());
        }
        // In the order of their segments, which is nearly that of their ids: the first one's first.
        let first = found.iter().find_map(|one| Some((one.far.as_ref()?.segment, one.event.id)));
        let (first, missed) = first.unzip();
        let others = part.segments.iter().map(|(number, _)| *number).filter(|number| Some(*number) != first);
        for segment in first.into_iter().chain(others) {
            let of = |one: &&mut Found| one.far.as_ref().is_some_and(|far| far.segment == segment);
            let mut far: HashMap<i64, &mut Found> =
                found.iter_mut().filter(of).map(|one| (one.event.id, one)).collect();
            if far.is_empty() {
                continue;
            }
            let ctids: Vec<Tid> = far.values().filter_map(|one| Some(one.far.as_ref()?.ctid)).collect();
            let statement = self.prepare(client, page::long(segment)).await?;
            let (limit, alone) = (i64::try_from(room).unwrap_or(i64::MAX), first == Some(segment));
            let parameters: [&(dyn ToSql + Sync); 3] = [&ctids, &limit, &alone];
            let rows = client.query_raw(&statement, parameters).await.map_err(reading)?;
            each(rows, |row| {
                if let Some(one) = far.get_mut(&row.get::<_, i64>(0)) {
                    one.take(row);
                    room = room.saturating_sub(one.event.bytes());
                }
                Ok(())
            })
            .await?;
        }
        let whole = found.into_iter().map_while(|one| one.far.is_none().then_some(one.event));
        let events: Vec<_> = whole.map(|event| event.weighed(&self.scale)).collect();
        match missed {
            Some(id) if events.is_empty() => Err(missing(id)),
            _ => Ok(events),
        }
    }

    async fn prepare(&self, client: &Client, sql: String) -> Result<Statement, WorkerError> {
        let known = self.prepared.lock().unwrap_or_else(PoisonError::into_inner).get(&sql).cloned();
        if let Some(statement) = known {
            return Ok(statement);
        }
        let statement = client.prepare(&sql).await.map_err(reading)?;
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        if prepared.len() >= PREPARED {
            prepared.clear();
        }
        prepared.insert(sql, statement.clone());
        Ok(statement)
    }
}

impl Lists {
    /// Makes a list of the window's events beyond `after`.
    async fn list(
        &mut self,
        part: &Part,
        (from, to): (&Snapshot, &Snapshot),
        after: i64,
        without: &Arc<BTreeSet<i32>>,
    ) -> Result<List, WorkerError> {
        while self.open.len() >= LISTS
            && let Some(oldest) = self.open.pop_front()
        {
            self.close(&oldest).await?;
        }
        self.number += 1;
        let name = format!("window_{}", self.number);
        // The cursor outlives its transaction: no snapshot is held, only a file with some 30 bytes for each event.
        let declare = format!("DECLARE {name} NO SCROLL CURSOR WITH HOLD FOR {}", listing(part, after, without));
        tracing::debug!(%from, %to, after, without = without.len(), "listing a long window");
        self.client.batch_execute(&declare).await.map_err(reading)?;
        let fetch = format!("FETCH FORWARD {FETCHED} FROM {name}");
        let fetch = self.client.prepare(&fetch).await.map_err(reading)?;
        let (from, to, without) = (from.clone(), to.clone(), without.clone());
        Ok(List { name, fetch, from, to, after, ahead: VecDeque::new(), open: true, worth: usize::MAX, without })
    }

    async fn look_ahead(&mut self, list: &mut List) -> Result<(), WorkerError> {
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
            list.open = false;
        }
        Ok(())
    }

    async fn close(&mut self, list: &List) -> Result<(), WorkerError> {
        if !list.open {
            return Ok(());
        }
        self.client.batch_execute(&format!("CLOSE {}", list.name)).await.map_err(reading)
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

fn only(ids: Ids) -> String {
    match ids {
        Ids::All => String::new(),
        Ids::UpTo(last) => format!(" id <= {last} AND"),
        Ids::Beyond(last) => format!(" id > {last} AND"),
    }
}

fn reading(source: tokio_postgres::Error) -> WorkerError {
    WorkerError::Sql { doing: "read events", source }
}

async fn each(rows: RowStream, mut take: impl FnMut(&Row) -> Result<(), WorkerError>) -> Result<(), WorkerError> {
    // One after the other: what the driver holds of a row and what is made of it are not both kept.
    let mut rows = std::pin::pin!(rows);
    while let Some(row) = rows.try_next().await.map_err(reading)? {
        take(&row)?;
    }
    Ok(())
}

fn missing(id: i64) -> WorkerError {
    WorkerError::Corrupt {
        what: "the log",
        why: format!(
            "event {id} is not where it was: something rewrote its segment (VACUUM FULL, CLUSTER); it is looked for again"
        ),
    }
}
