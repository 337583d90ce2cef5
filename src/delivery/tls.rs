//! Whom an https sink must be vouched for by, and who we say that we are. Pure.

use std::sync::Arc;

use rustls::{
    ClientConfig, ConfigBuilder, RootCertStore,
    client::WantsClientCert,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};

/// Why a text cannot be used. Never repeats it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum BadPem {
    #[error("it holds no certificate in PEM")]
    NoCertificate,
    #[error("it holds a certificate that cannot be read")]
    Certificate,
    #[error("tls.key holds no private key in PEM")]
    NoKey,
    #[error("tls.key cannot be used, or is not the key of tls.crt")]
    Key,
}

/// A certificate of ours with its private key.
pub(crate) type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// The certificates of authorities in `pem`; there is one at least.
pub(crate) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, BadPem> {
    let found = chain(pem)?;
    // Whether it can be an authority at all.
    let mut store = RootCertStore::empty();
    found.iter().try_for_each(|one| store.add(one.clone())).map_err(|_| BadPem::Certificate)?;
    Ok(found)
}

fn chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, BadPem> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or(BadPem::NoCertificate)
}

/// The certificates in `pem`, ours first, and the key that belongs to it.
pub(crate) fn identity(pem: &str, key: &str) -> Result<Identity, BadPem> {
    let chain = chain(pem)?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| BadPem::NoKey)?;
    CertifiedKey::from_der(chain.clone(), key.clone_key(), &default_provider()).map_err(|_| BadPem::Key)?;
    Ok((chain, key))
}

/// `store`, and `authorities` besides.
pub(super) fn and(mut store: RootCertStore, authorities: &[CertificateDer<'static>]) -> RootCertStore {
    store.add_parsable_certificates(authorities.iter().cloned());
    store
}

/// The authorities that everybody trusts.
pub(super) fn public() -> RootCertStore {
    RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.into() }
}

/// Trusts `roots`, and does not say who we are.
pub(super) fn anonymous(roots: RootCertStore) -> ClientConfig {
    trusting(roots).with_no_client_auth()
}

/// Trusts `roots`, and shows who we are if it is asked.
pub(super) fn identified(roots: RootCertStore, (chain, key): Identity) -> Result<ClientConfig, BadPem> {
    trusting(roots).with_client_auth_cert(chain, key).map_err(|_| BadPem::Key)
}

fn trusting(roots: RootCertStore) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has the default protocol versions")
        .with_root_certificates(roots)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use rstest::rstest;

    use super::*;

    fn pair() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["a".to_owned()]).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    #[test]
    fn a_certificate_and_its_key_are_an_identity() {
        let (certificate, key) = pair();
        let found = identity(&certificate, &key).unwrap();
        assert!(identified(public(), found).is_ok());
        assert_eq!(identity(&certificate, &pair().1).unwrap_err(), BadPem::Key);
        assert_eq!(identity(&certificate, "").unwrap_err(), BadPem::NoKey);
        assert_eq!(identity(&key, &key).unwrap_err(), BadPem::NoCertificate);
    }

    #[rstest]
    #[case("", BadPem::NoCertificate)]
    #[case("text", BadPem::NoCertificate)]
    #[case("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", BadPem::Certificate)]
    #[case("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", BadPem::NoCertificate)]
    fn what_is_no_authority_is_refused(#[case] pem: &str, #[case] error: BadPem) {
        assert_eq!(certificates(pem).unwrap_err(), error);
        let two = format!("{}{}", pair().0, pair().0);
        assert_eq!(certificates(&two).unwrap().len(), 2);
    }
}
