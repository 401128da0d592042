//! One request, up to the beginning of its answer: headers, redirects, limits of time, what an answer's status means.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Response, StatusCode, Version};
use serde_json::Value as Json;
use tokio::time::{sleep, timeout};

use super::abilities::Abilities;
use super::address::Address;
use super::error::RemoteError;
use super::options::{Proxy, RemoteOptions, Secret};
use super::retry::chance;
use super::traffic::Traffic;

/// How many redirects are followed.
const REDIRECTS: usize = 3;
/// How much is read of an answer that refuses something, in bytes.
const REFUSAL_BYTES: usize = 64 << 10;
/// How much of what a server says stands in a message, in characters.
const MESSAGE_CHARS: usize = 500;
const ENCRYPTION_KEY: HeaderName = HeaderName::from_static("x-turso-encryption-key");

/// What one remote's requests have in common.
pub(super) struct Http {
    client: reqwest::Client,
    address: Address,
    pub(super) options: RemoteOptions,
    pub(super) abilities: Abilities,
    traffic: Traffic,
}

/// A request. `route` is what stands behind the address.
pub(super) struct Request {
    pub(super) route: Cow<'static, str>,
    pub(super) content_type: &'static str,
    /// `None`: it is a GET.
    pub(super) body: Option<Bytes>,
    /// Whether the statuses 400 and 500 are answers like any other.
    pub(super) takes_refusals: bool,
    /// How long the server was asked to wait before it answers.
    pub(super) wait: Duration,
}

/// An answer that succeeded, as far as its status tells.
pub(super) struct Answer<'a> {
    http: &'a Http,
    /// Who gave it.
    pub(super) address: Address,
    pub(super) status: StatusCode,
    pub(super) body: AnswerBody,
    response: Headers,
}

struct Headers(HeaderMap);

/// What is still to come of an answer.
pub(super) struct AnswerBody {
    response: Response,
    idle: Duration,
    remote: String,
}

impl Http {
    pub(super) fn new(address: Address, options: RemoteOptions) -> Result<Http, RemoteError> {
        // The first to say it in this process is heard; all say the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut headers = HeaderMap::new();
        if let Some(token) = &options.auth_token {
            let bearer = Secret::from(format!("Bearer {}", token.reveal().trim()));
            headers.insert(header::AUTHORIZATION, secret(&bearer, "the token")?);
        }
        if let Some(key) = &options.encryption_key {
            headers.insert(ENCRYPTION_KEY, secret(key, "the encryption key")?);
        }
        let mut client = reqwest::Client::builder()
            .user_agent(concat!("aquifer/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .connect_timeout(options.connect_timeout)
            .redirect(reqwest::redirect::Policy::none());
        let unusable = |what| {
            // Without its URL, which may hold a password.
            move |error: reqwest::Error| RemoteError::Option { what, reason: told(&error.without_url()) }
        };
        client = match &options.proxy {
            Proxy::Environment => client,
            Proxy::None => client.no_proxy(),
            Proxy::Url(url) => {
                client.proxy(reqwest::Proxy::all(url.reveal()).map_err(unusable("the proxy"))?)
            }
        };
        if !options.certificates.is_empty() {
            let mut certificates = Vec::new();
            for pem in &options.certificates {
                let bundle = reqwest::Certificate::from_pem_bundle(pem);
                certificates.extend(bundle.map_err(unusable("a certificate"))?);
            }
            client = client.tls_certs_merge(certificates);
        }
        let client = client.build().map_err(unusable("these options"))?;
        Ok(Http { client, address, options, abilities: Abilities::default(), traffic: Traffic::default() })
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    pub(super) fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Sends a request once, to where its answers send it.
    pub(super) async fn ask(&self, address: &Address, request: &Request) -> Result<Answer<'_>, RemoteError> {
        let mut url = address.request(&request.route);
        let (method, sent) = match &request.body {
            Some(body) => (Method::POST, body.len()),
            None => (Method::GET, 0),
        };
        for redirects in 0.. {
            let remote = || {
                Address::of_request(&url, &request.route).map_or(url.to_string(), |a| a.as_str().to_owned())
            };
            self.traffic.add_request(sent);
            let mut sending = self.client.request(method.clone(), url.clone());
            if let Some(body) = &request.body {
                sending = sending.header(header::CONTENT_TYPE, request.content_type).body(body.clone());
            }
            let response = match timeout(self.options.answer_timeout + request.wait, sending.send()).await {
                Ok(Ok(response)) => response,
                Ok(Err(error)) => return Err(failed(remote(), error)),
                Err(elapsed) => {
                    return Err(RemoteError::Interrupted { remote: remote(), source: elapsed.into() });
                }
            };
            let status = response.status();
            if matches!(status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT)
                && redirects < REDIRECTS
            {
                let location = response.headers().get(header::LOCATION).and_then(|place| place.to_str().ok());
                if let Some(to) = location.and_then(|location| Address::redirected(&url, location)) {
                    url = to;
                    continue;
                }
            }
            let address = Address::of_request(&url, &request.route).unwrap_or_else(|| address.clone());
            let remote = remote();
            let is_taken = request.takes_refusals && matches!(status.as_u16(), 400 | 500);
            if !status.is_success() && !is_taken {
                return Err(self.refused(remote, response).await);
            }
            let headers = Headers(response.headers().clone());
            let body = AnswerBody { response, idle: self.options.idle_timeout, remote };
            return Ok(Answer { http: self, address, status, body, response: headers });
        }
        unreachable!("the last redirect is not followed, and its answer is an error")
    }

    /// Waits before a request is tried again that has failed, now for one time more.
    ///
    /// # Errors
    /// That it is no use.
    pub(super) async fn pause(&self, failed: &mut u32, error: RemoteError) -> Result<(), RemoteError> {
        *failed += 1;
        let Some(delay) = self.options.retries.delay(*failed, &error, chance()) else { return Err(error) };
        sleep(delay).await;
        Ok(())
    }

    async fn refused(&self, remote: String, mut response: Response) -> RemoteError {
        let status = response.status();
        let header = |name| response.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        if status.is_redirection() {
            let message = match header(header::LOCATION) {
                Some(place) => format!("it sends us to {}, where we do not follow", shortened(place)),
                None => "it sends us elsewhere, and does not say where".to_owned(),
            };
            return RemoteError::of_status(remote, status.as_u16(), None, message);
        }
        // A date is not understood: who sends one is asked again as if it had said nothing.
        let retry_after = header(header::RETRY_AFTER).and_then(|text| text.trim().parse().ok());
        let mut body = Vec::new();
        while let Ok(Ok(Some(part))) = timeout(self.options.idle_timeout, response.chunk()).await {
            self.traffic.add_received(part.len());
            body.extend_from_slice(&part);
            if body.len() > REFUSAL_BYTES {
                break;
            }
        }
        let (message, code) = said(&body);
        let message = message.unwrap_or_else(|| status.to_string());
        if matches!(code.as_deref(), Some("STREAM_EXPIRED" | "TRANSACTION_TIMEOUT")) {
            return RemoteError::StreamLost { remote, message };
        }
        RemoteError::of_status(remote, status.as_u16(), retry_after.map(Duration::from_secs), message)
    }
}

impl Answer<'_> {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.response.0.get(name)?.to_str().ok()
    }

    /// Whether the end of the body can be told from a connection that breaks.
    pub(super) fn tells_its_end(&self) -> bool {
        let chunked = || {
            self.header(header::TRANSFER_ENCODING.as_str())
                .is_some_and(|coding| coding.to_ascii_lowercase().ends_with("chunked"))
        };
        self.body.response.version() > Version::HTTP_11
            || self.response.0.contains_key(header::CONTENT_LENGTH)
            || chunked()
    }

    /// The whole body.
    ///
    /// # Errors
    /// More than `limit` bytes, or a body that breaks off.
    pub(super) async fn bytes(mut self, limit: usize) -> Result<Vec<u8>, RemoteError> {
        let mut body = Vec::new();
        while let Some(part) = self.body.next(&self.http.traffic).await? {
            if body.len() + part.len() > limit {
                return Err(self
                    .body
                    .protocol(format!("it is longer than the {limit} bytes that are read of one")));
            }
            body.extend_from_slice(&part);
        }
        Ok(body)
    }
}

impl AnswerBody {
    /// The next part, of any length. Cancel-safe.
    pub(super) async fn next(&mut self, traffic: &Traffic) -> Result<Option<Bytes>, RemoteError> {
        let interrupted = |source| RemoteError::Interrupted { remote: self.remote.clone(), source };
        let part = match timeout(self.idle, self.response.chunk()).await {
            Ok(Ok(part)) => part,
            Ok(Err(error)) => return Err(interrupted(error.without_url().into())),
            Err(elapsed) => return Err(interrupted(elapsed.into())),
        };
        if let Some(part) = &part {
            traffic.add_received(part.len());
        }
        Ok(part)
    }

    pub(super) fn protocol(&self, reason: String) -> RemoteError {
        RemoteError::Protocol { remote: self.remote.clone(), reason }
    }
}

fn secret(text: &Secret, what: &'static str) -> Result<HeaderValue, RemoteError> {
    let mut value = HeaderValue::from_str(text.reveal()).map_err(|_| RemoteError::Option {
        what,
        reason: "it has characters that no header can have, such as line ends".into(),
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// What it means that no answer came.
fn failed(remote: String, error: reqwest::Error) -> RemoteError {
    let error = error.without_url();
    if !error.is_connect() {
        return RemoteError::Interrupted { remote, source: error.into() };
    }
    if is_about_trust(&error) {
        return RemoteError::Untrusted { remote, source: error.into() };
    }
    RemoteError::Offline { remote, source: error.into() }
}

/// Whether TLS is what lies beneath.
fn is_about_trust(error: &(dyn std::error::Error + 'static)) -> bool {
    let beneath = match error.downcast_ref::<std::io::Error>() {
        // Its source is that of what it holds.
        Some(io) => io.get_ref().map(|held| held as _),
        None => error.source(),
    };
    error.is::<rustls::Error>() || beneath.is_some_and(is_about_trust)
}

/// An error with all that lies beneath it.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// The message and the code in what a server says when it refuses something.
pub(super) fn said(body: &[u8]) -> (Option<String>, Option<String>) {
    let json: Json = serde_json::from_slice(body).unwrap_or_default();
    let text = |json: &Json| json.as_str().map(shortened);
    let error = &json["error"];
    let message = text(&json["message"]).or_else(|| text(error)).or_else(|| text(&error["message"]));
    let code = text(&json["code"]).or_else(|| text(&error["code"]));
    let plain = || {
        let text = std::str::from_utf8(body).ok()?.trim();
        // A page for a browser says nothing to whoever reads a message.
        (!text.is_empty() && !text.starts_with(['<', '{', '['])).then(|| shortened(text))
    };
    (message.or_else(plain), code)
}

fn shortened(text: &str) -> String {
    let mut chars = text.chars();
    let short: String = chars.by_ref().take(MESSAGE_CHARS).filter(|c| !c.is_control()).collect();
    if chars.next().is_some() { short + "…" } else { short }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusals_message_is_found_in_what_servers_send() {
        for (body, message, code) in [
            (r#"{"message":"m","code":"C"}"#, Some("m"), Some("C")),
            (r#"{"error":"m"}"#, Some("m"), None),
            (r#"{"error":{"message":"m","code":"C"}}"#, Some("m"), Some("C")),
            ("no such place\n", Some("no such place"), None),
            ("<html>login</html>", None, None),
            ("", None, None),
            ("{}", None, None),
        ] {
            assert_eq!(
                said(body.as_bytes()),
                (message.map(str::to_owned), code.map(str::to_owned)),
                "{body}"
            );
        }
        assert_eq!(said(&[0xff, 0xfe]), (None, None));
        let (long, _) = said(&[b'x'; 10_000]);
        assert_eq!(long.unwrap().chars().count(), MESSAGE_CHARS + 1);
    }
}
