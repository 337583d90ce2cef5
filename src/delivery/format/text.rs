//! Pieces of a request's text. They are appended one by one: through `format!` they would take several times as long, and there are
//! many of them.

use jiff::{Timestamp, fmt::temporal::DateTimePrinter};

const TIME: DateTimePrinter = DateTimePrinter::new().precision(Some(6));

/// A short text of one or a few pieces.
pub(super) fn pushed(push: impl FnOnce(&mut String)) -> String {
    // An event's id, the longest that there is in nearly every request, has 56 bytes.
    let mut text = String::with_capacity(64);
    push(&mut text);
    text
}

/// A text as JSON has it.
pub(super) fn push_json(out: &mut String, text: &str) {
    // Nearly every name and key.
    if text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&serde_json::Value::from(text).to_string());
    }
}

pub(super) fn push_number(out: &mut String, number: impl itoa::Integer) {
    out.push_str(itoa::Buffer::new().format(number));
}

/// With leading zeros, so that the order of the texts is that of the numbers.
pub(super) fn push_sequence(out: &mut String, number: i64) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(number);
    out.push_str("00000000000000000000".get(digits.len()..).unwrap_or_default());
    out.push_str(digits);
}

/// To the microsecond, as PostgreSQL keeps it.
pub(super) fn push_time(out: &mut String, at: Timestamp) {
    let _ = TIME.print_timestamp(&at, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_has_twenty_digits() {
        let sequence = |number| pushed(|out| push_sequence(out, number));
        assert_eq!([sequence(0), sequence(1234)], ["00000000000000000000", "00000000000000001234"]);
        assert_eq!(sequence(i64::MAX), "09223372036854775807");
    }

    #[test]
    fn a_text_is_escaped_where_json_must() {
        let json = |text| pushed(|out| push_json(out, text));
        assert_eq!(json("public.orders/ä"), "\"public.orders/ä\"");
        assert_eq!(json("a\"b\\c\nd\u{1}"), r#""a\"b\\c\nd\u0001""#);
    }

    #[test]
    fn a_time_has_six_digits_of_a_second() {
        let time = |micros| pushed(|out| push_time(out, Timestamp::from_microsecond(micros).unwrap()));
        assert_eq!(time(1_767_225_600_000_120), "2026-01-01T00:00:00.000120Z");
        assert_eq!(time(1_767_225_600_000_000), "2026-01-01T00:00:00.000000Z");
    }
}
