//! libpq's TLS modes against a real server with a certificate for `localhost` from an authority of its own.

use eventtrigger::{
    api::TlsMode,
    log::{Admin, ConnectConfig},
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rstest::rstest;
use tokio::sync::OnceCell;

use crate::support::{Database, owner, root, schema};

/// The authority's certificate, once the server uses one that it signed.
async fn authority() -> &'static str {
    static AUTHORITY: OnceCell<String> = OnceCell::const_new();
    AUTHORITY
        .get_or_init(|| async {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new([]).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let authority = params.self_signed(&key).unwrap();
            let issuer = Issuer::new(params, key);
            let server_key = KeyPair::generate().unwrap();
            let server =
                CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&server_key, &issuer).unwrap();
            let admin = root("postgres").await;
            for (file, text) in [("test.crt", server.pem()), ("test.key", server_key.serialize_pem())] {
                // The server writes the files itself, so that they are its own and nobody else reads them.
                let text = text.replace('\r', "");
                let copy = format!(
                    "COPY (SELECT unnest(string_to_array('{}', chr(10)))) TO PROGRAM 'rm -f {file}; umask 077; cat > {file}'",
                    text.trim_end()
                );
                admin.batch_execute(&copy).await.unwrap();
            }
            for setting in ["ssl_cert_file = 'test.crt'", "ssl_key_file = 'test.key'", "ssl = on"] {
                admin.batch_execute(&format!("ALTER SYSTEM SET {setting}")).await.unwrap();
            }
            admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
            authority.pem()
        })
        .await
}

/// An authority that signed nothing here.
fn stranger() -> String {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
}

#[derive(Clone, Copy, Debug)]
enum Ca {
    Ours,
    Strange,
    Public,
}

#[rstest]
#[case::disable(TlsMode::Disable, "127.0.0.1", Ca::Public, Ok(false))]
#[case::prefer(TlsMode::Prefer, "127.0.0.1", Ca::Public, Ok(true))]
#[case::require_checks_nothing(TlsMode::Require, "127.0.0.1", Ca::Strange, Ok(true))]
#[case::verify_ca_takes_any_name(TlsMode::VerifyCa, "127.0.0.1", Ca::Ours, Ok(true))]
#[case::verify_ca_refuses_a_strange_authority(TlsMode::VerifyCa, "localhost", Ca::Strange, Err(()))]
#[case::verify_full(TlsMode::VerifyFull, "localhost", Ca::Ours, Ok(true))]
#[case::verify_full_refuses_another_name(TlsMode::VerifyFull, "127.0.0.1", Ca::Ours, Err(()))]
#[case::verify_full_refuses_what_no_public_authority_signed(TlsMode::VerifyFull, "localhost", Ca::Public, Err(()))]
#[tokio::test]
async fn a_mode_checks_what_libpq_checks(
    #[case] mode: TlsMode,
    #[case] host: &str,
    #[case] ca: Ca,
    #[case] encrypted: Result<bool, ()>,
) {
    let ours = authority().await;
    let database = Database::new().await;
    let config = ConnectConfig {
        host: host.to_owned(),
        tls: mode,
        ca: match ca {
            Ca::Ours => Some(ours.to_owned()),
            Ca::Strange => Some(stranger()),
            Ca::Public => None,
        },
        ..database.config.clone()
    };
    // The server takes its new settings a moment after it was told to.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let opened = Admin::open(&config, &schema(), &owner()).await;
        let found = if opened.is_ok() {
            let seen = "SELECT s.ssl FROM pg_stat_ssl AS s JOIN pg_stat_activity AS a USING (pid)
                        WHERE a.application_name = 'eventtrigger controller' AND a.datname = current_database()";
            Ok(database.client.query_one(seen, &[]).await.unwrap().get(0))
        } else {
            Err(())
        };
        if found == encrypted {
            if let Err(error) = opened {
                let told = format!("the certificate of {config} is not trusted; connection.tls.ca must hold");
                assert!(error.to_string().starts_with(&told), "{error}");
            }
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{found:?} instead of {encrypted:?}: {:?}", opened.err());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
