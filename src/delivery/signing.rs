//! Signatures of Standard Webhooks, <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>.
//! Pure.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue};
use ring::{
    hmac,
    signature::{ED25519_PUBLIC_KEY_LEN, Ed25519KeyPair},
};

/// What a receiver deduplicates by; sent also without a signature.
pub(super) const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// Bytes of an ed25519 seed (RFC 8032 §5.1.5); libraries often store the public key behind it.
const SEED: usize = 32;

/// A key to sign with.
#[derive(Debug)]
pub(crate) enum Key {
    /// Scheme `v1`.
    Shared(hmac::Key),
    /// Scheme `v1a`.
    Private(Box<Ed25519KeyPair>),
}

/// Why a text is no key. Never repeats it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum BadKey {
    #[error("it does not begin with whsec_ or whsk_; write whsec_ and 24 to 64 random bytes in base64")]
    Prefix,
    #[error("what follows {0} is not base64; write the key as a generator of Standard Webhooks secrets does")]
    Base64(&'static str),
    #[error("it has {0} bytes; a key after whsec_ has 24 to 64, in base64")]
    Length(usize),
    #[error("it is not an ed25519 key; after whsk_ stand 32 bytes in base64, or 64 with the public key")]
    Ed25519,
}

impl Key {
    /// From its notation. White space around it is left aside: a Secret made from a file ends with a line break.
    pub(crate) fn parse(text: &str) -> Result<Self, BadKey> {
        let text = text.trim();
        let bytes = |encoded: &str, prefix| STANDARD.decode(encoded).map_err(|_| BadKey::Base64(prefix));
        if let Some(encoded) = text.strip_prefix("whsec_") {
            let bytes = bytes(encoded, "whsec_")?;
            if !(24..=64).contains(&bytes.len()) {
                return Err(BadKey::Length(bytes.len()));
            }
            return Ok(Self::Shared(hmac::Key::new(hmac::HMAC_SHA256, &bytes)));
        }
        let encoded = text.strip_prefix("whsk_").ok_or(BadKey::Prefix)?;
        let bytes = bytes(encoded, "whsk_")?;
        let pair = match bytes.len() {
            SEED => Ed25519KeyPair::from_seed_unchecked(&bytes),
            length if length == SEED + ED25519_PUBLIC_KEY_LEN => {
                Ed25519KeyPair::from_seed_and_public_key(&bytes[..SEED], &bytes[SEED..])
            }
            _ => return Err(BadKey::Ed25519),
        };
        Ok(Self::Private(Box::new(pair.map_err(|_| BadKey::Ed25519)?)))
    }

    fn sign(&self, signed: &[&[u8]]) -> String {
        match self {
            Self::Shared(key) => {
                let mut context = hmac::Context::with_key(key);
                for part in signed {
                    context.update(part);
                }
                format!("v1,{}", STANDARD.encode(context.sign()))
            }
            Self::Private(pair) => format!("v1a,{}", STANDARD.encode(pair.sign(&signed.concat()))),
        }
    }
}

/// Whether a header is one of those that are set here.
pub(super) fn sets(name: &HeaderName) -> bool {
    [ID, TIMESTAMP, SIGNATURE].contains(name)
}

/// Signs a request that has its id, with every key: a receiver takes the signature that it knows. `now` is in Unix
/// seconds; it is the attempt's, so that an old request cannot be played again later.
pub(super) fn sign(keys: &[Key], headers: &mut HeaderMap, body: &[u8], now: i64) {
    let Some(id) = headers.get(ID).filter(|_| !keys.is_empty()) else { return };
    let timestamp = now.to_string();
    let signed = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body];
    let mut signatures = String::new();
    for key in keys {
        let _ = write!(signatures, "{}{}", if signatures.is_empty() { "" } else { " " }, key.sign(&signed));
    }
    headers.insert(TIMESTAMP, now.into());
    headers.insert(SIGNATURE, HeaderValue::from_str(&signatures).expect("base64 is visible ASCII"));
}

#[cfg(test)]
mod tests {
    use ring::signature::{ED25519, KeyPair as _, UnparsedPublicKey};
    use rstest::rstest;

    use super::*;

    fn signed(keys: &[Key]) -> String {
        let mut headers = HeaderMap::from_iter([(ID, HeaderValue::from_static("msg_p5jXN8AQM9LWM0D4loKWxJek"))]);
        sign(keys, &mut headers, br#"{"test": 2432232314}"#, 1_614_265_330);
        headers.get(SIGNATURE).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
    }

    /// The example that every library of Standard Webhooks is tested with.
    #[test]
    fn the_signature_is_that_of_the_specification() {
        let key = Key::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
        assert_eq!(signed(&[key]), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn every_key_signs_so_that_they_can_be_rotated() {
        let keys = ["a", "b"].map(|letter| Key::parse(&format!("whsec_{}", letter.repeat(32))).unwrap());
        let each: Vec<_> = keys.iter().map(|key| key.sign(&[b"x"])).collect();
        assert!(each[0] != each[1]);
        let all = signed(&keys);
        assert_eq!(all.split(' ').filter(|one| one.starts_with("v1,")).count(), 2, "{all}");
        assert_eq!(signed(&[]), "");
    }

    #[test]
    fn an_asymmetric_key_signs_what_its_public_key_verifies() {
        let key = Key::parse(&format!("whsk_{}", STANDARD.encode([7; 32]))).unwrap();
        let Key::Private(pair) = &key else { panic!("{key:?}") };
        let signature = key.sign(&[b"a", b"b"]);
        let signature = STANDARD.decode(signature.strip_prefix("v1a,").unwrap()).unwrap();
        UnparsedPublicKey::new(&ED25519, pair.public_key()).verify(b"ab", &signature).unwrap();
        let both = [&[7; 32], pair.public_key().as_ref()].concat();
        assert!(Key::parse(&format!("whsk_{}", STANDARD.encode(both))).is_ok());
    }

    #[rstest]
    #[case("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", BadKey::Prefix)]
    #[case("whsec_ä", BadKey::Base64("whsec_"))]
    #[case("whsec_c2hvcnQ=", BadKey::Length(5))]
    #[case(format!("whsec_{}", STANDARD.encode([0; 65])), BadKey::Length(65))]
    #[case(format!("whsk_{}", STANDARD.encode([0; 31])), BadKey::Ed25519)]
    #[case(format!("whsk_{}", STANDARD.encode([1; 64])), BadKey::Ed25519)]
    fn what_is_no_key_is_refused(#[case] text: impl Into<String>, #[case] error: BadKey) {
        assert_eq!(Key::parse(&text.into()).unwrap_err(), error);
    }
}
