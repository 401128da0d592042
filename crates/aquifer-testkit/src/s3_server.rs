//! An S3 server in this process, on a loopback port: path style, signatures checked (`SigV4`), and conditional
//! puts that are atomic, unlike those of the file-system servers at hand.

mod objects;

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{self, ServerConfig};

use objects::Objects;

const ACCESS_KEY: &str = "AQUIFERTESTKIT";
const SECRET_KEY: &str = "the key of a server that lives as long as a test";

/// How the server treats conditions on puts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conditions {
    /// `If-None-Match: *` and `If-Match` hold, atomically, as in S3.
    Honoured,
    /// They are accepted and ignored: the put overwrites, as in Garage 2.5.
    Ignored,
}

/// An HTTP request as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRequest {
    /// `PUT`, `GET` …
    pub method: String,
    /// Path and query: `/bucket/key?uploads`.
    pub target: String,
    /// Names, in lower case, and values of its headers.
    pub headers: Vec<(String, String)>,
    /// Its number, from 0.
    pub number: usize,
}

impl HttpRequest {
    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// What the server does instead of answering properly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpFault {
    /// Answers with this status and an S3 error of this code, without doing anything.
    Answer(u16, &'static str),
    /// Closes the connection without doing anything.
    CloseBefore,
    /// Does what was asked, then closes the connection instead of answering.
    CloseAfter,
    /// Does what was asked, then answers with this status and an S3 error of this code.
    AnswerAfter(u16, &'static str),
    /// Does nothing and never answers; the connection stays open.
    Hang,
}

type Faults = Box<dyn FnMut(&HttpRequest) -> Option<HttpFault> + Send>;

struct Shared {
    objects: Objects,
    faults: Mutex<Option<Faults>>,
    /// In nanoseconds.
    latency: AtomicU64,
    log: Mutex<Vec<HttpRequest>>,
}

/// The server. Stops when dropped; what it stores is gone then.
pub struct S3Server {
    address: SocketAddr,
    certificate: Option<String>,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

impl fmt::Debug for S3Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl S3Server {
    /// The one bucket that there is.
    pub const BUCKET: &str = "bucket";

    /// Starts a server on a free port, inside the current tokio runtime.
    ///
    /// # Panics
    /// If no port can be had.
    pub async fn start(conditions: Conditions) -> S3Server {
        S3Server::listen(conditions, None).await
    }

    /// As [`S3Server::start`], for `https://localhost` with a certificate of its own.
    pub async fn start_tls(conditions: Conditions) -> S3Server {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("its key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|config| {
                config.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key)
            })
            .expect("a usable certificate");
        S3Server::listen(conditions, Some((TlsAcceptor::from(Arc::new(config)), made.cert.pem()))).await
    }

    async fn listen(conditions: Conditions, tls: Option<(TlsAcceptor, String)>) -> S3Server {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port on loopback");
        let address = listener.local_addr().expect("a bound socket has an address");
        let objects = Objects::new(Self::BUCKET, conditions);
        let mut service = S3ServiceBuilder::new(objects.clone());
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = service.build();
        let shared = Arc::new(Shared {
            objects,
            faults: Mutex::default(),
            latency: AtomicU64::new(0),
            log: Mutex::default(),
        });
        let (acceptor, certificate) = tls.unzip();
        let accepting = tokio::spawn(accept(listener, acceptor, service, Arc::clone(&shared))).abort_handle();
        S3Server { address, certificate, shared, accepting }
    }

    /// The URL of a store in the server's bucket, under a prefix that may be empty.
    pub fn url(&self, prefix: &str) -> String {
        let slash = if prefix.is_empty() { "" } else { "/" };
        format!("s3://{}{slash}{prefix}?endpoint={}&region=us-east-1", Self::BUCKET, self.endpoint())
    }

    /// `http://127.0.0.1:port`, or with TLS `https://localhost:port`.
    pub fn endpoint(&self) -> String {
        match self.certificate {
            Some(_) => format!("https://localhost:{}", self.address.port()),
            None => format!("http://{}", self.address),
        }
    }

    /// The server's certificate in PEM, with TLS: a client must trust it.
    pub fn certificate(&self) -> Option<&str> {
        self.certificate.as_deref()
    }

    /// The environment variables that let a client in.
    pub fn environment(&self) -> Vec<(String, String)> {
        [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .to_vec()
    }

    /// Asks for every request from now on whether to answer it with a fault.
    pub fn set_faults(&self, faults: impl FnMut(&HttpRequest) -> Option<HttpFault> + Send + 'static) {
        *lock(&self.shared.faults) = Some(Box::new(faults));
    }

    /// Answers everything properly again.
    pub fn clear_faults(&self) {
        *lock(&self.shared.faults) = None;
    }

    /// Lets every request from now on wait for so long before it is done, as the way to a far store would.
    pub fn set_latency(&self, latency: Duration) {
        self.shared.latency.store(latency.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Every request since the start, or since the log was taken last.
    pub fn take_log(&self) -> Vec<HttpRequest> {
        std::mem::take(&mut lock(&self.shared.log))
    }

    /// The keys of all objects, ascending.
    pub fn keys(&self) -> Vec<String> {
        self.shared.objects.keys()
    }

    /// The content of an object.
    pub fn object(&self, key: &str) -> Option<Bytes> {
        self.shared.objects.get(key)
    }

    /// Puts an object as if nothing of the server's protocol existed; or damages one.
    pub fn put_object(&self, key: &str, content: impl Into<Bytes>) {
        self.shared.objects.put(key, content.into());
    }

    /// Multipart uploads that were neither completed nor aborted.
    pub fn open_uploads(&self) -> usize {
        self.shared.objects.open_uploads()
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    service: S3Service,
    shared: Arc<Shared>,
) {
    // Dropped with this task, and all connections with it.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    // Small answers must not wait for the client's delayed acknowledgement.
                    let _ = stream.set_nodelay(true);
                    let (acceptor, service, shared) = (acceptor.clone(), service.clone(), Arc::clone(&shared));
                    connections.spawn(async move {
                        match acceptor {
                            None => serve(stream, service, shared).await,
                            Some(acceptor) => {
                                if let Ok(stream) = acceptor.accept(stream).await {
                                    serve(stream, service, shared).await;
                                }
                            }
                        }
                    });
                }
                Err(_) => return,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Ends a connection without an answer.
#[derive(Debug)]
struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("closed by a fault")
    }
}

impl std::error::Error for Closed {}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    service: S3Service,
    shared: Arc<Shared>,
) {
    let answer = service_fn(move |request| answer(request, service.clone(), Arc::clone(&shared)));
    // An error is a client that went away, or a fault.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
}

async fn answer(
    request: hyper::Request<Incoming>,
    service: S3Service,
    shared: Arc<Shared>,
) -> Result<s3s::HttpResponse, Closed> {
    let text = |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let mut seen = HttpRequest {
        method: request.method().to_string(),
        target: request.uri().to_string(),
        headers: request.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
        number: 0,
    };
    {
        let mut log = lock(&shared.log);
        seen.number = log.len();
        log.push(seen.clone());
    }
    let latency = Duration::from_nanos(shared.latency.load(Ordering::Relaxed));
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    let fault = lock(&shared.faults).as_mut().and_then(|faults| faults(&seen));
    match fault {
        None => proper(request, &service).await,
        Some(HttpFault::Answer(status, code)) => {
            // Taking the body first keeps the connection usable, as a real server's does.
            let _ = http_body_util::BodyExt::collect(request.into_body()).await;
            Ok(error_answer(status, code))
        }
        Some(HttpFault::CloseBefore) => Err(Closed),
        Some(HttpFault::CloseAfter) => {
            proper(request, &service).await?;
            Err(Closed)
        }
        Some(HttpFault::AnswerAfter(status, code)) => {
            proper(request, &service).await?;
            Ok(error_answer(status, code))
        }
        Some(HttpFault::Hang) => std::future::pending().await,
    }
}

async fn proper(request: hyper::Request<Incoming>, service: &S3Service) -> Result<s3s::HttpResponse, Closed> {
    service.call(request.map(s3s::Body::from)).await.map_err(|_| Closed)
}

fn error_answer(status: u16, code: &str) -> s3s::HttpResponse {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>injected</Message></Error>"
    );
    let mut answer = s3s::HttpResponse::new(s3s::Body::from(body));
    *answer.status_mut() = hyper::StatusCode::from_u16(status).expect("a status that a test made up well");
    answer
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
