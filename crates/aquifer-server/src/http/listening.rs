//! Connections: taken, bounded in number and in patience, ended when the server ends.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tower_service::Service as _;

use super::peer::Peer;
use super::stalling::Stalling;
use super::tls::Tls;

/// After the system had no descriptor, or no memory, for another connection.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// How long a client may take for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What connections are granted.
#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    /// Connections at the same time. More wait in the system's queue.
    pub connections: usize,
    /// How long the head of a request may take to arrive; so long an idle connection stays open, too.
    pub head: Duration,
    /// How long a client may take nothing of what is sent to it.
    pub stalled: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> ConnectionLimits {
        ConnectionLimits {
            connections: 10_000,
            head: Duration::from_mins(1),
            stalled: Duration::from_mins(1),
        }
    }
}

/// A socket that takes connections for a router.
#[derive(Debug)]
pub struct Listening {
    listener: TcpListener,
    limits: ConnectionLimits,
    tls: Option<Arc<Tls>>,
}

impl Listening {
    /// Takes connections in plain HTTP/1.1, or, given certificates, in TLS only.
    pub fn new(listener: TcpListener, limits: ConnectionLimits, tls: Option<Tls>) -> Listening {
        Listening { listener, limits, tls: tls.map(Arc::new) }
    }

    /// Serves until `ended` is done, and then until the answers that are under way are sent.
    ///
    /// Dropping the future leaves connections open until their clients close them.
    pub async fn serve(self, router: Router, ended: impl Future<Output = ()>) {
        let Listening { listener, limits, tls } = self;
        let places = Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS)));
        // Closed when the last connection has let go of its end.
        let (end, _) = watch::channel(());
        let mut ended = std::pin::pin!(ended);
        loop {
            let accepted = tokio::select! {
                () = &mut ended => break,
                accepted = accept(&listener, &places) => accepted,
            };
            let (socket, peer, place) = match accepted {
                Ok(accepted) => accepted,
                Err(error) if is_of_the_client(&error) => continue,
                Err(error) => {
                    tracing::error!(%error, "cannot take connections at the moment");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                    continue;
                }
            };
            let connection = Connection { router: router.clone(), peer, limits: limits.clone(), place };
            tokio::spawn(connection.run(socket, tls.clone(), end.subscribe()));
        }
        drop(listener);
        let _ = end.send(());
        end.closed().await;
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    let (socket, peer) = listener.accept().await?;
    // Answers are written whole: waiting for more only makes them late.
    let _ = socket.set_nodelay(true);
    Ok((socket, peer, place))
}

/// Whether a connection failed before it was taken, which says nothing about the next.
fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

struct Connection {
    router: Router,
    peer: SocketAddr,
    limits: ConnectionLimits,
    place: OwnedSemaphorePermit,
}

impl Connection {
    async fn run(self, socket: TcpStream, tls: Option<Arc<Tls>>, ending: watch::Receiver<()>) {
        let Some(tls) = tls else {
            return self.speak(socket, ending).await;
        };
        let peer = self.peer;
        match tokio::time::timeout(HANDSHAKE, handshake(socket, &tls)).await {
            Ok(Ok(encrypted)) => self.speak(encrypted, ending).await,
            Ok(Err(error)) => tracing::debug!(%peer, %error, "no TLS handshake"),
            Err(_) => tracing::debug!(%peer, "the TLS handshake took too long"),
        }
    }

    async fn speak(
        self,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        mut ending: watch::Receiver<()>,
    ) {
        let Connection { router, peer, limits, place } = self;
        let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(Peer(peer));
            let mut router = router.clone();
            async move { answer(&mut router, request.map(axum::body::Body::new)).await }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head)
            .serve_connection(TokioIo::new(Stalling::new(io, limits.stalled, Some(place))), service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = &mut connection => ended,
            _ = ending.changed() => {
                // The request that is being answered is the last.
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "a connection ended");
        }
    }
}

async fn answer(router: &mut Router, request: Request) -> Result<Response, std::convert::Infallible> {
    // A router is always ready.
    router.call(request).await
}

/// Greets a client in TLS; one that speaks HTTP is told so in words that it understands.
async fn handshake(
    mut socket: TcpStream,
    tls: &Tls,
) -> io::Result<tokio_rustls::server::TlsStream<TcpStream>> {
    let mut first = [0];
    // A TLS client's first byte is 22, a request's first one a letter.
    if socket.peek(&mut first).await? == 1 && first[0].is_ascii_uppercase() {
        let text = "{\"error\":\"this port speaks TLS: use https://\"}";
        let answer = format!(
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n{text}",
            text.len()
        );
        socket.write_all(answer.as_bytes()).await?;
        socket.shutdown().await?;
        // What is still unread would make the system reset the connection, and the answer be lost.
        tokio::io::copy(&mut socket, &mut tokio::io::sink()).await?;
        return Err(io::Error::other("the client speaks HTTP without TLS"));
    }
    tls.acceptor().accept(socket).await
}
