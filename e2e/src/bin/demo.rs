//! `make demo`: the quickstart sample on a database of its own, a receiver that fails, a process that is killed; and in
//! the end the count of what was written and what arrived.

use std::{
    fs::File,
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use eventtrigger_e2e::{
    behaviour::Behaviour,
    ledger::{Change, Verdict},
    receiver::Receiver,
    record::Record,
    server::Server,
    writer::{self, Plan, Writer},
};
use tokio::process::{Child, Command};
use tokio_postgres::Client;

/// The Service that the sample sends to.
const SERVICE: &str = "orders-receiver.shop";
/// How long anything may take to come.
const DEADLINE: Duration = Duration::from_secs(30);
/// Memory for requests: far more than the demo makes.
const MEMORY: usize = 1 << 30;

#[tokio::main]
async fn main() -> ExitCode {
    match demo().await {
        Ok(verdict) if verdict.is_good() => ExitCode::SUCCESS,
        Ok(_) => {
            eprintln!("\nThe counts do not add up.");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("\nThe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn demo() -> Result<Verdict> {
    let started = Instant::now();
    step("A PostgreSQL of its own, and a table");
    let server = Server::start().await?;
    let mut stage = Stage::set(&server).await?;
    let verdict = match stage.play().await {
        Ok(()) => stage.verdict(),
        Err(error) => {
            stage.print_log();
            return Err(error);
        }
    };
    stage.close().await;
    if !verdict.is_good() {
        stage.print_log();
    }
    server.stop().await?;

    step(&format!("Counts, after {:.0} s", started.elapsed().as_secs_f64()));
    println!("{verdict}");
    Ok(verdict)
}

/// What the demo plays with.
struct Stage {
    database: tokio_postgres::Config,
    client: Client,
    receiver: Receiver,
    sink: String,
    data: PathBuf,
    log: PathBuf,
    run: Option<Child>,
    written: Vec<Change>,
    last_key: i64,
}

impl Stage {
    async fn set(server: &Server) -> Result<Self> {
        let database = server.config();
        let client = writer::connect(&database).await.context("failed to connect to PostgreSQL")?;
        let sql = orders().table_sql();
        client.batch_execute(&sql).await.context("failed to create table public.orders")?;
        println!("{sql}");
        let receiver = Receiver::new(MEMORY);
        let (address, _) = receiver.start().await.context("failed to start the receiver")?;
        Ok(Self {
            database,
            client,
            receiver,
            sink: format!("http://{address}"),
            data: server.data(),
            log: server.folder().join("run.log"),
            run: None,
            written: Vec::new(),
            last_key: 0,
        })
    }

    async fn play(&mut self) -> Result<()> {
        step("The quickstart, in a process of its own");
        self.start_run()?;
        self.captured().await?;

        step("Inserts and updates become POSTs");
        self.insert(3).await?;
        self.update(1).await?;
        self.all_arrived().await?;
        let records = self.receiver.since(0, usize::MAX);
        if let Some(record) = records.last() {
            print_request(record);
        }
        println!("{} rows were written, {} requests came.", self.written.len(), records.len());

        step("A transaction that is rolled back sends nothing");
        let before = self.receiver.count().received;
        let sql = "BEGIN; INSERT INTO orders VALUES (-1, 'nobody', 'new', 1, -1); \
                   UPDATE orders SET status = 'rolled back', version = -1; ROLLBACK";
        self.client.batch_execute(sql).await.context("failed to roll back")?;
        self.insert(1).await?;
        self.all_arrived().await?;
        let came = self.receiver.count().received - before;
        println!("Rolled back an insert and an update of every row, then committed one insert: {came} came.");

        step("A receiver that fails, and recovers");
        let before = self.receiver.count();
        self.receiver.behave(Behaviour { status: Some(503), ..Behaviour::default() });
        self.insert(5).await?;
        let refused = || self.receiver.count().received - before.received;
        until("the receiver was asked while it failed", || refused() >= 5).await?;
        println!("5 rows written; {} requests answered with 503.", refused());
        self.receiver.behave(Behaviour::default());
        let down = Instant::now();
        self.all_arrived().await?;
        println!("It recovered; all 5 arrived {:.1} s later.", down.elapsed().as_secs_f64());

        step("kill -9 of the process that delivers, while rows are being written");
        self.kill_while_writing().await
    }

    async fn kill_while_writing(&mut self) -> Result<()> {
        let writer = Writer::start(self.database.clone(), orders(), self.last_key);
        let before = self.receiver.count().received;
        until("deliveries while rows are written", || self.receiver.count().received > before + 300).await?;
        let pid = self.kill_run().await?;
        let (written, arrived) = (writer.written(), self.receiver.count().received - before);
        println!("Killed process {pid}: {written} rows written so far, {arrived} requests.");
        until("the writer to go on", || writer.has_failed() || writer.written() > written + 500).await?;
        println!("The application goes on: {} rows written; nobody delivers them.", writer.written());
        self.start_run()?;
        let missed = self.receiver.count().received;
        until("deliveries after the restart", || self.receiver.count().received > missed + 300).await?;
        let more = writer.stop().await.context("the writer failed")?;
        println!(
            "Started again. The writer stopped after {} rows and {} rollbacks.",
            more.changes.len(),
            more.rolled_back
        );
        self.written.extend(more.changes);
        self.all_arrived().await
    }

    /// Starts `eventtrigger run`, as a user would.
    fn start_run(&mut self) -> Result<()> {
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/samples/quickstart.yaml");
        let sample = sample.canonicalize().with_context(|| format!("failed to find {}", sample.display()))?;
        let log = File::options().create(true).append(true).open(&self.log).context("failed to open run.log")?;
        let mut command = Command::new(program()?);
        command.arg("run").arg("-f").arg(&sample).arg("--data-dir").arg(&self.data);
        command.arg("--service").arg(format!("{SERVICE}={}", self.sink));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        println!("$ eventtrigger run -f config/samples/quickstart.yaml --service {SERVICE}={}", self.sink);
        self.run = Some(command.spawn().context("failed to start eventtrigger run")?);
        Ok(())
    }

    /// Waits until the table has its SQL triggers.
    async fn captured(&mut self) -> Result<()> {
        let sql =
            "SELECT string_agg(tgname, ', ') FROM pg_trigger WHERE tgrelid = 'orders'::regclass AND NOT tgisinternal";
        let end = Instant::now() + DEADLINE;
        loop {
            let row = self.client.query_one(sql, &[]).await.context("failed to look for SQL triggers")?;
            if let Some(names) = row.get::<_, Option<&str>>(0) {
                println!("SQL triggers on public.orders: {names}");
                return Ok(());
            }
            if let Some(run) = &mut self.run
                && let Some(status) = run.try_wait()?
            {
                bail!("eventtrigger run ended with {status}");
            }
            ensure!(Instant::now() < end, "no SQL trigger on public.orders after {DEADLINE:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn insert(&mut self, count: i64) -> Result<()> {
        let first = self.last_key + 1;
        self.last_key += count;
        let sql = "INSERT INTO orders SELECT id, 'customer ' || id, 'new', 10 * id, 1 FROM generate_series($1::bigint, $2) id";
        self.client.execute(sql, &[&first, &self.last_key]).await.context("failed to insert")?;
        self.written.extend((first..=self.last_key).map(|key| Change::kept(key, 1)));
        Ok(())
    }

    async fn update(&mut self, key: i64) -> Result<()> {
        let sql = "UPDATE orders SET status = 'paid', version = version + 1 WHERE id = $1 RETURNING version";
        let row = self.client.query_one(sql, &[&key]).await.context("failed to update")?;
        self.written.push(Change::kept(key, row.get(0)));
        Ok(())
    }

    /// Kills the process that delivers, by its id, and waits until it is gone.
    async fn kill_run(&mut self) -> Result<u32> {
        let mut run = self.run.take().context("nothing runs")?;
        let pid = run.id().context("eventtrigger run has ended already")?;
        run.kill().await.context("failed to kill eventtrigger run")?;
        Ok(pid)
    }

    /// Ends the process that delivers; PostgreSQL stops with its last user, which is the demo.
    async fn close(&mut self) {
        if self.run.is_some() {
            // Its end decides nothing any more: everything is counted.
            let _ = self.kill_run().await;
        }
    }

    fn verdict(&self) -> Verdict {
        Verdict::of(&self.written, &self.receiver.since(0, usize::MAX))
    }

    async fn all_arrived(&self) -> Result<()> {
        // Cheap first: the verdict reads every body.
        let enough = || self.receiver.count().accepted >= self.written.len() as u64 && self.verdict().lost.is_empty();
        match until("every row to arrive", enough).await {
            Ok(()) => Ok(()),
            Err(error) => Err(error.context(self.verdict())),
        }
    }

    fn print_log(&self) {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        eprintln!("\nThe end of what eventtrigger run said:");
        for line in &lines[lines.len().saturating_sub(40)..] {
            eprintln!("  {line}");
        }
    }
}

/// What the writer does to the sample's table: enough to be in the middle of something when the process is killed.
fn orders() -> Plan {
    Plan { table: "orders".to_owned(), connections: 4, pause: Duration::from_millis(2) }
}

/// The binary that is built beside this one.
fn program() -> Result<PathBuf> {
    let program = std::env::current_exe().context("failed to find this program")?.with_file_name("eventtrigger");
    ensure!(program.exists(), "{} is missing; `cargo build --workspace` makes it", program.display());
    Ok(program)
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        ensure!(Instant::now() < end, "waited {DEADLINE:?} for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Prints a heading.
fn step(title: &str) {
    let (bold, plain) = if std::io::stdout().is_terminal() { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
    println!("\n{bold}== {title}{plain}");
    // A failure must not be printed before what led to it.
    let _ = std::io::stdout().flush();
}

/// Prints a request as it went over the wire, its body spread over lines.
fn print_request(record: &Record) {
    println!("{} {} HTTP/1.1", record.method, record.path);
    for (name, value) in &record.headers {
        println!("{name}: {value}");
    }
    println!("\n{:#}\n", record.json());
}
