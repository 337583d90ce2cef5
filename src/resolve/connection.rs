//! An EventLog's connection.

use kube::ResourceExt;

use super::{LookupError, Objects, Problem, Stop, part, secret};
use crate::{
    api::{Connection, EventLog, TlsMode, ValueSource},
    log::{ConnectConfig, ConnectError},
};

const INVALID: &str = "InvalidConnection";

/// How to reach the database of `log`. `tls` comes before what the URI says.
pub async fn connection(log: &EventLog, objects: &impl Objects) -> Result<Result<ConnectConfig, Problem>, LookupError> {
    part(resolve(&log.namespace().unwrap_or_default(), "spec.connection", &log.spec.connection, objects).await)
}

/// How the workers of `log` reach it, if that differs.
pub async fn delivery_connection(
    log: &EventLog,
    objects: &impl Objects,
) -> Result<Result<Option<ConnectConfig>, Problem>, LookupError> {
    let Some(connection) = &log.spec.delivery.connection else { return Ok(Ok(None)) };
    let namespace = log.namespace().unwrap_or_default();
    part(resolve(&namespace, "spec.delivery.connection", connection, objects).await.map(Some))
}

/// The connection in field `at` of the spec.
async fn resolve(
    namespace: &str,
    at: &str,
    connection: &Connection,
    objects: &impl Objects,
) -> Result<ConnectConfig, Stop> {
    let mut config = written(namespace, at, connection, objects).await?;
    // A Service of the same namespace, as a pod there would call it: the controller is in another one.
    if !config.host.contains(['.', ':', '/']) && objects.service(namespace, &config.host).await?.is_some() {
        config.host = format!("{}.{namespace}.svc", config.host);
    }
    Ok(config)
}

/// The same as it is written.
async fn written(
    namespace: &str,
    at: &str,
    connection: &Connection,
    objects: &impl Objects,
) -> Result<ConnectConfig, Stop> {
    let Connection { uri, host, port, dbname, user, password, tls } = connection;
    let mode = tls.as_ref().map(|tls| tls.mode);
    let ca = match tls.as_ref().and_then(|tls| tls.ca.as_ref()) {
        Some(ca) => Some(secret::value(objects, namespace, &format!("{at}.tls.ca"), &ca.secret_key_ref).await?),
        None => None,
    };
    if let Some(uri) = uri {
        let text = secret::value(objects, namespace, &format!("{at}.uri"), &uri.secret_key_ref).await?;
        // A URI holds no white space, but a Secret made from a file ends with a line break.
        return Ok(ConnectConfig::from_uri(text.trim(), mode, ca).map_err(|error| invalid(at, &error))?);
    }
    let read = Parts { namespace, at, objects };
    Ok(ConnectConfig {
        host: read.needed("host", host.as_ref()).await?,
        port: match read.optional("port", port.as_ref()).await? {
            Some(value) => number(at, &value, port.as_ref().and_then(|port| port.value.as_deref()))?,
            None => 5432,
        },
        dbname: read.needed("dbname", dbname.as_ref()).await?,
        user: read.needed("user", user.as_ref()).await?,
        password: match password {
            // As it is: a password may hold anything.
            Some(source) => Some(read.raw("password", source).await?),
            None => None,
        },
        tls: mode.unwrap_or(TlsMode::Prefer),
        ca,
    })
}

/// Neither variant repeats the URI, which holds a password.
fn invalid(at: &str, error: &ConnectError) -> Problem {
    let field = if matches!(error, ConnectError::Ca(_)) { "tls.ca" } else { "uri" };
    Problem::new(INVALID, format!("{at}.{field}: {error}"))
}

/// `shown` is what the manifest itself says. A Secret's value is not repeated: its key may be the password's by mistake.
fn number(at: &str, port: &str, shown: Option<&str>) -> Result<u16, Problem> {
    port.parse().ok().filter(|&port| port != 0).ok_or_else(|| {
        let port = shown.map_or("the Secret's value".to_owned(), |shown| format!("{shown:?}"));
        Problem::new(INVALID, format!("{at}.port: {port} is not a port; write a number from 1 to 65535"))
    })
}

/// Reads the fields of a connection, each written in place or kept in a Secret.
struct Parts<'a, O> {
    namespace: &'a str,
    /// The connection's field in the spec.
    at: &'a str,
    objects: &'a O,
}

impl<O: Objects> Parts<'_, O> {
    async fn raw(&self, field: &str, source: &ValueSource) -> Result<String, Stop> {
        let field = format!("{}.{field}", self.at);
        match (&source.value, &source.secret_key_ref) {
            (Some(value), None) => Ok(value.clone()),
            (None, Some(selector)) => secret::value(self.objects, self.namespace, &field, selector).await,
            _ => Err(Problem::new(INVALID, format!("{field}: set exactly one of value and secretKeyRef")).into()),
        }
    }

    async fn optional(&self, field: &str, source: Option<&ValueSource>) -> Result<Option<String>, Stop> {
        let Some(source) = source else { return Ok(None) };
        let value = self.raw(field, source).await?;
        // Not repeated: it may be a secret that was put under the wrong name.
        let fault = match value.trim() {
            "" => "is empty",
            trimmed if trimmed.contains(char::is_control) => "holds a control character",
            trimmed => return Ok(Some(trimmed.to_owned())),
        };
        Err(Problem::new(INVALID, format!("{}.{field}: the value {fault}; correct it", self.at)).into())
    }

    async fn needed(&self, field: &str, source: Option<&ValueSource>) -> Result<String, Stop> {
        let missing = || {
            Problem::new(INVALID, format!("{at}.{field}: without {at}.uri it is needed; set it", at = self.at)).into()
        };
        self.optional(field, source).await?.ok_or_else(missing)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::resolve::testing::{Manifests, parse};

    const SECRETS: &str = r#"
apiVersion: v1
kind: Secret
metadata: {name: db, namespace: shop}
stringData: {host: "db.shop.svc\n", port: "6432", password: "p w\n", empty: " ", word: five}
"#;

    fn log(connection: &str) -> EventLog {
        parse(&format!(
            "apiVersion: eventtrigger.dev/v1alpha1\nkind: EventLog\nmetadata: {{name: shop, namespace: shop}}\nspec: {{connection: {connection}}}"
        ))
    }

    async fn resolved(connection: &str) -> Result<ConnectConfig, Problem> {
        super::connection(&log(connection), &Manifests::new(SECRETS)).await.unwrap()
    }

    #[tokio::test]
    async fn parts_come_from_the_manifest_or_from_secrets() {
        let config = resolved(
            "{host: {secretKeyRef: {name: db, key: host}}, port: {secretKeyRef: {name: db, key: port}}, dbname: {value: shop}, user: {value: app}, password: {secretKeyRef: {name: db, key: password}}, tls: {mode: require}}",
        )
        .await
        .unwrap();
        let expected = ConnectConfig {
            host: "db.shop.svc".to_owned(),
            port: 6432,
            dbname: "shop".to_owned(),
            user: "app".to_owned(),
            password: Some("p w\n".to_owned()),
            tls: TlsMode::Require,
            ca: None,
        };
        assert!(config == expected);
    }

    /// The Secret that CloudNativePG makes, key for key, for its cluster `shop`.
    const CLOUDNATIVEPG: &str = r#"
apiVersion: v1
kind: Secret
type: kubernetes.io/basic-auth
metadata: {name: shop-app, namespace: shop, labels: {cnpg.io/userType: app, cnpg.io/reload: "true"}}
stringData:
  username: app
  user: app
  password: p%/w
  dbname: shop
  host: shop-rw
  port: "5432"
  pgpass: "shop-rw:5432:shop:app:p%/w\n"
  uri: postgresql://app:p%25%2Fw@shop-rw.shop:5432/shop
  jdbc-uri: jdbc:postgresql://shop-rw.shop:5432/shop?password=p%25%2Fw&user=app
  fqdn-uri: postgresql://app:p%25%2Fw@shop-rw.shop.svc.cluster.local:5432/shop
  fqdn-jdbc-uri: jdbc:postgresql://shop-rw.shop.svc.cluster.local:5432/shop?password=p%25%2Fw&user=app
---
apiVersion: v1
kind: Service
metadata: {name: shop-rw, namespace: shop}
spec: {ports: [{port: 5432}]}
---
apiVersion: v1
kind: Secret
type: kubernetes.io/tls
metadata: {name: acid-shop-tls, namespace: shop}
stringData: {ca.crt: authority, tls.crt: certificate, tls.key: key}
---
apiVersion: v1
kind: Secret
metadata: {name: app.acid-shop.credentials.postgresql.acid.zalan.do, namespace: shop}
stringData: {username: app, password: z}
"#;

    fn sample(text: &str) -> EventLog {
        parse(text.split("---").find(|part| part.contains("kind: EventLog")).unwrap())
    }

    #[rstest]
    #[case::uri("{uri: {secretKeyRef: {name: shop-app, key: uri}}}", "shop-rw.shop")]
    #[case::fqdn("{uri: {secretKeyRef: {name: shop-app, key: fqdn-uri}}}", "shop-rw.shop.svc.cluster.local")]
    // The host's name is that of a Service beside the Secret.
    #[case::parts(
        "{host: {secretKeyRef: {name: shop-app, key: host}}, port: {secretKeyRef: {name: shop-app, key: port}}, dbname: {secretKeyRef: {name: shop-app, key: dbname}}, user: {secretKeyRef: {name: shop-app, key: username}}, password: {secretKeyRef: {name: shop-app, key: password}}}",
        "shop-rw.shop.svc"
    )]
    #[tokio::test]
    async fn the_secret_of_cloudnativepg_does_as_it_is(#[case] connection: &str, #[case] host: &str) {
        let config = super::connection(&log(connection), &Manifests::new(CLOUDNATIVEPG)).await.unwrap().unwrap();
        let ConnectConfig { host: found, port, dbname, user, password, .. } = &config;
        assert_eq!((found.as_str(), *port, dbname.as_str(), user.as_str()), (host, 5432, "shop", "app"));
        assert_eq!(password.as_deref(), Some("p%/w"));
    }

    #[tokio::test]
    async fn the_samples_for_cloudnativepg_zalando_and_cert_manager_fit_their_secrets() {
        let objects = Manifests::new(CLOUDNATIVEPG);
        let cnpg = sample(include_str!("../../config/samples/cloudnativepg.yaml"));
        assert_eq!(super::connection(&cnpg, &objects).await.unwrap().unwrap().host, "shop-rw.shop");
        let zalando = sample(include_str!("../../config/samples/zalando.yaml"));
        let config = super::connection(&zalando, &objects).await.unwrap().unwrap();
        assert_eq!((config.user.as_str(), config.password.as_deref()), ("app", Some("z")));
        assert_eq!((config.tls, config.ca.as_deref()), (TlsMode::VerifyFull, Some("authority")));
    }

    #[tokio::test]
    async fn port_and_encryption_have_the_defaults_of_postgres_clients() {
        let config = resolved("{host: {value: h}, dbname: {value: d}, user: {value: u}}").await.unwrap();
        assert_eq!((config.port, config.tls), (5432, TlsMode::Prefer));
    }

    #[rstest]
    #[case(
        "{uri: {secretKeyRef: {name: app, key: uri}}}",
        "SecretNotFound",
        r#"spec.connection.uri: there is no Secret shop/app; create it with a key "uri""#
    )]
    #[case(
        "{uri: {secretKeyRef: {name: db, key: uri}}}",
        "SecretKeyNotFound",
        r#"spec.connection.uri: Secret shop/db has no key "uri"; it has: empty, host, password, port, word"#
    )]
    #[case(
        "{host: {value: h}, dbname: {value: d}, user: {value: u}, port: {value: '70000'}}",
        INVALID,
        r#"spec.connection.port: "70000" is not a port; write a number from 1 to 65535"#
    )]
    #[case(
        "{host: {value: h}, dbname: {value: d}, user: {value: u}, port: {secretKeyRef: {name: db, key: word}}}",
        INVALID,
        "spec.connection.port: the Secret's value is not a port; write a number from 1 to 65535"
    )]
    #[case(
        "{host: {secretKeyRef: {name: db, key: empty}}, dbname: {value: d}, user: {value: u}}",
        INVALID,
        "spec.connection.host: the value is empty; correct it"
    )]
    #[case(
        "{host: {value: h}, user: {value: u}}",
        INVALID,
        "spec.connection.dbname: without spec.connection.uri it is needed; set it"
    )]
    #[case(
        "{host: {value: h}, dbname: {value: d}, user: {value: u}, tls: {mode: verify-full, ca: {secretKeyRef: {name: ca, key: ca.crt}}}}",
        "SecretNotFound",
        r#"spec.connection.tls.ca: there is no Secret shop/ca; create it with a key "ca.crt""#
    )]
    #[tokio::test]
    async fn a_problem_names_field_value_and_remedy(
        #[case] connection: &str,
        #[case] reason: &str,
        #[case] message: &str,
    ) {
        let problem = resolved(connection).await.map(|config| config.to_string()).unwrap_err();
        assert_eq!((problem.reason, problem.message.as_str()), (reason, message));
    }
}
