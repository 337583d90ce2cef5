//! Who made a change: what of the log's note an EventTrigger asked for. Pure.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use http::HeaderValue;
use serde::{Deserialize, Serialize};

use super::row::NotARow;
use crate::log::{Event, definition::Context};

/// What the log has noted beside an event's rows: what any EventTrigger of the table asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Noted<'a> {
    #[serde(borrow)]
    role: Option<Cow<'a, str>>,
    #[serde(borrow)]
    application: Option<Cow<'a, str>>,
    settings: BTreeMap<String, String>,
    /// Columns that were too long to be captured; `*` for all.
    omitted: BTreeSet<String>,
}

/// Who made the change, as the event's body says it.
#[derive(Serialize)]
struct Actor<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    application: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    settings: Option<BTreeMap<&'a str, &'a str>>,
}

impl<'a> Noted<'a> {
    pub(super) fn of(event: &'a Event) -> Result<Self, NotARow> {
        Ok(event.context.as_deref().map(serde_json::from_str).transpose()?.unwrap_or_default())
    }

    /// The member `actor`, as JSON; `None` if `asked` is for none of it.
    pub(super) fn actor(&self, asked: &Context) -> Option<String> {
        let Context { role, application, settings, .. } = asked;
        if !role && !application && settings.is_empty() {
            return None;
        }
        let found = settings.iter().filter_map(|name| Some((name.as_str(), self.settings.get(name)?.as_str())));
        let actor = Actor {
            role: self.role.as_deref().filter(|_| *role),
            application: self.application.as_deref().filter(|_| *application),
            settings: (!settings.is_empty()).then(|| found.collect()),
        };
        Some(serde_json::to_string(&actor).expect("text is JSON"))
    }

    /// What a setting was, if `asked` is for it.
    pub(super) fn setting(&self, asked: &Context, name: &str) -> Option<&str> {
        asked.settings.iter().any(|asked| asked == name).then(|| self.settings.get(name).map(String::as_str))?
    }

    /// The member `omitted`, as JSON: which of the columns that are shown were too long; `None` if none was.
    pub(super) fn omitted(&self, shown: impl Fn(&str) -> bool) -> Option<String> {
        let omitted: Vec<_> = self.omitted.iter().filter(|name| *name == "*" || shown(name)).collect();
        (!omitted.is_empty()).then(|| serde_json::to_string(&omitted).expect("text is JSON"))
    }

    /// The trace that the application was in, if its setting holds one.
    pub(super) fn traceparent(&self, asked: &Context) -> Option<HeaderValue> {
        let value = self.settings.get(asked.traceparent.as_ref()?)?;
        is_traceparent(value).then(|| HeaderValue::from_str(value).ok())?
    }
}

/// Whether a text is a W3C trace context, <https://www.w3.org/TR/trace-context/#traceparent-header-field-values>, of a
/// version that has no more fields than the first.
fn is_traceparent(text: &str) -> bool {
    let parts: Vec<_> = text.split('-').collect();
    let [version, trace, parent, flags] = parts[..] else { return false };
    let hex =
        |part: &str, length| part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let something = |part: &str| part.bytes().any(|byte| byte != b'0');
    hex(version, 2)
        && version != "ff"
        && hex(trace, 32)
        && something(trace)
        && hex(parent, 16)
        && something(parent)
        && hex(flags, 2)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[rstest]
    #[case(TRACE, true)]
    #[case("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", true)]
    #[case("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", false)]
    #[case("00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", false)]
    #[case("00-00000000000000000000000000000000-b7ad6b7169203331-01", false)]
    #[case("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", false)]
    #[case("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x", false)]
    #[case("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0\n", false)]
    #[case("", false)]
    fn only_a_trace_context_is_passed_on(#[case] text: &str, #[case] expected: bool) {
        assert_eq!(is_traceparent(text), expected);
        let settings = [("app.trace".to_owned(), text.to_owned())].into();
        let asked = Context { traceparent: Some("app.trace".to_owned()), ..Context::default() };
        let noted = Noted { settings, ..Noted::default() };
        assert_eq!(noted.traceparent(&asked).is_some_and(|value| value == text), expected);
        assert_eq!(noted.traceparent(&Context::default()), None);
    }

    #[test]
    fn an_event_shows_only_what_its_trigger_asked_for() {
        let noted: Noted<'_> = serde_json::from_str(
            r#"{"role":"a\"b","application":"shop","settings":{"app.user":"7","app.tenant":"x"}}"#,
        )
        .unwrap();
        let settings = vec!["app.user".to_owned(), "app.gone".to_owned()];
        let asked = |role, settings| Context { role, settings, ..Context::default() };
        assert_eq!(noted.actor(&Context::default()), None);
        assert_eq!(noted.actor(&asked(true, Vec::new())).unwrap(), r#"{"role":"a\"b"}"#);
        assert_eq!(noted.actor(&asked(false, settings)).unwrap(), r#"{"settings":{"app.user":"7"}}"#);
        let application = Context { application: true, ..Context::default() };
        assert_eq!(noted.actor(&application).unwrap(), r#"{"application":"shop"}"#);
        let noted: Noted<'_> = serde_json::from_str(r#"{"omitted":["b","a","b"]}"#).unwrap();
        assert_eq!(noted.omitted(|_| true).unwrap(), r#"["a","b"]"#);
        assert_eq!(noted.omitted(|column| column == "b").unwrap(), r#"["b"]"#);
        assert_eq!(noted.omitted(|column| column == "c"), None);
        // From before it was asked for.
        assert_eq!(Noted::default().actor(&application).unwrap(), "{}");
    }
}
