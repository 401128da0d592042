//! Who is at the other end of a connection, or of the connection before it.

use std::net::SocketAddr;

use aquifer_log::ServerSecret;
use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::cluster::{Cluster, proof};

/// What another server says of the client whose request it passes on: its address, and a proof that a server of the
/// store says so.
pub(super) const CLIENT_HEADER: HeaderName = HeaderName::from_static("aquifer-client");

/// The address of a request's sender, or of the proxy before it. In the extensions of requests that came by
/// [`Listening`](super::Listening).
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// What is said of a client to the server that has this secret.
pub(super) fn said_of(client: SocketAddr, secret: &ServerSecret) -> Option<(HeaderName, HeaderValue)> {
    let client = client.to_string();
    let said = format!("{client} {}", proof(secret, &client));
    Some((CLIENT_HEADER, HeaderValue::try_from(said).ok()?))
}

/// The client of a request that another server of the store passed on. Anybody can say anything: the rest is not heard.
pub(super) fn client(headers: &HeaderMap, cluster: &Cluster) -> Option<Peer> {
    let (client, proof) = headers.get(CLIENT_HEADER)?.to_str().ok()?.split_once(' ')?;
    if cluster.is_proven(client, proof) { client.parse().ok().map(Peer) } else { None }
}
