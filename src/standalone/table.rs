//! Statuses as `kubectl get eventtriggers --watch` prints them: all at first, then each that changes.

use std::io::{self, Write};

/// One EventTrigger.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Row(pub(super) [String; COLUMNS]);

const COLUMNS: usize = 6;
const HEADER: [&str; COLUMNS] = ["NAMESPACE", "NAME", "READY", "REASON", "TABLE", "SINK"];
/// Between two columns, as kubectl has it.
const GAP: usize = 3;

/// What was printed so far.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<Row>,
    widths: [usize; COLUMNS],
}

impl Table {
    /// Prints what is new in `rows`, which are always of the same EventTriggers in the same order.
    pub(super) fn print(&mut self, rows: Vec<Row>, out: &mut impl Write) -> io::Result<()> {
        let first = self.rows.is_empty();
        for Row(cells) in &rows {
            for (width, (cell, header)) in self.widths.iter_mut().zip(cells.iter().zip(HEADER)) {
                *width = (*width).max(cell.chars().count()).max(header.len());
            }
        }
        if first && !rows.is_empty() {
            self.line(HEADER.iter().copied(), out)?;
        }
        for (at, row) in rows.iter().enumerate() {
            if self.rows.get(at) != Some(row) {
                self.line(row.0.iter().map(String::as_str), out)?;
            }
        }
        self.rows = rows;
        out.flush()
    }

    fn line<'a>(&self, cells: impl Iterator<Item = &'a str>, out: &mut impl Write) -> io::Result<()> {
        let padded = cells.zip(self.widths).map(|(cell, width)| format!("{cell:<0$}", width + GAP));
        writeln!(out, "{}", padded.collect::<String>().trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, ready: &str, reason: &str) -> Row {
        Row(["shop", name, ready, reason, "public.orders", "http://a/"].map(str::to_owned))
    }

    #[test]
    fn all_rows_are_printed_first_and_then_those_that_change() {
        let (mut table, mut out) = (Table::default(), Vec::new());
        table.print(vec![row("a", "False", "WorkersStarting"), row("b", "True", "Ready")], &mut out).unwrap();
        table.print(vec![row("a", "True", "Ready"), row("b", "True", "Ready")], &mut out).unwrap();
        table.print(vec![row("a", "True", "Ready"), row("b", "True", "Ready")], &mut out).unwrap();
        let expected = "\
NAMESPACE   NAME   READY   REASON            TABLE           SINK
shop        a      False   WorkersStarting   public.orders   http://a/
shop        b      True    Ready             public.orders   http://a/
shop        a      True    Ready             public.orders   http://a/
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
