//! Reading a window: a short one is one query; of a long one the places of its events are listed first, in order, and
//! then fetched page by page. So a page costs the same however long the backlog is, and neither side holds it in memory.
//!
//! A page is bounded in bytes, too: values that are long come apart from their rows, and only as far as there is room.

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
};

use futures::{FutureExt as _, TryStreamExt as _};
use tokio::sync::{MappedMutexGuard, MutexGuard};
use tokio_postgres::{Client, Row, RowStream, Statement, types::ToSql};

use super::{
    WorkerError,
    lists::{Coming, List, Lists, Window},
    page::{self, COLUMNS, Found, Most, Page},
    segments::{Ids, Part, Segment, Segments},
    wire::{PgSnapshot, Tid, Xid8},
};
use crate::{
    log::{ConnectConfig, Event, Snapshot, event::Scale, snapshot::Txid},
    name::Ident,
};

/// Statements kept prepared: a few for each set of segments.
const PREPARED: usize = 64;

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
    lists: tokio::sync::Mutex<Option<Lists>>,
    scale: Scale,
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
        client: &Arc<Client>,
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
        let window = Window { from: from.clone(), to: to.clone(), without: without.clone() };
        let mut list = self.lists().await?.list(&part, window, after).await?;
        let coming = match list.coming() {
            Some(coming) => coming,
            None => self.next(client, &part, &mut list, most.events).await?,
        };
        // While memory is scarce, nothing is read that nobody has weighed.
        let ahead = async {
            if most.bytes >= Most::PAGE.bytes && list.may_ask(most.events) {
                let next = self.next(client, &part, &mut list, most.events).await?;
                if !next.places.is_empty() {
                    list.ask(next);
                }
            }
            Ok(())
        };
        let (mut found, ()) = tokio::try_join!(coming.found, ahead)?;
        // It may have been asked for when more was wanted.
        found.truncate(most.events);
        let events = self.fill(client, &part, found, most.bytes).await?;
        let ends = list.handed(coming.places, events.len(), events.iter().map(Event::bytes).sum());
        if !ends {
            self.lists().await?.keep(list);
        }
        Ok(Page { events, passed: true, ends })
    }

    /// The next page from a list, of at most so many events: it is asked for as soon as it is waited for.
    async fn next(
        &self,
        client: &Arc<Client>,
        part: &Part,
        list: &mut List,
        most: usize,
    ) -> Result<Coming, WorkerError> {
        let wanted = list.worth(most);
        if list.lacks(wanted) {
            self.lists().await?.look_ahead(list, wanted).await?;
        }
        let places = list.take(wanted);
        let mut statements = Vec::new();
        for (number, _) in &part.segments {
            let here = places.iter().filter(|place| place.segment == *number).map(|place| place.ctid);
            let here: Vec<Tid> = here.collect();
            if !here.is_empty() {
                let sql = format!("SELECT {COLUMNS} FROM ({}) AS w", page::measured(*number, "ctid = ANY ($1)"));
                statements.push((self.prepare(client, sql).await?, here));
            }
        }
        let ids = places.iter().map(|place| place.id).collect();
        let found = fetch(client.clone(), statements, ids, part.base).boxed();
        Ok(Coming { places, found })
    }

    async fn lists(&self) -> Result<MappedMutexGuard<'_, Lists>, WorkerError> {
        let mut lists = self.lists.lock().await;
        if lists.as_ref().is_none_or(Lists::is_closed) {
            *lists = Some(Lists::connect(&self.config, &self.schema).await?);
        }
        Ok(MutexGuard::map(lists, |lists| lists.as_mut().expect("connected")))
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
            let select = |condition| page::measured(*number, &format!("{} {condition}", only(*ids)));
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

pub(super) fn only(ids: Ids) -> String {
    match ids {
        Ids::All => String::new(),
        Ids::UpTo(last) => format!(" id <= {last} AND"),
        Ids::Beyond(last) => format!(" id > {last} AND"),
    }
}

pub(super) fn reading(source: tokio_postgres::Error) -> WorkerError {
    WorkerError::Sql { doing: "read events", source }
}

/// The events at those places, which are in order of `ids`.
async fn fetch(
    client: Arc<Client>,
    statements: Vec<(Statement, Vec<Tid>)>,
    ids: Vec<i64>,
    base: Txid,
) -> Result<Vec<Found>, WorkerError> {
    let mut found = Vec::with_capacity(ids.len());
    for (statement, places) in &statements {
        let rows = client.query_raw(statement, [places]).await.map_err(reading)?;
        each(rows, |row| {
            found.push(page::found(row, base)?);
            Ok(())
        })
        .await?;
    }
    // They come in the order of their places, which is nearly that of their ids.
    found.sort_by_key(|one| one.event.id);
    let there = found.iter().map(|one| Some(one.event.id)).chain(std::iter::repeat(None));
    match ids.iter().zip(there).find(|(id, there)| Some(**id) != *there) {
        Some((id, _)) => Err(missing(*id)),
        None => Ok(found),
    }
}

pub(super) async fn each(
    rows: RowStream,
    mut take: impl FnMut(&Row) -> Result<(), WorkerError>,
) -> Result<(), WorkerError> {
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
