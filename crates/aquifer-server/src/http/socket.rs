//! Web sockets: who may come in, and to which database.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use aquifer_log::DatabaseName;
use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::extract::ws::WebSocketUpgrade;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::response::Response;

use hyper::upgrade::OnUpgrade;

use super::answer::Refusal;
use super::forward::{Find, Forwarded, wants_socket};
use super::limits::{Caller, Place};
use super::metrics::OpenSocket;
use super::peer::Peer;
use super::{Service, relay};
use crate::auth;
use crate::cluster::Elsewhere;
use crate::hosted::Hosted;
use crate::hrana::{self, Door, Entered, TurnedAway};

/// Opens a database to those whose token, which comes in their first message, is good for it.
struct DatabaseDoor {
    service: Arc<Service>,
    name: DatabaseName,
    /// The token of the request to upgrade; browsers cannot send one.
    bearer: Option<String>,
    peer: Option<IpAddr>,
    /// Whether a page of another site asks.
    foreign: bool,
    _open: OpenSocket,
}

impl Door for DatabaseDoor {
    type Database = Hosted;
    type Turn = Place;

    async fn enter(&self, token: Option<&str>) -> Entered<Hosted> {
        let token = self.token(token);
        if token.is_none() && self.foreign {
            // Browsers let any page connect to any address, also to a server that is there for this machine only.
            return Err(TurnedAway {
                code: "FORBIDDEN",
                message: "pages of other sites need a token, also where nobody else does".to_owned(),
            });
        }
        let access = self.service.authority.check(token, self.name.as_str(), SystemTime::now());
        let access = access.map_err(|denied| {
            // Whoever tries many tokens is slowed down.
            let guess = self.count_of(Caller::Address(self.peer)).err();
            guess.unwrap_or_else(|| Refusal::from(denied).turned_away())
        })?;
        let hrana = self.service.hrana(&self.name).await.map_err(Refusal::turned_away)?;
        // A server that idled claims it anew before it begins with anything that takes long.
        hrana.database().is_newest().await.map_err(|error| Refusal::from(error).turned_away())?;
        Ok((hrana, access))
    }

    fn count(&self, token: Option<&str>) -> Result<(), TurnedAway> {
        self.count_of(match self.token(token) {
            Some(token) => Caller::Token(self.service.authority.caller(token)),
            None => Caller::Address(self.peer),
        })
    }

    async fn turn(&self) -> Result<Place, TurnedAway> {
        let turn = self.service.gate.enter(&self.name).await;
        turn.map_err(|refusal| self.service.counted(refusal).turned_away())
    }
}

impl DatabaseDoor {
    /// That of the hello, or else that of the request to upgrade.
    fn token<'a>(&'a self, token: Option<&'a str>) -> Option<&'a str> {
        token.or(self.bearer.as_deref()).filter(|token| !token.is_empty())
    }

    fn count_of(&self, caller: Caller) -> Result<(), TurnedAway> {
        let counted = self.service.gate.check_rate(caller, Instant::now());
        counted.map_err(|refusal| self.service.counted(refusal).turned_away())
    }
}

/// Answers a request to upgrade to a WebSocket, or has it answered by the server that has the database.
pub(super) async fn upgrade(
    service: Arc<Service>,
    name: DatabaseName,
    head: &mut Parts,
) -> Result<Response, Refusal> {
    let peer = head.extensions.get::<Peer>().map(|peer| peer.0.ip());
    if wants_socket(&head.headers) {
        if service.hosts.opened(&name).is_none() {
            // It is asked for in the store, on behalf of somebody who has not said who it is.
            service.gate.check_rate(Caller::Address(peer), Instant::now())?;
        }
        if let Forwarded::Answered(response) = service.place(&name, head, Body::empty(), Find::Look).await? {
            return Ok(pass_on(&service, name, head, response));
        }
    }
    let upgrade = WebSocketUpgrade::from_request_parts(head, &()).await;
    let upgrade =
        upgrade.map_err(|rejection| Refusal::bad(format!("only WebSockets are here: {rejection}")))?;
    if !hrana::is_spoken(&upgrade) {
        return Err(Refusal::bad("the WebSocket's protocol must be one of hrana3, hrana2".to_owned()));
    }
    let authorization = head.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let door = DatabaseDoor {
        bearer: authorization.and_then(auth::bearer_of).map(str::to_owned),
        peer,
        foreign: is_foreign(&head.headers),
        name,
        service: Arc::clone(&service),
        _open: OpenSocket::here(&service),
    };
    Ok(hrana::socket(upgrade, door, service.settings.socket.clone(), service.ends.subscribe()))
}

/// The answer of the server that has the database. If it agrees, what the client sends from then on is for it.
fn pass_on(service: &Arc<Service>, name: DatabaseName, head: &mut Parts, mut response: Response) -> Response {
    let other = response.extensions_mut().remove::<Elsewhere>();
    let owner = response.extensions_mut().remove::<OnUpgrade>();
    let client = head.extensions.remove::<OnUpgrade>();
    if let (Some(other), Some(owner), Some(client)) = (other, owner, client) {
        relay::start(Arc::clone(service), name, other, client, owner);
    }
    response
}

/// Whether the request says that it comes from a page that this server did not serve.
fn is_foreign(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return false };
    let site = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, site)| site);
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    match (site, host) {
        (Some(site), Some(host)) => !site.eq_ignore_ascii_case(host),
        _ => true,
    }
}
