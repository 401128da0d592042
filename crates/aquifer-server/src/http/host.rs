//! Databases by the name of the host: `shop.example.com`.

use aquifer_log::DatabaseName;
use axum::http::{header, request};

use super::answer::Refusal;

/// The database that a request's host names below the base domain; none where there is no base domain, or the host is
/// not below it.
pub(super) fn database(head: &request::Parts, base: Option<&str>) -> Result<Option<DatabaseName>, Refusal> {
    let Some(base) = base else { return Ok(None) };
    let header = head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let Some(host) = head.uri.host().or(header) else { return Ok(None) };
    let Some(label) = label(host, base) else { return Ok(None) };
    label.parse().map(Some).map_err(|e| Refusal::bad(format!("{host}: {e}")))
}

/// The one label in front of the base domain. Names of hosts have no case.
fn label(host: &str, base: &str) -> Option<String> {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let (name, base) =
        (name.trim_end_matches('.').to_ascii_lowercase(), base.trim_matches('.').to_ascii_lowercase());
    let label = name.strip_suffix(&base)?.strip_suffix('.')?;
    (!label.is_empty() && !label.contains('.')).then(|| label.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_label_below_the_base_domain_is_a_database() {
        for (host, found) in [
            ("shop.example.com", Some("shop")),
            ("Shop.EXAMPLE.com:8080", Some("shop")),
            ("shop.example.com.", Some("shop")),
            ("example.com", None),
            ("a.b.example.com", None),
            ("shop.example.org", None),
            ("shopexample.com", None),
            ("127.0.0.1:8080", None),
            ("[::1]:8080", None),
            ("", None),
        ] {
            assert_eq!(label(host, "Example.com").as_deref(), found, "{host}");
        }
    }
}
