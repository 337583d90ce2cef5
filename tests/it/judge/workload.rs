//! What the connections do: from a seed, always the same for each connection. How they interleave is the machine's. Pure.

use eventtrigger::name::TableName;
use fastrand::Rng;

use super::statements::Author;

/// Everything a run does, by connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Workload {
    pub(super) lanes: Vec<Vec<Action>>,
}

/// What a connection does next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Action {
    /// A transaction, sent as one.
    Transaction { statements: Vec<String>, end: End },
    /// A transaction that stays open until the others have ended so many.
    Long { before: Vec<String>, others: usize, after: Vec<String>, end: End },
    /// A transaction that is prepared.
    Prepare { statements: Vec<String>, name: String },
    /// The end of one that was prepared long ago.
    Settle { name: String, end: End },
    /// A transaction whose backend is killed: before its end, or while it ends.
    Killed { statements: Vec<String>, when: Killed },
    /// A change of a table's columns in a transaction with other statements, then, or not before the next such change, the
    /// repair of its capture.
    Alter { table: TableName, statements: Vec<String>, end: End, repair: Repair },
}

/// How a transaction ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum End {
    Commit,
    Rollback,
}

/// When a backend is killed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Killed {
    BeforeItsEnd,
    AtAnyMoment,
}

/// When capture is repaired after a change of columns.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Repair {
    AtOnce,
    Later,
}

/// Connections with small transactions.
const WRITERS: usize = 8;
/// Connections with long ones.
const LONG: usize = 3;

/// What `seed` stands for: about `transactions` of them, on a server of this major version.
pub(super) fn workload(seed: u64, transactions: usize, major: u32) -> Workload {
    // A generator for each connection: what one does is the same however many others there are.
    let rng = |lane: usize| Rng::with_seed(seed.wrapping_mul(1_000_003).wrapping_add(lane as u64));
    let writers = (0..WRITERS).map(|lane| writer(Author::new(lane, rng(lane), major), transactions / WRITERS));
    let long = (WRITERS..WRITERS + LONG).map(|lane| sleeper(Author::new(lane, rng(lane), major), transactions));
    let lanes = writers.chain(long);
    let last = WRITERS + LONG;
    let alter = alterations(Author::new(last, rng(last), major), transactions);
    Workload { lanes: lanes.chain([alter]).collect() }
}

impl Workload {
    /// How many transactions it begins.
    pub(super) fn transactions(&self) -> usize {
        self.lanes.iter().flatten().filter(|action| !matches!(action, Action::Settle { .. })).count()
    }
}

fn end(rng: &mut Rng, commits: u32) -> End {
    if rng.u32(..100) < commits { End::Commit } else { End::Rollback }
}

fn writer(mut author: Author, transactions: usize) -> Vec<Action> {
    let mut actions = Vec::with_capacity(transactions);
    let mut prepared: Vec<(usize, String)> = Vec::new();
    for n in 0..transactions {
        if let Some(at) = prepared.iter().position(|(due, _)| *due <= n) {
            let (_, name) = prepared.swap_remove(at);
            actions.push(Action::Settle { name, end: end(&mut author.rng, 75) });
        }
        actions.push(match author.rng.u32(..1000) {
            // Few, because as long as they wait they hold rows that others want.
            0..5 => {
                let name = format!("judge-{}-{n}", author.lane);
                prepared.push((n + author.rng.usize(1..200), name.clone()));
                Action::Prepare { statements: author.cold(2), name }
            }
            5..8 => Action::Killed { statements: author.statements(3), when: Killed::BeforeItsEnd },
            8..11 => Action::Killed { statements: author.statements(3), when: Killed::AtAnyMoment },
            _ => Action::Transaction { statements: author.statements(3), end: end(&mut author.rng, 93) },
        });
    }
    actions.extend(prepared.into_iter().map(|(_, name)| Action::Settle { name, end: End::Commit }));
    actions
}

fn sleeper(mut author: Author, transactions: usize) -> Vec<Action> {
    let mut left = transactions;
    let mut actions = Vec::new();
    while left > 0 {
        let others = author.rng.usize(1..=(transactions / 10).max(2)).min(left);
        left -= others;
        let (before, after) = (author.cold(3), author.cold(2));
        // The last ones would wait for what nobody does any more.
        let others = others.min(left);
        actions.push(Action::Long { before, others, after, end: end(&mut author.rng, 80) });
    }
    actions
}

/// Columns come and go while others write. What is done to which column is decided by what there is at that moment: a
/// change that found its table locked must not be the end of all that follow.
fn alterations(mut author: Author, transactions: usize) -> Vec<Action> {
    const TYPES: [&str; 6] = ["int", "bigint", "text", "numeric", "varchar(40)", "double precision"];
    const TABLES: [&str; 5] = ["account", "keyless", "exclude", "region", "listen"];
    let alteration = |n: usize| -> Action {
        let name = TABLES[author.rng.usize(..TABLES.len())];
        let kind = TYPES[author.rng.usize(..TYPES.len())];
        let default = ["7", "(random() * 1000)::int"][author.rng.usize(..2)];
        let change = match author.rng.u32(..4) {
            0 => "DROP COLUMN %1$I".to_owned(),
            1 => format!("RENAME COLUMN %1$I TO side_{n}"),
            _ => format!(
                "ALTER COLUMN %1$I DROP DEFAULT, ALTER COLUMN %1$I TYPE {kind} USING left(%1$I::text, 5)::numeric::{kind}"
            ),
        };
        let key = author.rng.u32(..900);
        let rows =
            if name == "keyless" { format!("n = {}", key % 50) } else { format!("id BETWEEN {key} AND {}", key + 50) };
        let mark = author.mark();
        let alter = format!(
            "DO $do$
DECLARE
    find text := $$SELECT attname FROM pg_attribute WHERE attrelid = '{name}'::regclass AND NOT attisdropped AND attname LIKE 'side%'$$;
    side name;
BEGIN
    EXECUTE find INTO side;
    IF side IS NULL THEN
        ALTER TABLE {name} ADD COLUMN side_{n} {kind} DEFAULT {default};
    ELSE
        EXECUTE format('ALTER TABLE {name} {change}', side);
    END IF;
    EXECUTE find INTO side;
    IF side IS NOT NULL THEN
        EXECUTE format($$UPDATE {name} SET %I = '{n}', version = version + 1, mark = '{mark}' WHERE {rows}$$, side);
    END IF;
END $do$"
        );
        let mut statements = author.cold(1);
        statements.push(alter);
        statements.extend(author.cold(1));
        let repair = if author.rng.bool() { Repair::AtOnce } else { Repair::Later };
        let end = end(&mut author.rng, 85);
        Action::Alter { table: TableName::new("public", name), statements, end, repair }
    };
    (0..(transactions / 250).max(TABLES.len())).map(alteration).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_always_the_same_workload_and_another_is_another() {
        assert_eq!(workload(7, 500, 15), workload(7, 500, 15));
        assert_ne!(workload(7, 500, 15), workload(8, 500, 15));
    }

    #[test]
    fn a_workload_has_everything_that_is_hard() {
        let workload = workload(1, 5000, 15);
        assert!(workload.transactions() >= 5000);
        let has = |what: fn(&Action) -> bool| assert!(workload.lanes.iter().flatten().any(what));
        has(|action| matches!(action, Action::Long { others: 100.., .. }));
        has(|action| matches!(action, Action::Prepare { .. }));
        has(|action| matches!(action, Action::Settle { end: End::Rollback, .. }));
        has(|action| matches!(action, Action::Killed { when: Killed::AtAnyMoment, .. }));
        has(|action| matches!(action, Action::Alter { repair: Repair::Later, .. }));
        let text = format!("{workload:?}");
        for words in [
            "ROLLBACK TO",
            "EXCEPTION",
            "ON CONFLICT",
            "MERGE",
            "WITH ",
            "SET id =",
            "SET area =",
            "DELETE FROM parent",
        ] {
            assert!(text.contains(words), "{words}");
        }
        assert!(!format!("{:?}", super::workload(1, 5000, 14)).contains("MERGE"));
    }
}
