//! How a server knows that a request comes from another server of its store.
//!
//! Whoever can read a store has all of its databases: so a secret that is kept there is known to those who need no
//! server. With the one of the server that it asks, a server proves what it says of the client whose request it passes
//! on. The proof is for these words only; who sees it on its way sees the client's token as well.

use aquifer_log::ServerSecret;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::hmac;

use super::Cluster;

/// Random bytes of a secret.
const SECRET: usize = 32;

impl Cluster {
    /// Whether another server of the store says this to this one.
    pub(crate) fn is_proven(&self, said: &str, proof: &str) -> bool {
        let Some(secret) = &self.shared.secret else { return false };
        let tag = BASE64.decode(proof);
        tag.is_ok_and(|tag| hmac::verify(&key(secret), said.as_bytes(), &tag).is_ok())
    }
}

/// What proves to the server with this secret that one of its store says so.
pub(crate) fn proof(secret: &ServerSecret, said: &str) -> String {
    BASE64.encode(hmac::sign(&key(secret), said.as_bytes()))
}

/// A secret for a server; none where the system has no randomness: nobody is believed there.
pub(super) fn secret() -> Option<ServerSecret> {
    let mut bytes = [0; SECRET];
    getrandom::fill(&mut bytes).ok()?;
    Some(ServerSecret::new(BASE64.encode(bytes)))
}

fn key(secret: &ServerSecret) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes())
}
