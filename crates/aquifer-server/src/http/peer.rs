//! Who is at the other end of a connection.

use std::net::SocketAddr;

/// The address of a request's sender, or of the proxy before it. In the extensions of requests that came by
/// [`Listening`](super::Listening).
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);
