//! Which tables an EventLog lets its EventTriggers name.

use super::Problem;
use crate::{api::TablePattern, name::TableName};

/// Whether one of `patterns` allows `table`. No patterns: every table.
pub fn table_allowed(patterns: Option<&[TablePattern]>, table: &TableName) -> Result<(), Problem> {
    let Some(patterns) = patterns else { return Ok(()) };
    let allows = |TablePattern { schema, name }: &TablePattern| {
        matches(schema, table.schema.as_str()) && matches(name, table.name.as_str())
    };
    if patterns.iter().any(allows) {
        return Ok(());
    }
    let allowed: Vec<_> = patterns.iter().map(|TablePattern { schema, name }| format!("{schema}.{name}")).collect();
    let message = format!(
        "spec.table: the EventLog does not allow {}; add it to the EventLog's tables, which are: {}",
        table.plain(),
        allowed.join(", ")
    );
    Err(Problem::new("TableNotAllowed", message))
}

/// Whether the whole of `text` fits `pattern`, in which `*` stands for any run of characters.
///
/// The first and last piece are anchored; each one between is taken at its first place, which never spoils a later
/// match. So it is linear, whatever the pattern.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    for piece in middle.split('*') {
        match text.find(piece) {
            Some(at) => text = &text[at + piece.len()..],
            None => return false,
        }
    }
    text.ends_with(last)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("orders", "orders", true)]
    #[case("orders", "order", false)]
    #[case("Orders", "orders", false)]
    #[case("*", "", true)]
    #[case("*", "größe \"x\"", true)]
    #[case("ord*", "orders", true)]
    #[case("*ers", "orders", true)]
    #[case("o*s", "os", true)]
    #[case("ab*ab", "ab", false)]
    #[case("a*b*c", "a-b-b-c", true)]
    #[case("a*b*c", "a-c-b", false)]
    #[case("a**c", "abc", true)]
    #[case("a.c", "abc", false)]
    #[case("[a]", "a", false)]
    fn a_star_stands_for_any_run_of_characters(#[case] pattern: &str, #[case] text: &str, #[case] expected: bool) {
        assert_eq!(matches(pattern, text), expected);
    }

    /// The definition, by trying everything.
    fn slow(pattern: &[char], text: &[char]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some(('*', rest)) => (0..=text.len()).any(|at| slow(rest, &text[at..])),
            Some((c, rest)) => text.first() == Some(c) && slow(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_trying_everything(pattern in "[ab*]{0,6}", text in "[ab]{0,8}") {
            let (p, t): (Vec<_>, Vec<_>) = (pattern.chars().collect(), text.chars().collect());
            prop_assert_eq!(matches(&pattern, &text), slow(&p, &t));
        }
    }

    #[test]
    fn a_table_needs_one_pattern_that_fits_schema_and_name() {
        let patterns = [("public", "order*"), ("audit", "*")]
            .map(|(schema, name)| TablePattern { schema: schema.to_owned(), name: name.to_owned() });
        assert_eq!(table_allowed(Some(&patterns), &TableName::new("public", "orders")), Ok(()));
        assert_eq!(table_allowed(None, &TableName::new("public", "users")), Ok(()));
        let problem = table_allowed(Some(&patterns), &TableName::new("public", "users")).unwrap_err();
        assert_eq!(problem.reason, "TableNotAllowed");
        assert_eq!(
            problem.message,
            "spec.table: the EventLog does not allow public.users; add it to the EventLog's tables, which are: public.order*, audit.*"
        );
    }
}
