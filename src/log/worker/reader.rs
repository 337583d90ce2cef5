//! Reading a window: a short one is one query; of a long one the places of its events are listed first, in order, and
//! then fetched page by page. So a page costs the same however long the backlog is, and neither side holds it in memory.

use std::{
    collections::{HashMap, VecDeque},
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;
use tokio_postgres::{Client, Row, SimpleQueryMessage, Statement, types::ToSql};

use super::{
    WorkerError,
    segments::{Ids, Part, Segment, Segments},
    wire::{Json, PgSnapshot, VarBit, Xid8},
};
use crate::{
    log::{ConnectConfig, Event, Operation, Snapshot, snapshot::Txid},
    name::Ident,
};

/// What is read of an event, in the order of [`event`].
const COLUMNS: &str = "id, txid, at, capture, op, matched, old, new, context";
/// Lists kept at a time. Each is a sorted file on the server; more than one is for triggers that lag apart.
const LISTS: usize = 8;
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
    /// Lists are made on a connection of their own: that takes time, and the lease must be renewed meanwhile.
    lists: tokio::sync::Mutex<Option<Lists>>,
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
    from: Snapshot,
    to: Snapshot,
    /// The last event that was taken from it.
    after: i64,
}

/// An event's place: the row that holds it.
#[derive(Debug)]
struct Place {
    id: i64,
    segment: i32,
    ctid: String,
}

impl Reader {
    pub(super) fn new(config: &ConnectConfig, schema: &Ident) -> Self {
        Self {
            config: config.clone(),
            schema: schema.clone(),
            segments: Mutex::default(),
            prepared: Mutex::default(),
            lists: tokio::sync::Mutex::default(),
        }
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

    /// See [`super::Worker::window`].
    pub(super) async fn window(
        &self,
        client: &Client,
        from: &Snapshot,
        to: &Snapshot,
        after: i64,
        limit: usize,
    ) -> Result<Vec<Event>, WorkerError> {
        let part = self.segments().part(from, to);
        if part.segments.is_empty() {
            return Ok(Vec::new());
        }
        // Beyond the first page the window is known to be long, or may be.
        if after == 0 {
            let events = self.short(client, &part, limit).await?;
            if events.len() < limit {
                return Ok(events);
            }
        }
        let places = self.places(&part, from, to, after, limit).await?;
        self.fetch(client, &part, places).await
    }

    /// All events of a window of fewer than `limit`, in order of id; of a longer one `limit` of them, whichever.
    async fn short(&self, client: &Client, part: &Part, limit: usize) -> Result<Vec<Event>, WorkerError> {
        let late = !part.between.late.is_empty();
        let mut union = String::new();
        for (number, ids) in &part.segments {
            let or = if union.is_empty() { "" } else { " UNION ALL " };
            let select = format!("SELECT {COLUMNS} FROM event_{number} WHERE{}", only(*ids));
            let _ = write!(union, "{or}{select} txid >= $2 AND txid < $3 AND pg_visible_in_snapshot(txid, $4)");
            if late {
                let _ = write!(union, " UNION ALL {select} txid = ANY ($5)");
            }
        }
        let sql = format!("SELECT * FROM ({union} LIMIT $1) AS w ORDER BY id");
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let (start, end, to) = (Xid8(part.between.start), Xid8(part.between.end), PgSnapshot(&part.to));
        let ids: Vec<Xid8> = part.between.late.iter().copied().map(Xid8).collect();
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&limit, &start, &end, &to];
        if late {
            parameters.push(&ids);
        }
        let statement = self.prepare(client, sql).await?;
        let rows = client.query(&statement, &parameters).await.map_err(reading)?;
        rows.iter().map(|row| event(row, part.base)).collect()
    }

    /// Places of the window's next `limit` events beyond `after`, from its list; the list is made if there is none.
    async fn places(
        &self,
        part: &Part,
        from: &Snapshot,
        to: &Snapshot,
        after: i64,
        limit: usize,
    ) -> Result<Vec<Place>, WorkerError> {
        let mut lists = self.lists.lock().await;
        if lists.as_ref().is_none_or(|lists| lists.client.is_closed()) {
            let client = self.config.connect("eventtrigger deliver backlog").await?;
            client
                .batch_execute(&format!("{}; SET work_mem = '32MB'", settings(&self.schema)))
                .await
                .map_err(reading)?;
            *lists = Some(Lists { client, open: VecDeque::new(), number: 0 });
        }
        let Some(lists) = lists.as_mut() else { return Ok(Vec::new()) };
        let known = lists.open.iter().position(|list| list.after == after && list.from == *from && list.to == *to);
        let mut list = match known.and_then(|at| lists.open.remove(at)) {
            Some(list) => list,
            None => lists.list(part, from, to, after).await?,
        };
        let fetch = format!("FETCH FORWARD {limit} FROM {}", list.name);
        let places = lists.client.simple_query(&fetch).await.map_err(reading)?;
        let places = places.iter().filter_map(place).collect::<Result<Vec<_>, _>>()?;
        match places.last() {
            Some(taken) if places.len() == limit => {
                list.after = taken.id;
                lists.open.push_back(list);
            }
            _ => lists.close(&list).await?,
        }
        Ok(places)
    }

    /// The events at `places`, in that order.
    async fn fetch(&self, client: &Client, part: &Part, places: Vec<Place>) -> Result<Vec<Event>, WorkerError> {
        let mut found = HashMap::with_capacity(places.len());
        for (number, _) in &part.segments {
            let here: Vec<&str> =
                places.iter().filter(|place| place.segment == *number).map(|place| place.ctid.as_str()).collect();
            if here.is_empty() {
                continue;
            }
            let sql = format!("SELECT {COLUMNS} FROM event_{number} WHERE ctid = ANY ($1::text[]::tid[])");
            let statement = self.prepare(client, sql).await?;
            for row in client.query(&statement, &[&here]).await.map_err(reading)? {
                let event = event(&row, part.base)?;
                found.insert(event.id, event);
            }
        }
        let missing = |id: i64| WorkerError::Corrupt {
            what: "the log",
            why: format!(
                "event {id} is not where it was: something rewrote its segment (VACUUM FULL, CLUSTER); it is looked for again"
            ),
        };
        places.into_iter().map(|Place { id, .. }| found.remove(&id).ok_or_else(|| missing(id))).collect()
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
    async fn list(&mut self, part: &Part, from: &Snapshot, to: &Snapshot, after: i64) -> Result<List, WorkerError> {
        while self.open.len() >= LISTS
            && let Some(oldest) = self.open.pop_front()
        {
            self.close(&oldest).await?;
        }
        self.number += 1;
        let name = format!("window_{}", self.number);
        // The cursor outlives its transaction: no snapshot is held, only a file with some 30 bytes for each event.
        let declare = format!("DECLARE {name} NO SCROLL CURSOR WITH HOLD FOR {}", listing(part, after));
        tracing::debug!(%from, %to, after, "listing a long window");
        self.client.batch_execute(&declare).await.map_err(reading)?;
        Ok(List { name, from: from.clone(), to: to.clone(), after })
    }

    async fn close(&mut self, list: &List) -> Result<(), WorkerError> {
        self.client.batch_execute(&format!("CLOSE {}", list.name)).await.map_err(reading)
    }
}

/// Everything in it is a number: `DECLARE` takes no parameters.
fn listing(part: &Part, after: i64) -> String {
    let Part { segments, between, to, .. } = part;
    let late: Vec<String> = between.late.iter().map(|txid| format!("'{txid}'")).collect();
    let mut union = String::new();
    for (number, ids) in segments {
        let or = if union.is_empty() { "" } else { " UNION ALL " };
        let ids = only(*ids);
        let select = format!("SELECT id, {number} AS segment, ctid FROM event_{number} WHERE{ids} id > {after} AND");
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

fn place(message: &SimpleQueryMessage) -> Option<Result<Place, WorkerError>> {
    let SimpleQueryMessage::Row(row) = message else { return None };
    let wrong = || WorkerError::Corrupt { what: "an event's place", why: "it is not a number".to_owned() };
    let number = |at: usize| row.get(at).ok_or_else(wrong);
    let place = || {
        Ok(Place {
            id: number(0)?.parse().map_err(|_| wrong())?,
            segment: number(1)?.parse().map_err(|_| wrong())?,
            ctid: number(2)?.to_owned(),
        })
    };
    Some(place())
}

fn event(row: &Row, base: Txid) -> Result<Event, WorkerError> {
    let corrupt = |what, why: String| WorkerError::Corrupt { what, why };
    let code = char::from(row.get::<_, i8>(4).cast_unsigned());
    let txid = row.get::<_, Xid8>(1).0;
    Ok(Event {
        id: row.get(0),
        txid,
        place: base + txid,
        at: Timestamp::try_from(row.get::<_, std::time::SystemTime>(2))
            .map_err(|error| corrupt("a time", error.to_string()))?,
        capture: row.get(3),
        operation: Operation::from_code(code).ok_or_else(|| corrupt("an operation", code.to_string()))?,
        matched: row.get::<_, VarBit>(5).0,
        old: row.get::<_, Option<Json>>(6).map(|json| json.0),
        new: row.get::<_, Option<Json>>(7).map(|json| json.0),
        context: row.get::<_, Option<Json>>(8).map(|json| json.0),
    })
}
