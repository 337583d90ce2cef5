//! Values of Secrets on their way into requests, and out of everything else. Pure.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use http::HeaderValue;

use super::target::Hold;
use crate::log::definition::{HeaderValue as Source, SecretName};

/// Shorter texts are not searched for: they stand in many answers by chance.
const SHORTEST: usize = 6;

/// What must not be shown: values of secrets that a sink is sent.
#[derive(Default)]
pub(super) struct Secrets(Vec<String>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secrets", self.0.len())
    }
}

impl Secrets {
    /// Hides a text from now on, and its words: `Bearer abc` must not come back as `abc` either.
    pub(super) fn hide(&mut self, text: &str) {
        let parts = std::iter::once(text).chain(text.split_whitespace().filter(|part| *part != text));
        self.0.extend(parts.filter(|part| part.len() >= SHORTEST).map(str::to_owned));
    }

    /// `text` without what is hidden, for a sink may echo what it was sent.
    pub(super) fn redact(&self, text: String) -> String {
        self.0.iter().fold(text, |text, secret| text.replace(secret, "[redacted]"))
    }
}

/// Finds values for what a definition names, and hides those that are secret.
pub(super) struct Reader<'a> {
    pub(super) known: &'a BTreeMap<SecretName, String>,
    pub(super) hidden: Secrets,
}

impl<'a> Reader<'a> {
    /// The value of a secret. `what` says what it is for.
    pub(super) fn secret(&mut self, what: &str, name: &SecretName) -> Result<&'a str, Hold> {
        let missing = || Hold::MissingSecret { what: what.to_owned(), secret: name.0.clone() };
        let text = self.known.get(name).ok_or_else(missing)?;
        self.hidden.hide(text);
        Ok(text)
    }

    /// One that is never sent, so that nothing is to be hidden of it.
    pub(super) fn unsent(&self, what: &str, name: &SecretName) -> Result<&'a str, Hold> {
        let missing = || Hold::MissingSecret { what: what.to_owned(), secret: name.0.clone() };
        Ok(self.known.get(name).ok_or_else(missing)?)
    }

    pub(super) fn text<'s>(&mut self, what: &str, source: &'s Source) -> Result<Cow<'s, str>, Hold>
    where
        'a: 's,
    {
        Ok(match source {
            Source::Literal(text) => text.into(),
            Source::Secret(name) => self.secret(what, name)?.into(),
        })
    }

    /// As a header's value.
    pub(super) fn header(&mut self, name: &str, source: &Source) -> Result<HeaderValue, Hold> {
        let text = self.text(&format!("header {name}"), source)?;
        let mut value = HeaderValue::from_str(&text).map_err(|_| Hold::HeaderValue(name.to_owned()))?;
        value.set_sensitive(matches!(source, Source::Secret(_)));
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_sink_echoes_is_shown_without_secrets() {
        let mut secrets = Secrets::default();
        for text in ["Bearer abc-123", "two words", "short"] {
            secrets.hide(text);
        }
        let said = secrets.redact("you sent abc-123, Bearer abc-123, two words; it was short".to_owned());
        assert_eq!(said, "you sent [redacted], [redacted], [redacted]; it was short");
        assert_eq!(format!("{secrets:?}"), "4 secrets");
    }
}
