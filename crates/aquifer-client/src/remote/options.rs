//! How a remote is spoken to.

use std::fmt;
use std::time::Duration;

/// A token or a key: never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Secret {
        Secret(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Secret {
        Secret(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Through what requests go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Proxy {
    /// What `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` say.
    #[default]
    Environment,
    /// None, whatever the environment says.
    None,
    /// This one, for all requests: `http://…` or `https://…`, with user name and password where it wants them.
    Url(Secret),
}

/// How often a request is tried again that changes nothing, and how long after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retries {
    /// Further attempts after the first.
    pub count: u32,
    /// The longest wait before the second attempt; it doubles with each. How long it is within that is left to
    /// chance, so that those who were cut off together do not come back together.
    pub base: Duration,
    /// The longest wait of all. A server that asks for more patience than this (`Retry-After`) is not asked again.
    pub cap: Duration,
}

impl Default for Retries {
    fn default() -> Retries {
        Retries { count: 3, base: Duration::from_millis(200), cap: Duration::from_secs(10) }
    }
}

/// How a remote is spoken to.
#[derive(Debug, Clone)]
pub struct RemoteOptions {
    /// Sent as `Authorization: Bearer …`.
    pub auth_token: Option<Secret>,
    /// Of a database that is encrypted on the server: sent as it is, as `x-turso-encryption-key`.
    pub encryption_key: Option<Secret>,
    /// How long a connection may take to come about.
    pub connect_timeout: Duration,
    /// How long an answer may take to begin, beside what the server was asked to wait.
    pub answer_timeout: Duration,
    /// How long nothing of an answer that has begun may arrive.
    pub idle_timeout: Duration,
    /// When a pull is tried again. Batches are not: whoever sent one has to find out what became of it.
    pub retries: Retries,
    /// Through what requests go.
    pub proxy: Proxy,
    /// Certificates in PEM that are trusted beside the system's.
    pub certificates: Vec<Vec<u8>>,
    /// The largest answer to a batch that is read, in bytes.
    pub answer_bytes: usize,
}

impl Default for RemoteOptions {
    fn default() -> RemoteOptions {
        RemoteOptions {
            auth_token: None,
            encryption_key: None,
            connect_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_mins(1),
            idle_timeout: Duration::from_secs(30),
            retries: Retries::default(),
            proxy: Proxy::default(),
            certificates: Vec::new(),
            answer_bytes: 16 << 20,
        }
    }
}
