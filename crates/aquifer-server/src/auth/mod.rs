//! Who may do what with which database: bearer tokens and what they grant.
//!
//! A library without HTTP: the server hands over what stood behind `Bearer` and the database that the request names,
//! and gets an [`Access`] or a [`Denied`] that says in general terms what is wrong.
//!
//! Tokens are JSON Web Tokens with the claims that libSQL and Turso use (`claims`), signed by one of the keys of
//! files that are read again when they change (`keys`), or static tokens (`tokens`). No token is part
//! of an error, a log line or a `Debug` output.

mod claims;
mod der;
mod grant;
mod jwt;
mod keys;
#[cfg(test)]
mod tests;
mod tokens;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use ring::{hmac, rand};

pub use grant::{Access, Denied, Grant, InvalidToken};

use keys::VerifyingKey;
use tokens::TokenSet;

use crate::watched::{Watched, WatchedError};

/// Where an [`Authority`] has its keys and tokens from.
#[derive(Default, Clone)]
pub struct AuthOptions {
    /// Files with public keys: PEM (Ed25519, RSA, P-256, P-384; several blocks in one file are several keys), lines
    /// of base64 with a raw Ed25519 key as `sqld --auth-jwt-key-file` takes them, or a JWKS.
    pub key_files: Vec<PathBuf>,
    /// Audiences that this server answers to: a JWT that names an audience (`aud`) must name one of these.
    pub audiences: Vec<String>,
    /// Files with a static token per line: `TOKEN [ro|rw|admin] [DATABASE,…]`.
    pub token_files: Vec<PathBuf>,
    /// Static tokens, each written like a line of a token file.
    pub tokens: Vec<String>,
    /// Requests without a token may read and write every database. A token that is sent all the same is checked
    /// if there is a key or a token to check it against, and ignored otherwise.
    pub anonymous: bool,
    /// Requests without a token may administer, where they are let in at all.
    pub anonymous_admin: bool,
}

impl fmt::Debug for AuthOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthOptions")
            .field("key_files", &self.key_files)
            .field("audiences", &self.audiences)
            .field("token_files", &self.token_files)
            .field("tokens", &format_args!("{} hidden", self.tokens.len()))
            .field("anonymous", &self.anonymous)
            .field("anonymous_admin", &self.anonymous_admin)
            .finish()
    }
}

/// Why an [`Authority`] cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum AuthSetupError {
    /// A file of keys or tokens cannot be used.
    #[error(transparent)]
    File(#[from] WatchedError),
    /// A static token that was given directly cannot be used.
    #[error("static token {number} of the configuration: {problem}")]
    Token {
        /// Which one, from 1.
        number: usize,
        /// What is wrong with it; does not quote it.
        problem: String,
    },
    /// Nobody could ever be let in.
    #[error(
        "no key and no token is configured, so that every request would be refused: give a key file or a token, or \
         allow anonymous access"
    )]
    Nothing,
}

/// Checks tokens. Cheap to share; no method waits for anything but, at most once a second, a look at small local files.
pub struct Authority {
    keys: Vec<Watched<Vec<VerifyingKey>>>,
    audiences: Vec<String>,
    tokens: TokenSet,
    token_files: Vec<Watched<TokenSet>>,
    /// Random for this process: see [`TokenSet`].
    tag_key: Arc<hmac::Key>,
    anonymous: bool,
    anonymous_admin: bool,
}

impl Authority {
    /// Reads every file that the options name.
    ///
    /// # Errors
    /// A file that cannot be read or understood; a static token that cannot be understood; nothing to check against
    /// and anonymous access not allowed.
    pub fn new(options: &AuthOptions) -> Result<Authority, AuthSetupError> {
        let nothing =
            options.key_files.is_empty() && options.token_files.is_empty() && options.tokens.is_empty();
        if nothing && !options.anonymous {
            return Err(AuthSetupError::Nothing);
        }
        let tag_key = Arc::new(random_key());
        let keys = options
            .key_files
            .iter()
            .map(|path| Watched::open(&[path], |files| keys::parse(&files[0])))
            .collect::<Result<_, _>>()?;
        let token_files = options
            .token_files
            .iter()
            .map(|path| {
                let tag_key = Arc::clone(&tag_key);
                Watched::open(&[path], move |files| TokenSet::parse(&files[0], &tag_key))
            })
            .collect::<Result<_, _>>()?;
        let mut tokens = TokenSet::default();
        for (i, line) in options.tokens.iter().enumerate() {
            tokens.add(line, &tag_key).map_err(|problem| AuthSetupError::Token { number: i + 1, problem })?;
        }
        Ok(Authority {
            keys,
            audiences: options.audiences.clone(),
            tokens,
            token_files,
            tag_key,
            anonymous: options.anonymous,
            anonymous_admin: options.anonymous_admin,
        })
    }

    /// What the token, or its absence, allows in `database` at `now`.
    ///
    /// # Errors
    /// Whatever [`Authority::authenticate`] refuses, and a token that is for other databases.
    pub fn check(&self, bearer: Option<&str>, database: &str, now: SystemTime) -> Result<Access, Denied> {
        self.authenticate(bearer, now)?.access(database)
    }

    /// What the token, or its absence, grants at `now`, whatever the database.
    ///
    /// # Errors
    /// No token where one is needed; a token that no key or static token here vouches for; one that is expired or not
    /// valid yet.
    pub fn authenticate(&self, bearer: Option<&str>, now: SystemTime) -> Result<Grant, Denied> {
        let has_own = !self.keys.is_empty() || !self.token_files.is_empty() || !self.tokens.is_empty();
        let bearer = match bearer.map(str::trim).filter(|token| !token.is_empty()) {
            Some(token) if has_own => token,
            _ if self.anonymous => {
                return Ok(Grant::every(Access::ReadWrite).with_admin(self.anonymous_admin));
            }
            _ => return Err(Denied::Missing),
        };
        let at = Instant::now();
        let tag = tokens::tag(&self.tag_key, bearer);
        if let Some(grant) = self.tokens.get(tag) {
            return Ok(grant.clone());
        }
        for file in &self.token_files {
            if let Some(grant) = file.current(at).get(tag) {
                return Ok(grant.clone());
            }
        }
        if self.keys.is_empty() {
            return Err(Denied::Invalid(InvalidToken::Unknown));
        }
        let keys: Vec<_> = self.keys.iter().map(|file| file.current(at)).collect();
        let claims = jwt::verify(bearer, keys.iter().flat_map(|keys| keys.iter()))?;
        claims.grant(now, &self.audiences)
    }

    /// A number for whoever sends this token: the same for the same token as long as the process lives, and of no use
    /// for finding the token. For rate limits.
    pub fn caller(&self, bearer: &str) -> u64 {
        let tag = tokens::tag(&self.tag_key, bearer.trim());
        tag.iter().take(8).fold(0, |number, byte| (number << 8) | u64::from(*byte))
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("key_files", &self.keys.len())
            .field("token_files", &self.token_files.len())
            .field("anonymous", &self.anonymous)
            .finish_non_exhaustive()
    }
}

/// The token in the value of an `Authorization` header; `None` when the scheme is another.
pub fn bearer_of(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn random_key() -> hmac::Key {
    // `generate` fails only where the system has no randomness, and there no TLS would work either.
    hmac::Key::generate(hmac::HMAC_SHA256, &rand::SystemRandom::new())
        .expect("the operating system gives random bytes")
}
