//! Which columns an UPDATE has changed, as SQL over `OLD` and `NEW`, and which triggers listen to them.
//!
//! Every form compares what is stored: right for NULL and for types without an equality operator, and none can fail.

use serde::{Deserialize, Serialize};

use super::Changes;
use crate::name::Ident;

/// How a column's change is found out.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum Compare {
    /// By a record of it, whatever its type: two to three times as dear as an operator.
    #[default]
    Image,
    /// By `=`, for built-in types of which no two values are equal that are not stored alike.
    Equal,
    /// As well, under the collation `C`: under another one unlike texts may be equal.
    Text,
}

impl Compare {
    /// Of a type, by its oid, which never changes for built-in types (`pg_type.dat`), and its modifier (`atttypmod`, -1 for
    /// none). Not `interval` or floats: 24 hours equal one day and -0 zero; nor a `numeric` without a scale: 1.0 equals 1.00.
    pub fn of(type_oid: u32, modifier: i32) -> Self {
        match type_oid {
            // numeric(p, s), whose values all have s digits after the point
            1700 if modifier >= 0 => Self::Equal,
            // bool, bytea, "char", int8, int2, int4, oid, date, time, timestamp, timestamptz, uuid
            16..=18 | 20 | 21 | 23 | 26 | 1082 | 1083 | 1114 | 1184 | 2950 => Self::Equal,
            // text, varchar
            25 | 1043 => Self::Text,
            _ => Self::Image,
        }
    }
}

/// Whether one of the columns has changed. Those that may be long share no record: two might not fit into it.
pub(super) fn any_of(columns: &[(&Ident, Compare)], is_long: impl Fn(&Ident) -> bool) -> String {
    let operator = |name: &Ident, collate: &str| {
        format!(
            "(NEW.{name}{collate} OPERATOR(pg_catalog.=) OLD.{name}{collate}) IS NOT TRUE \
             AND (NEW.{name} IS NOT NULL OR OLD.{name} IS NOT NULL)"
        )
    };
    let mut parts = Vec::new();
    let mut image = Vec::new();
    for (name, compare) in columns {
        match compare {
            Compare::Equal => parts.push(operator(name, "")),
            Compare::Text => parts.push(operator(name, " COLLATE pg_catalog.\"C\"")),
            Compare::Image => image.push(*name),
        }
    }
    let (long, short): (Vec<_>, Vec<_>) = image.into_iter().partition(|name| is_long(name));
    let records =
        std::iter::once(short).filter(|short| !short.is_empty()).chain(long.into_iter().map(|name| vec![name]));
    for record in records {
        let row = |row: &str| record.iter().map(|name| format!("{row}.{name}")).collect::<Vec<_>>().join(", ");
        parts.push(format!("pg_catalog.record_image_ne(ROW({}), ROW({}))", row("NEW"), row("OLD")));
    }
    parts.join(" OR ")
}

/// Who listens to what: each group of columns to which the same triggers listen, so that each column is compared once
/// however many triggers there are.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Listeners<'a> {
    /// A bit for each trigger: `1` if it wants every change.
    pub(super) always: String,
    /// Columns, and a bit for each trigger: `1` if it listens to them.
    pub(super) groups: Vec<(Vec<&'a Ident>, String)>,
}

impl<'a> Listeners<'a> {
    /// By position of the bit.
    pub(super) fn new(when: &'a [Changes]) -> Self {
        let bits =
            |is: &dyn Fn(&Changes) -> bool| when.iter().map(|changes| if is(changes) { '1' } else { '0' }).collect();
        let mut columns: Vec<&Ident> = Vec::new();
        for changes in when {
            if let Changes::Of(names) = changes {
                columns.extend(names);
            }
        }
        let mut groups: Vec<(Vec<&Ident>, String)> = Vec::new();
        for column in columns {
            let listens = |changes: &Changes| matches!(changes, Changes::Of(names) if names.contains(column));
            let mask: String = bits(&listens);
            match groups.iter_mut().find(|(_, found)| *found == mask) {
                Some((group, _)) if group.contains(&column) => {}
                Some((group, _)) => group.push(column),
                None => groups.push((vec![column], mask)),
            }
        }
        Self { always: bits(&|changes| *changes == Changes::Any), groups }
    }

    /// Whether some trigger wants every change.
    pub(super) fn unconditional(&self) -> bool {
        self.always.contains('1')
    }

    /// The bits of those that want a change. `changed` writes the condition that one of some columns has changed.
    pub(super) fn matched(&self, changed: impl Fn(&[&Ident]) -> String) -> String {
        let none = "0".repeat(self.always.len());
        let mut parts = Vec::new();
        if self.unconditional() || self.groups.is_empty() {
            parts.push(format!("B'{}'", self.always));
        }
        for (columns, mask) in &self.groups {
            parts.push(format!("CASE WHEN {} THEN B'{mask}' ELSE B'{none}' END", changed(columns)));
        }
        parts.join(" OPERATOR(pg_catalog.|) ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str]) -> Changes {
        Changes::Of(names.iter().copied().map(Ident::new).collect())
    }

    #[test]
    fn each_column_is_compared_once_however_many_triggers_listen_to_it() {
        let when = [of(&["a", "b"]), Changes::Any, of(&["b", "a", "c"]), Changes::Never];
        let listeners = Listeners::new(&when);
        let named = |columns: &[&Ident]| columns.iter().map(|name| name.as_str()).collect::<Vec<_>>().join("+");
        assert_eq!(
            listeners.matched(named),
            "B'0100' OPERATOR(pg_catalog.|) CASE WHEN a+b THEN B'1010' ELSE B'0000' END \
             OPERATOR(pg_catalog.|) CASE WHEN c THEN B'0010' ELSE B'0000' END"
        );
    }

    #[test]
    fn what_may_be_equal_without_being_the_same_is_compared_as_it_is_stored() {
        let (a, b, c) = (Ident::new("a"), Ident::new("b"), Ident::new("c"));
        // numeric, json and a type of somebody's own
        for oid in [1700, 114, 16400] {
            assert_eq!(Compare::of(oid, -1), Compare::Image);
        }
        // numeric(12, 2)
        assert_eq!(Compare::of(1700, 786_438), Compare::Equal);
        assert_eq!(
            any_of(&[(&a, Compare::Image), (&b, Compare::of(23, -1)), (&c, Compare::Image)], |_| false),
            "(NEW.\"b\" OPERATOR(pg_catalog.=) OLD.\"b\") IS NOT TRUE AND (NEW.\"b\" IS NOT NULL OR OLD.\"b\" IS NOT NULL) \
             OR pg_catalog.record_image_ne(ROW(NEW.\"a\", NEW.\"c\"), ROW(OLD.\"a\", OLD.\"c\"))"
        );
    }
}
