//! Compares two histories of the same run, and a reader's deliveries with what it was to get. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
};

use eventtrigger::log::Operation;

/// A row: each column's value as the JSON that the log is to hold.
pub(super) type Row = BTreeMap<String, String>;

/// One change of one row.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Change {
    /// The transaction's id, its lower 32 bits.
    pub(super) xid: u32,
    pub(super) table: &'static str,
    pub(super) operation: Operation,
    /// Without its NULLs.
    pub(super) old: Option<Row>,
    pub(super) new: Option<Row>,
    /// Names of the EventTriggers that want it.
    pub(super) wanted_by: Vec<String>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { xid, table, operation, old, new, wanted_by } = self;
        let row = |row: &Option<Row>| match row {
            None => "-".to_owned(),
            Some(row) => row.iter().map(|(name, value)| format!("{name:?}:{value}")).collect::<Vec<_>>().join(","),
        };
        write!(f, "{operation} {table} in {xid}, wanted by {}: {} => {}", wanted_by.join(" and "), row(old), row(new))
    }
}

impl Change {
    /// What it has an order with: every change of the same row, by its `uid`, and of the same primary key.
    fn subjects(&self, key: &[&str]) -> BTreeSet<String> {
        let rows = || self.old.iter().chain(&self.new);
        let uids = rows().map(|row| format!("{} uid {}", self.table, row["uid"]));
        let keys = rows().filter(|_| !key.is_empty()).map(|row| {
            let values: Vec<_> = key.iter().map(|column| row[*column].as_str()).collect();
            format!("{} key {}", self.table, values.join(" "))
        });
        uids.chain(keys).collect()
    }
}

/// What is wrong. Each is a sentence for the person who reads the failed test.
pub(super) type Faults = Vec<String>;

/// A history, and by number what each of its changes has an order with.
#[derive(Debug)]
pub(super) struct History {
    pub(super) changes: Vec<Change>,
    pub(super) subjects: Vec<Vec<usize>>,
    texts: Vec<String>,
}

/// Numbers of subjects, the same in both histories.
#[derive(Debug, Default)]
pub(super) struct Subjects(HashMap<String, usize>);

impl Subjects {
    /// Reads a history; `key` tells the columns of a table's primary key.
    pub(super) fn of(&mut self, changes: Vec<Change>, key: impl Fn(&str) -> &'static [&'static str]) -> History {
        let mut number = |subject: String| {
            let next = self.0.len();
            *self.0.entry(subject).or_insert(next)
        };
        let subjects = changes
            .iter()
            .map(|change| change.subjects(key(change.table)).into_iter().map(&mut number).collect())
            .collect();
        let texts = changes.iter().map(ToString::to_string).collect();
        History { changes, subjects, texts }
    }
}

/// Whether `found` has the changes of `truth`, each as often, and those of one row or key in the same order.
pub(super) fn histories(truth: &History, found: &History) -> Faults {
    let mut faults = Faults::new();
    let mut counts: HashMap<&str, (i32, i32)> = HashMap::new();
    truth.texts.iter().for_each(|text| counts.entry(text).or_default().0 += 1);
    found.texts.iter().for_each(|text| counts.entry(text).or_default().1 += 1);
    for (text, (expected, got)) in counts {
        match (expected, got) {
            (expected, got) if expected == got => {}
            (_, 0) => faults.push(format!("lost: {text}")),
            (0, _) => faults.push(format!("phantom: {text}")),
            (expected, got) => faults.push(format!("{got} times instead of {expected}: {text}")),
        }
    }
    faults.sort();
    if !faults.is_empty() {
        // Of a history with other events the order says nothing.
        return faults;
    }
    let (truth_orders, found_orders) = (truth.orders(), found.orders());
    for (subject, order) in truth_orders {
        let got = &found_orders[&subject];
        if let Some(at) = (0..order.len()).find(|at| order[*at] != got[*at]) {
            faults.push(format!("out of order: {} where {} was expected", got[at], order[at]));
        }
    }
    faults
}

impl History {
    /// The changes of each subject, in order.
    fn orders(&self) -> HashMap<usize, Vec<&str>> {
        let mut orders: HashMap<usize, Vec<&str>> = HashMap::new();
        for (subjects, text) in self.subjects.iter().zip(&self.texts) {
            for subject in subjects {
                orders.entry(*subject).or_default().push(text);
            }
        }
        orders
    }
}

/// What a reader did, in lives: one ends with a stop, a crash, or the loss of its lease, and the next resumes.
#[derive(Debug, Default)]
pub(super) struct Journal {
    /// In which life which event was delivered, in order of delivery.
    delivered: Vec<(usize, i64)>,
    lives: Vec<Life>,
}

#[derive(Debug, Default)]
struct Life {
    delivered: usize,
    /// For each acknowledgement: how many deliveries it covers, and how many lives had begun by then.
    acknowledged: Vec<(usize, usize)>,
}

impl Journal {
    /// Begins a life.
    pub(super) fn begin(&mut self) -> usize {
        self.lives.push(Life::default());
        self.lives.len() - 1
    }

    pub(super) fn deliver(&mut self, life: usize, events: impl IntoIterator<Item = i64>) {
        let before = self.delivered.len();
        self.delivered.extend(events.into_iter().map(|event| (life, event)));
        self.lives[life].delivered += self.delivered.len() - before;
    }

    /// All that this life has delivered so far is acknowledged.
    pub(super) fn acknowledge(&mut self, life: usize) {
        let begun = self.lives.len();
        let life = &mut self.lives[life];
        life.acknowledged.push((life.delivered, begun));
    }

    pub(super) fn deliveries(&self) -> usize {
        self.delivered.len()
    }

    pub(super) fn lives(&self) -> usize {
        self.lives.len()
    }

    /// By event: the first life that must not deliver it again, because it began after the acknowledgement.
    fn settled(&self) -> HashMap<i64, usize> {
        let mut nth = vec![0; self.lives.len()];
        let mut settled = HashMap::new();
        for &(life, event) in &self.delivered {
            nth[life] += 1;
            let acknowledged = &self.lives[life].acknowledged;
            if let Some((_, begun)) =
                acknowledged.get(acknowledged.partition_point(|(covered, _)| *covered < nth[life]))
            {
                let first = settled.entry(event).or_insert(*begun);
                *first = (*first).min(*begun);
            }
        }
        settled
    }
}

/// Whether a reader got each of `expected` at least once, nothing else, nothing twice without a crash, and nothing out of
/// order: `subjects` tells what an event has an order with, in which ids ascend.
pub(super) fn reader(journal: &Journal, expected: &BTreeSet<i64>, subjects: &HashMap<i64, &[usize]>) -> Faults {
    let mut faults = Faults::new();
    let settled = journal.settled();
    let mut seen: HashSet<i64> = HashSet::new();
    // By subject: the latest event delivered at all, and the last one in each life.
    let mut latest: HashMap<usize, i64> = HashMap::new();
    let mut last: HashMap<(usize, usize), i64> = HashMap::new();
    for &(life, event) in &journal.delivered {
        if !expected.contains(&event) {
            faults.push(format!("event {event} was not to be delivered"));
            continue;
        }
        if settled.get(&event).is_some_and(|first| life >= *first) {
            faults.push(format!("event {event} was delivered again after it was acknowledged"));
        }
        let first_time = seen.insert(event);
        for &subject in subjects[&event] {
            match last.insert((life, subject), event) {
                Some(before) if before == event => {
                    faults.push(format!("event {event} was delivered twice without a crash"));
                }
                Some(before) if before > event => {
                    faults.push(format!("event {event} was delivered after a later one of its row"));
                }
                _ => {}
            }
            let latest = latest.entry(subject).or_default();
            if first_time && *latest > event {
                faults.push(format!("event {event} was delivered only after a later one of its row"));
            }
            *latest = event.max(*latest);
        }
    }
    faults.extend(
        expected.iter().filter(|event| !seen.contains(event)).map(|event| format!("event {event} was never delivered")),
    );
    faults
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn change(xid: u32, operation: Operation, uid: u32, versions: (u32, u32)) -> Change {
        let row = |version: u32| {
            let row = [("uid", uid), ("id", uid % 10), ("version", version)];
            row.into_iter().map(|(name, value)| (name.to_owned(), value.to_string())).collect::<Row>()
        };
        Change {
            xid,
            table: "t",
            operation,
            old: (operation != Operation::Insert).then(|| row(versions.0)),
            new: (operation != Operation::Delete).then(|| row(versions.1)),
            wanted_by: vec!["all".to_owned()],
        }
    }

    /// One row inserted, changed twice and deleted, another of the same key inserted, and one apart.
    fn history() -> Vec<Change> {
        vec![
            change(1, Operation::Insert, 1, (0, 0)),
            change(1, Operation::Update, 1, (0, 1)),
            change(2, Operation::Insert, 2, (0, 0)),
            change(3, Operation::Update, 1, (1, 2)),
            change(4, Operation::Delete, 1, (2, 0)),
            change(5, Operation::Insert, 11, (0, 0)),
        ]
    }

    fn faults(of: &[Change]) -> String {
        let mut subjects = Subjects::default();
        let mut read = |changes: Vec<Change>| subjects.of(changes, |_| &["id"]);
        histories(&read(history()), &read(of.to_vec())).join("\n")
    }

    #[test]
    fn the_same_history_has_no_fault_and_rows_that_have_no_order_may_swap() {
        assert_eq!(faults(&history()), "");
        let mut other = history();
        other.swap(1, 2);
        assert_eq!(faults(&other), "");
    }

    #[test]
    fn a_lost_a_phantom_and_a_repeated_event_are_seen() {
        let mut lost = history();
        lost.remove(3);
        assert!(faults(&lost).starts_with("lost: UPDATE t in 3"), "{}", faults(&lost));
        let mut phantom = history();
        phantom.push(change(9, Operation::Insert, 7, (0, 0)));
        assert!(faults(&phantom).starts_with("phantom: INSERT t in 9"), "{}", faults(&phantom));
        let mut twice = history();
        twice.push(twice[0].clone());
        assert!(faults(&twice).starts_with("2 times instead of 1: INSERT t in 1"), "{}", faults(&twice));
    }

    #[test]
    fn another_value_transaction_or_addressee_is_seen() {
        let wrong: [fn(&mut Change); 4] = [
            |change| drop(change.new.as_mut().unwrap().insert("version".to_owned(), "7".to_owned())),
            |change| drop(change.old.as_mut().unwrap().insert("id".to_owned(), "7".to_owned())),
            |change| change.xid = 7,
            |change| change.wanted_by.clear(),
        ];
        for wrong in wrong {
            let mut other = history();
            wrong(&mut other[3]);
            let faults = faults(&other);
            assert!(faults.contains("lost: ") && faults.contains("phantom: "), "{faults}");
        }
    }

    #[rstest]
    #[case::of_one_row(0, 1, "UPDATE t in 1")]
    #[case::of_one_row_in_two_transactions(1, 3, "UPDATE t in 3")]
    #[case::of_one_key(4, 5, "INSERT t in 5")]
    fn another_order_is_seen(#[case] one: usize, #[case] other: usize, #[case] first: &str) {
        let mut found = history();
        found.swap(one, other);
        assert!(faults(&found).contains(&format!("out of order: {first}")), "{}", faults(&found));
    }

    /// Events 1 to 4; 1, 2 and 4 are of one row. Lives stand between slashes; what is before the bar is acknowledged.
    fn delivered(lives: &str) -> String {
        let mut journal = Journal::default();
        for text in lives.split('/') {
            let life = journal.begin();
            let (acknowledged, lost) = text.split_once('|').expect("a bar");
            let events = |text: &str| text.split_whitespace().map(|event| event.parse().unwrap()).collect::<Vec<i64>>();
            journal.deliver(life, events(acknowledged));
            journal.acknowledge(life);
            journal.deliver(life, events(lost));
        }
        let subjects: [(i64, &[usize]); 4] = [(1, &[0]), (2, &[0]), (3, &[1]), (4, &[0])];
        reader(&journal, &(1..=4).collect(), &subjects.into()).join("\n")
    }

    #[rstest]
    #[case::in_order("1 2 3 4 |")]
    #[case::another_row_in_between("3 1 2 4 |")]
    #[case::again_after_a_crash("1 | 2 3 / 2 3 4 |")]
    #[case::after_two_crashes("| 1 2 / | 1 2 / 1 2 3 4 |")]
    #[case::stopped_in_good_order("1 2 | / 3 4 |")]
    fn a_reader_may(#[case] lives: &str) {
        assert_eq!(delivered(lives), "");
    }

    #[rstest]
    #[case::leave_one_out("1 2 4 |", "event 3 was never delivered")]
    #[case::lose_what_it_acknowledged("1 | / 3 4 |", "event 2 was never delivered")]
    #[case::get_one_twice("1 2 2 3 4 |", "event 2 was delivered twice without a crash")]
    #[case::get_what_it_acknowledged("1 2 | / 2 3 4 |", "event 2 was delivered again after it was acknowledged")]
    #[case::get_a_row_out_of_order("2 1 3 4 |", "event 1 was delivered after a later one of its row")]
    #[case::get_a_row_out_of_order_in_another_life(
        "1 4 | / 2 3 |",
        "event 2 was delivered only after a later one of its row"
    )]
    #[case::get_what_is_not_its_own("1 2 3 4 5 |", "event 5 was not to be delivered")]
    fn a_reader_must_not(#[case] lives: &str, #[case] fault: &str) {
        assert!(delivered(lives).contains(fault), "{:?}", delivered(lives));
    }

    #[test]
    fn a_life_that_lost_its_lease_unawares_may_repeat_what_its_successor_acknowledged() {
        let mut journal = Journal::default();
        let (late, next) = (journal.begin(), journal.begin());
        journal.deliver(next, [1, 2, 3, 4]);
        journal.acknowledge(next);
        journal.deliver(late, [1, 2]);
        let subjects = (1..=4).map(|event| (event, &[0][..])).collect();
        assert_eq!(reader(&journal, &(1..=4).collect(), &subjects), Faults::new());
    }
}
