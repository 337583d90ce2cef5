//! A Service's address.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Problem;
use crate::api::Port;

const NOT_FOUND: &str = "ServicePortNotFound";

/// The URL of the port that `field` (a `ref`) names, by name or number; else of the Service's only port, or else of
/// the one that is named `http` or numbered 80.
///
/// - A headless Service's name stands for its pods, so the port is the pods' own (`targetPort`).
/// - An `ExternalName` Service stands for another host. That host is asked for directly: it would neither know the
///   Service's name nor have a certificate for it. Any port may be named, as Kubernetes does not look at its list.
pub(super) fn url(service: &Service, field: &str, wanted: Option<&Port>) -> Result<String, Problem> {
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let default = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&default);
    let full = format!("{namespace}/{name}");
    let found = pick(spec, &full, field, wanted);
    if spec.type_.as_deref() == Some("ExternalName") {
        let host = spec.external_name.as_deref().unwrap_or_default();
        let port = match (found, wanted.and_then(number)) {
            (Ok(port), _) => port.clone(),
            (Err(_), Some(port)) => ServicePort { port, ..ServicePort::default() },
            (Err(_), None) if wanted.is_none() && spec.ports.iter().flatten().next().is_none() => {
                ServicePort { port: 80, ..ServicePort::default() }
            }
            (Err(problem), None) => return Err(problem),
        };
        return Ok(format!("{}://{host}:{}", scheme(&port), port.port));
    }
    let port = found?;
    let number = if spec.cluster_ip.as_deref() == Some("None") { pods_port(port, &full, field)? } else { port.port };
    Ok(format!("{}://{name}.{namespace}.svc:{number}", scheme(port)))
}

fn pick<'a>(spec: &'a ServiceSpec, full: &str, field: &str, wanted: Option<&Port>) -> Result<&'a ServicePort, Problem> {
    let tcp = |port: &&ServicePort| port.protocol.as_deref().unwrap_or("TCP") == "TCP";
    let ports: Vec<_> = spec.ports.iter().flatten().filter(tcp).collect();
    let found = match wanted {
        Some(wanted) => ports.iter().find(|port| match number(wanted) {
            Some(number) => port.port == number,
            None => matches!(wanted, IntOrString::String(name) if port.name.as_deref() == Some(name)),
        }),
        None if ports.len() == 1 => ports.first(),
        None => {
            let named = ports.iter().find(|port| port.name.as_deref() == Some("http"));
            named.or_else(|| ports.iter().find(|port| port.port == 80))
        }
    };
    found.copied().ok_or_else(|| {
        let has = match ports.as_slice() {
            [] => "it has no TCP port".to_owned(),
            ports => format!("it has: {}", ports.iter().map(|port| describe(port)).collect::<Vec<_>>().join(", ")),
        };
        let message = match wanted {
            Some(IntOrString::Int(wanted)) => format!("{field}.port: Service {full} has no port {wanted}; {has}"),
            Some(IntOrString::String(wanted)) => format!("{field}.port: Service {full} has no port {wanted:?}; {has}"),
            None => format!("{field}.port: say which port of Service {full}; {has}"),
        };
        Problem::new(NOT_FOUND, message)
    })
}

/// A number may be written as text, too: a port's name needs a letter, so it cannot be meant as one.
fn number(port: &Port) -> Option<i32> {
    match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(text) => text.parse().ok(),
    }
}

fn describe(port: &ServicePort) -> String {
    match &port.name {
        Some(name) => format!("{name} ({})", port.port),
        None => port.port.to_string(),
    }
}

fn pods_port(port: &ServicePort, full: &str, field: &str) -> Result<i32, Problem> {
    match &port.target_port {
        None => Ok(port.port),
        Some(IntOrString::Int(number)) => Ok(*number),
        Some(IntOrString::String(name)) => {
            let message = format!(
                "{field}.port: Service {full} is headless, and the targetPort of its port {} is the name {name:?}, \
                 which may differ from pod to pod; make targetPort a number, or refer to a Service with a cluster IP",
                describe(port)
            );
            Err(Problem::new(NOT_FOUND, message))
        }
    }
}

/// `appProtocol` decides where it speaks of HTTP, else the port's name or number.
fn scheme(port: &ServicePort) -> &'static str {
    let says = port.app_protocol.as_deref().map(str::to_ascii_lowercase);
    match says.as_deref() {
        Some("https") => "https",
        Some("http" | "kubernetes.io/h2c") => "http",
        _ if port.port == 443 || port.name.as_deref() == Some("https") => "https",
        _ => "http",
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::resolve::testing::parse;

    fn service(spec: &str) -> Service {
        parse(&format!("apiVersion: v1\nkind: Service\nmetadata: {{name: billing, namespace: shop}}\nspec: {spec}"))
    }

    fn port(text: &str) -> Option<Port> {
        match text {
            "" => None,
            text => Some(text.parse().map_or_else(|_| Port::String(text.to_owned()), Port::Int)),
        }
    }

    #[rstest]
    #[case::only_port("{ports: [{port: 8080}]}", "", "http://billing.shop.svc:8080")]
    #[case::only_tcp_port(
        "{ports: [{port: 53, protocol: UDP}, {port: 8080, protocol: TCP}]}",
        "",
        "http://billing.shop.svc:8080"
    )]
    #[case::named_http(
        "{ports: [{port: 80, name: web}, {port: 8080, name: http}]}",
        "",
        "http://billing.shop.svc:8080"
    )]
    #[case::numbered_80(
        "{ports: [{port: 80, name: web}, {port: 9090, name: metrics}]}",
        "",
        "http://billing.shop.svc:80"
    )]
    #[case::by_name(
        "{ports: [{port: 80, name: http}, {port: 9090, name: hooks}]}",
        "hooks",
        "http://billing.shop.svc:9090"
    )]
    #[case::by_number(
        "{ports: [{port: 80, name: http}, {port: 9090, name: hooks}]}",
        "9090",
        "http://billing.shop.svc:9090"
    )]
    #[case::https_by_number("{ports: [{port: 443}]}", "", "https://billing.shop.svc:443")]
    #[case::https_by_name("{ports: [{port: 8443, name: https}]}", "", "https://billing.shop.svc:8443")]
    #[case::https_by_protocol("{ports: [{port: 8443, appProtocol: HTTPS}]}", "", "https://billing.shop.svc:8443")]
    #[case::protocol_over_number("{ports: [{port: 443, appProtocol: http}]}", "", "http://billing.shop.svc:443")]
    #[case::headless("{clusterIP: None, ports: [{port: 80, targetPort: 8080}]}", "", "http://billing.shop.svc:8080")]
    #[case::not_headless(
        "{clusterIP: 10.0.0.1, ports: [{port: 80, targetPort: 8080}]}",
        "",
        "http://billing.shop.svc:80"
    )]
    #[case::external("{type: ExternalName, externalName: hooks.example.com}", "", "http://hooks.example.com:80")]
    #[case::external_any_port(
        "{type: ExternalName, externalName: hooks.example.com}",
        "443",
        "https://hooks.example.com:443"
    )]
    #[case::external_listed(
        "{type: ExternalName, externalName: hooks.example.com, ports: [{port: 8443, name: https}]}",
        "",
        "https://hooks.example.com:8443"
    )]
    fn the_port_that_a_reader_expects(#[case] spec: &str, #[case] wanted: &str, #[case] expected: &str) {
        assert_eq!(url(&service(spec), "spec.sink.ref", port(wanted).as_ref()).as_deref(), Ok(expected));
    }

    #[test]
    fn a_number_written_as_text_is_a_number() {
        let service = service("{ports: [{port: 80, name: http}, {port: 9090, name: hooks}]}");
        let url = url(&service, "spec.sink.ref", Some(&Port::String("9090".to_owned())));
        assert_eq!(url.as_deref(), Ok("http://billing.shop.svc:9090"));
    }

    #[rstest]
    #[case(
        "{ports: [{port: 80, name: http}, {port: 9090}]}",
        "web",
        r#"spec.sink.ref.port: Service shop/billing has no port "web"; it has: http (80), 9090"#
    )]
    #[case(
        "{ports: [{port: 80, name: http}]}",
        "81",
        "spec.sink.ref.port: Service shop/billing has no port 81; it has: http (80)"
    )]
    #[case(
        "{ports: [{port: 1, name: a}, {port: 2, name: b}]}",
        "",
        "spec.sink.ref.port: say which port of Service shop/billing; it has: a (1), b (2)"
    )]
    #[case(
        "{ports: [{port: 53, protocol: UDP}]}",
        "53",
        "spec.sink.ref.port: Service shop/billing has no port 53; it has no TCP port"
    )]
    #[case("{clusterIP: None, ports: [{port: 80, name: http, targetPort: web}]}", "", r#"spec.sink.ref.port: Service shop/billing is headless, and the targetPort of its port http (80) is the name "web", which may differ from pod to pod; make targetPort a number, or refer to a Service with a cluster IP"#)]
    #[case(
        "{type: ExternalName, externalName: e, ports: [{port: 8443, name: a}]}",
        "b",
        r#"spec.sink.ref.port: Service shop/billing has no port "b"; it has: a (8443)"#
    )]
    fn a_port_that_cannot_be_told_lists_those_there_are(
        #[case] spec: &str,
        #[case] wanted: &str,
        #[case] message: &str,
    ) {
        let problem = url(&service(spec), "spec.sink.ref", port(wanted).as_ref()).unwrap_err();
        assert_eq!((problem.reason, problem.message.as_str()), (NOT_FOUND, message));
    }
}
