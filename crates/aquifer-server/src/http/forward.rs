//! Requests for databases that another server has: passed on to it, and its answers passed back.
//!
//! A request is passed on once at most: the server that gets it either has the database, or says that it does not
//! (421). Then whoever passed it on looks again who has it, and may open it itself. So no request goes in circles, and
//! none opens a database just because somebody once heard that it was there.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::Duration;

use aquifer_log::DatabaseName;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header, request::Parts};
use axum::response::IntoResponse;
use bytes::Bytes;
use parking_lot::Mutex;

use super::Service;
use super::answer::Refusal;
use super::peer::{self, CLIENT_HEADER, Peer};
use crate::cluster::Elsewhere;
use crate::hosted::HostError;

/// On a request: another server passed it on. On an answer with 421: this server does not have the database.
const FORWARDED: HeaderName = HeaderName::from_static("aquifer-forwarded");
/// How often it is looked anew who has a database, for one request.
const ATTEMPTS: usize = 4;
/// A server that does not accept a connection in this time is taken for unreachable.
const CONNECT: Duration = Duration::from_secs(2);
/// Databases whose place is remembered.
const KNOWN: usize = 10_000;
/// Of one connection only (RFC 9110, 7.6.1). The host is passed on: it may name the database.
const HOP: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Passes requests on.
#[derive(Debug, Default)]
pub(super) struct Forwarder {
    client: OnceLock<Result<reqwest::Client, String>>,
    /// Who was last seen to have which database: forgotten as soon as that turns out to be wrong.
    known: Mutex<HashMap<DatabaseName, Elsewhere>>,
}

/// How it is found out who has a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Find {
    /// By opening it: whoever has it then is this server, unless another one has it.
    Open,
    /// By looking only: nothing is opened for somebody who may have no right to it, or wants to have it closed.
    Look,
}

/// What became of a request.
pub(super) enum Forwarded {
    /// This server has the database.
    Here(Body),
    /// Another one has it, and answered. If it goes on as a WebSocket, that server and the connection to it are among
    /// the extensions.
    Answered(Response<Body>),
}

/// Why another server's answer is not to be had.
enum Failed {
    /// It was not asked, or says that it does not have the database.
    Unasked(Elsewhere, Option<reqwest::Error>),
    /// It was asked, and nobody knows what came of it.
    Unknown(Refusal),
}

impl Service {
    /// Finds out who has the database that a request is for; passes the request on, if that is another server.
    pub(super) async fn place(
        &self,
        name: &DatabaseName,
        head: &Parts,
        body: Body,
        find: Find,
    ) -> Result<Forwarded, Refusal> {
        if head.headers.contains_key(FORWARDED) {
            // A server that idled claims it anew before it begins with anything that takes long: whoever waits for the
            // answer takes it for dead otherwise.
            return match self.hosts.find(name).await {
                Some(hosted) if hosted.is_newest().await.is_ok() => Ok(Forwarded::Here(body)),
                _ => Ok(Forwarded::Answered(not_here(name))),
            };
        }
        let Some(mut other) = self.elsewhere(name, find).await? else { return Ok(Forwarded::Here(body)) };
        if self.options.redirect {
            return redirect(name, &other, head).map(Forwarded::Answered);
        }
        let body = self.body(body).await?;
        for _ in 0..ATTEMPTS {
            match self.ask(name, other, head, body.clone()).await {
                Ok(answer) => return Ok(Forwarded::Answered(answer)),
                Err(Failed::Unknown(refusal)) => {
                    self.forget(name);
                    return Err(refusal);
                }
                Err(Failed::Unasked(before, error)) => {
                    self.forget(name);
                    let Some(next) = self.elsewhere(name, find).await? else {
                        return Ok(Forwarded::Here(Body::from(body)));
                    };
                    if error.is_none() && next == before && find == Find::Look {
                        // It has claimed it and could not open it: nothing is done under anybody.
                        return Ok(Forwarded::Here(Body::from(body)));
                    }
                    if let Some(error) = error.filter(|_| next == before) {
                        tracing::debug!(database = %name, %error, "a server cannot be reached");
                        return Err(unreachable(name, &next));
                    }
                    other = next;
                }
            }
        }
        Err(Refusal::later(format!("'{name}' goes from server to server: try again")))
    }

    /// Who has a database, if it is not this server.
    async fn elsewhere(&self, name: &DatabaseName, find: Find) -> Result<Option<Elsewhere>, Refusal> {
        // Clients that are redirected do not tell what came of it.
        if !self.options.redirect
            && let Some(other) = self.forwarder.known.lock().get(name)
        {
            return Ok(Some(other.clone()));
        }
        let found = match find {
            Find::Look if self.hosts.find(name).await.is_some() => None,
            Find::Look => self.hosts.cluster().elsewhere(&self.hosts.log(name)).await?,
            Find::Open => match self.open(name).await {
                Ok(_) => None,
                Err(HostError::Elsewhere(_, other)) => Some(other),
                Err(error) => return Err(error.into()),
            },
        };
        if let Some(other) = &found {
            let mut known = self.forwarder.known.lock();
            if known.len() >= KNOWN {
                known.clear();
            }
            known.insert(name.clone(), other.clone());
        }
        Ok(found)
    }

    /// Who has a database is to be found out anew.
    pub(super) fn forget(&self, name: &DatabaseName) {
        self.forwarder.known.lock().remove(name);
    }

    /// Whether the server that was asked of a database has it no more, as far as can be told by now. It may have begun a
    /// new term meanwhile.
    pub(super) async fn is_gone(&self, name: &DatabaseName, other: &mut Elsewhere) -> bool {
        if !self.hosts.cluster().is_over(other.server).await {
            return false;
        }
        match self.hosts.cluster().elsewhere(&self.hosts.log(name)).await {
            Ok(Some(now)) if now.url == other.url => {
                *other = now;
                false
            }
            _ => true,
        }
    }

    async fn ask(
        &self,
        name: &DatabaseName,
        mut other: Elsewhere,
        head: &Parts,
        body: Bytes,
    ) -> Result<Response<Body>, Failed> {
        let known = |refusal| Err(Failed::Unknown(refusal));
        let Some(url) = &other.url else { return known(without_address(name, &other)) };
        let client = match self.forwarder.client.get_or_init(client) {
            Ok(client) => client,
            Err(reason) => return known(Refusal::later(format!("requests cannot be passed on: {reason}"))),
        };
        let mut headers = passed_on(&head.headers);
        pass_upgrade(&head.headers, &mut headers);
        headers.insert(FORWARDED, HeaderValue::from_static("1"));
        headers.remove(CLIENT_HEADER);
        if let (Some(Peer(client)), Some(secret)) = (head.extensions.get(), &other.secret) {
            headers.extend(peer::said_of(*client, secret));
        }
        // The body is sent without any; those of the answer are passed on.
        headers.remove(header::TRAILER);
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        let request = client.request(head.method.clone(), format!("{url}{}", path_of(head)));
        let mut sent = std::pin::pin!(request.headers(headers).body(body).send());
        let look = self.hosts.cluster().options().lease / 4;
        let answer = loop {
            tokio::select! {
                answer = &mut sent => break answer,
                // A server that stands still accepts connections, and never answers.
                () = tokio::time::sleep(look) => if self.is_gone(name, &mut other).await {
                    return known(unknown(name, "gives no sign of life"));
                },
            }
        };
        match answer {
            Ok(answer)
                if answer.status() == StatusCode::MISDIRECTED_REQUEST
                    && answer.headers().contains_key(FORWARDED) =>
            {
                Err(Failed::Unasked(other, None))
            }
            Ok(answer) => {
                let (mut head, body) = Response::<reqwest::Body>::from(answer).into_parts();
                let mut headers = passed_on(&head.headers);
                if head.status == StatusCode::SWITCHING_PROTOCOLS {
                    pass_upgrade(&head.headers, &mut headers);
                    head.extensions.insert(other);
                }
                head.headers = headers;
                Ok(Response::from_parts(head, Body::new(body)))
            }
            Err(error) if error.is_connect() => Err(Failed::Unasked(other, Some(error))),
            Err(error) => {
                tracing::info!(database = %name, %error, "passed on, and not answered");
                known(unknown(name, "broke off"))
            }
        }
    }
}

fn client() -> Result<reqwest::Client, String> {
    // A program that embeds us may have chosen already.
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT)
        // As servers speak it; a connection that goes on as a WebSocket has to.
        .http1_only()
        .build();
    client.map_err(|e| e.to_string())
}

/// What is not of one connection only.
fn passed_on(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    // What the sender lists in `connection` is of that connection, too.
    let listed: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in HOP.iter().chain(&listed) {
        headers.remove(name);
    }
    headers
}

/// What asks for a WebSocket, or agrees to it, is of the next connection, too.
fn pass_upgrade(from: &HeaderMap, to: &mut HeaderMap) {
    if wants_socket(from) {
        to.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        to.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// Whether these headers ask for a WebSocket, or agree to it.
pub(super) fn wants_socket(headers: &HeaderMap) -> bool {
    headers
        .get(header::UPGRADE)
        .is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

fn path_of(head: &Parts) -> &str {
    head.uri.path_and_query().map_or("/", |path| path.as_str())
}

fn redirect(name: &DatabaseName, other: &Elsewhere, head: &Parts) -> Result<Response<Body>, Refusal> {
    let Some(url) = &other.url else { return Err(without_address(name, other)) };
    match HeaderValue::try_from(format!("{url}{}", path_of(head))) {
        Ok(location) => Ok((StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, location)]).into_response()),
        Err(e) => Err(Refusal::bad(e.to_string())),
    }
}

fn not_here(name: &DatabaseName) -> Response<Body> {
    let reason = format!("this server does not have '{name}'");
    let mut answer = Refusal::new(StatusCode::MISDIRECTED_REQUEST, reason).into_response();
    answer.headers_mut().insert(FORWARDED, HeaderValue::from_static("1"));
    answer
}

fn without_address(name: &DatabaseName, other: &Elsewhere) -> Refusal {
    HostError::Elsewhere(name.clone(), other.clone()).into()
}

fn unreachable(name: &DatabaseName, other: &Elsewhere) -> Refusal {
    let place = other.url.as_deref().unwrap_or_default();
    Refusal::later(format!(
        "'{name}' is served by {place}, which cannot be reached: it is taken over when that server gives no sign of life \
         for the length of its lease"
    ))
}

fn unknown(name: &DatabaseName, what: &str) -> Refusal {
    let reason = format!("the server of '{name}' {what}: whether it did what it was asked to is not known");
    Refusal::new(StatusCode::BAD_GATEWAY, reason)
}
