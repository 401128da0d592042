//! A server's admin API, over HTTP.

use std::path::Path;
use std::time::Duration;

use aquifer_log::DatabaseName;
use bytes::Bytes;
use futures::stream;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Body, Method, RequestBuilder, StatusCode};
use serde_json::{Map, Value};
use tokio::fs::File;
use tokio::io::AsyncReadExt;

use crate::error::CliError;
use crate::exit::Exit;
use crate::token::token;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// What is read of a file at once, in bytes.
const PIECE: usize = 256 << 10;

/// An administrator's side of the conversation.
pub(super) struct Client {
    http: reqwest::Client,
    server: String,
    token: Option<String>,
}

impl Client {
    pub(super) fn new(server: &str, token_file: Option<&Path>) -> Result<Client, CliError> {
        let token = token(token_file)?;
        // The first to say it in this process is heard; all say the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let failed = |source| CliError::Asked { server: server.to_owned(), source };
        // The token is for this server, and for no other that nobody named.
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        let http = http.connect_timeout(CONNECT).build().map_err(failed)?;
        Ok(Client { http, server: server.trim_end_matches('/').to_owned(), token })
    }

    pub(super) async fn page(&self, after: Option<&str>) -> Result<Value, CliError> {
        let after = after.map(|name| format!("&after={}", encoded(name))).unwrap_or_default();
        self.ask(self.request(Method::GET, &format!("?limit=1000{after}"))).await
    }

    pub(super) async fn get(&self, name: &DatabaseName) -> Result<Value, CliError> {
        self.ask(self.request(Method::GET, &path(name, ""))).await
    }

    pub(super) async fn put(&self, name: &DatabaseName) -> Result<Value, CliError> {
        self.ask(self.request(Method::PUT, &path(name, ""))).await
    }

    pub(super) async fn delete(&self, name: &DatabaseName, grace: Duration) -> Result<Value, CliError> {
        let grace = format!("?grace_seconds={}", grace.as_secs());
        self.ask(self.request(Method::DELETE, &path(name, &grace))).await
    }

    pub(super) async fn post(
        &self,
        name: &DatabaseName,
        verb: &str,
        body: Map<String, Value>,
    ) -> Result<Value, CliError> {
        let request = self.request(Method::POST, &path(name, &format!("/{verb}")));
        self.ask(if body.is_empty() { request } else { request.body(Value::Object(body).to_string()) }).await
    }

    /// Sends a file, in memory that does not depend on its size.
    pub(super) async fn import(
        &self,
        name: &DatabaseName,
        file: &Path,
        any_page_size: bool,
    ) -> Result<Value, CliError> {
        let failed = |source| CliError::File { action: "read", path: file.to_owned(), source };
        let opened = File::open(file).await.map_err(failed)?;
        let len = opened.metadata().await.map_err(failed)?.len();
        let pieces = stream::try_unfold(opened, |mut file| async move {
            let mut piece = vec![0; PIECE];
            let read = file.read(&mut piece).await?;
            piece.truncate(read);
            Ok::<_, std::io::Error>((read > 0).then(|| (Bytes::from(piece), file)))
        });
        let query = if any_page_size { "/import?any_page_size=true" } else { "/import" };
        let request = self.request(Method::PUT, &path(name, query));
        self.ask(request.header(reqwest::header::CONTENT_LENGTH, len).body(Body::wrap_stream(pieces))).await
    }

    fn request(&self, method: Method, rest: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}/admin/v1/databases{rest}", self.server));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn ask(&self, request: RequestBuilder) -> Result<Value, CliError> {
        let failed = |source: reqwest::Error| {
            // Without the URL, which the message names already.
            CliError::Asked { server: self.server.clone(), source: source.without_url() }
        };
        let response = request.send().await.map_err(failed)?;
        let status = response.status();
        let place = response.headers().get(reqwest::header::LOCATION).and_then(|place| place.to_str().ok());
        if let Some(place) = place.filter(|_| status.is_redirection()) {
            let other = place.split("/admin/").next().unwrap_or(place);
            let reason = format!("another server has this database: ask it, with --server {other}");
            return Err(CliError::Answered { server: self.server.clone(), reason, exit: exit(status) });
        }
        let body = response.bytes().await.map_err(failed)?;
        let told: Value = serde_json::from_slice(&body).unwrap_or_default();
        if status.is_success() {
            return Ok(told);
        }
        let reason = told["error"].as_str().map_or_else(|| status.to_string(), str::to_owned);
        Err(CliError::Answered { server: self.server.clone(), reason, exit: exit(status) })
    }
}

fn path(name: &DatabaseName, rest: &str) -> String {
    format!("/{}{rest}", encoded(name.as_str()))
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// What a refusal means to a script.
fn exit(status: StatusCode) -> Exit {
    match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => Exit::NotFound,
        StatusCode::CONFLICT => Exit::Exists,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Exit::Refused,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            Exit::Unavailable
        }
        _ => Exit::Error,
    }
}
