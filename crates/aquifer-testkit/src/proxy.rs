//! A proxy between an HTTP client and a server, which loses, cuts, delays or invents answers when a test says so.
//!
//! It stays where it is when the server behind it is replaced by another one, so clients find a restarted server under
//! the address that they know. Web sockets pass through it, without faults.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{CONNECTION, UPGRADE};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyFault {
    /// The server does not get it; the client gets this status.
    Status(u16),
    /// The server executes it, and the client's connection is closed without an answer.
    DropReply,
    /// The server executes it, and the client's connection is closed after half of the answer.
    CutReply,
    /// The server executes it, and the client gets the answer so much later.
    Delay(Duration),
}

/// A request that went through, or was to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxiedRequest {
    /// Its path, as in `/db/shop/v2/pipeline`.
    pub path: String,
    /// Its whole body; empty for web sockets.
    pub body: Bytes,
    /// What was done to it.
    pub fault: Option<ProxyFault>,
}

type Faults = Box<dyn FnMut(&str, &[u8]) -> Option<ProxyFault> + Send>;
type AnyBody = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

struct Shared {
    server: Mutex<SocketAddr>,
    faults: Mutex<Option<Faults>>,
    log: Mutex<Vec<ProxiedRequest>>,
}

/// The proxy. It takes no more connections when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Proxy {
    /// Starts a proxy on a free port, inside the current tokio runtime, in front of a server.
    ///
    /// # Panics
    /// If no port can be had.
    pub async fn start(server: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("the address of a listener");
        let shared =
            Arc::new(Shared { server: Mutex::new(server), faults: Mutex::default(), log: Mutex::default() });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        Proxy { address, shared, accepting }
    }

    /// Where clients find it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends all that comes from now on to another server.
    pub fn set_server(&self, server: SocketAddr) {
        *lock(&self.shared.server) = server;
    }

    /// Asks `faults`, with path and body, about every request to come.
    pub fn set_faults(&self, faults: impl FnMut(&str, &[u8]) -> Option<ProxyFault> + Send + 'static) {
        *lock(&self.shared.faults) = Some(Box::new(faults));
    }

    /// All requests up to now, in the order in which their bodies were complete.
    pub fn requests(&self) -> Vec<ProxiedRequest> {
        lock(&self.shared.log).clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(|request| forward(Arc::clone(&shared), request));
            // An error is a client that went away, or an answer that was to be lost.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(client), service)
                .with_upgrades()
                .await;
        });
    }
}

async fn forward(shared: Arc<Shared>, request: Request<Incoming>) -> io::Result<Response<AnyBody>> {
    if request.headers().contains_key(UPGRADE) {
        return upgrade(&shared, request).await;
    }
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let path = head.uri.path().to_owned();
    let fault = lock(&shared.faults).as_mut().and_then(|faults| faults(&path, &body));
    lock(&shared.log).push(ProxiedRequest { path, body: body.clone(), fault });
    if let Some(ProxyFault::Status(status)) = fault {
        let mut answer = Response::new(whole(Bytes::from_static(b"{\"error\":\"injected\"}")));
        *answer.status_mut() = StatusCode::from_u16(status).map_err(io::Error::other)?;
        return Ok(answer);
    }
    let answer = match send(&shared, Request::from_parts(head, Full::new(body))).await {
        Ok(answer) => answer,
        Err(e) if fault.is_none() => {
            let mut answer = Response::new(whole(Bytes::from(e.to_string())));
            *answer.status_mut() = StatusCode::BAD_GATEWAY;
            return Ok(answer);
        }
        Err(e) => return Err(e),
    };
    let (head, body) = answer.into_parts();
    let body = match fault {
        None | Some(ProxyFault::Status(_)) => body.map_err(Into::into).boxed_unsync(),
        Some(fault) => {
            let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
            match fault {
                ProxyFault::DropReply => return Err(io::Error::other("an answer to be lost")),
                ProxyFault::CutReply => Cut::half_of(&body).boxed_unsync(),
                ProxyFault::Delay(delay) => {
                    tokio::time::sleep(delay).await;
                    whole(body)
                }
                ProxyFault::Status(_) => whole(body),
            }
        }
    };
    Ok(Response::from_parts(head, body))
}

/// Sends a request to the server, on a connection of its own.
async fn send<B>(shared: &Shared, request: Request<B>) -> io::Result<Response<Incoming>>
where
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let server = *lock(&shared.server);
    let socket = TokioIo::new(TcpStream::connect(server).await?);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(socket).await.map_err(io::Error::other)?;
    tokio::spawn(connection.with_upgrades());
    sender.send_request(request).await.map_err(io::Error::other)
}

/// Passes a web socket through.
async fn upgrade(shared: &Shared, mut request: Request<Incoming>) -> io::Result<Response<AnyBody>> {
    let client = hyper::upgrade::on(&mut request);
    let path = request.uri().path().to_owned();
    lock(&shared.log).push(ProxiedRequest { path, body: Bytes::new(), fault: None });
    let mut answer = send(shared, request.map(|_| Full::new(Bytes::new()))).await?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let server = hyper::upgrade::on(&mut answer);
        tokio::spawn(async move {
            if let (Ok(client), Ok(server)) = tokio::join!(client, server) {
                let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            }
        });
    } else {
        answer.headers_mut().remove(CONNECTION);
    }
    Ok(answer.map(|body| body.map_err(Into::into).boxed_unsync()))
}

fn whole(body: Bytes) -> AnyBody {
    Full::new(body).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// The first half of a body, then an error: the connection is closed there.
enum Cut {
    Half(Bytes),
    /// Asked once more, hyper sends what it has before it learns of the error.
    Sent,
    Over,
}

impl Cut {
    fn half_of(body: &Bytes) -> Cut {
        Cut::Half(body.slice(..body.len() / 2))
    }
}

impl Body for Cut {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match std::mem::replace(&mut *self, Cut::Over) {
            Cut::Half(half) => {
                *self = Cut::Sent;
                Poll::Ready(Some(Ok(Frame::data(half))))
            }
            Cut::Sent => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Cut::Over => Poll::Ready(Some(Err("an answer to be cut".into()))),
        }
    }
}
