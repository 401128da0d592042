//! What a token grants, and the ways in which one is refused.

/// What a request may do with a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Queries and pulls.
    ReadOnly,
    /// Everything but administration.
    ReadWrite,
}

impl Access {
    /// Whether a write may go ahead.
    ///
    /// # Errors
    /// [`Denied::ReadOnly`] when it may not.
    pub fn require_write(self) -> Result<(), Denied> {
        match self {
            Access::ReadWrite => Ok(()),
            Access::ReadOnly => Err(Denied::ReadOnly),
        }
    }
}

/// What a token grants: an access to every database, or to those that it names; and maybe administration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    scope: Scope,
    admin: bool,
    subject: Option<String>,
}

/// Bytes of a subject that are kept.
const SUBJECT: usize = 128;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Scope {
    Every(Access),
    Named(Vec<(String, Access)>),
}

impl Grant {
    /// The same access to every database.
    pub fn every(access: Access) -> Grant {
        Grant { scope: Scope::Every(access), admin: false, subject: None }
    }

    /// Access to the databases that are named; of a database named twice, the higher one.
    pub fn named(databases: impl IntoIterator<Item = (String, Access)>) -> Grant {
        Grant { scope: Scope::Named(databases.into_iter().collect()), admin: false, subject: None }
    }

    /// The same, and administration of the whole server.
    #[must_use]
    pub fn with_admin(self, admin: bool) -> Grant {
        Grant { admin, ..self }
    }

    /// The same, for whoever the token says that it was issued to.
    #[must_use]
    pub(super) fn of_subject(self, subject: Option<&str>) -> Grant {
        let subject = subject.map(|subject| subject[..subject.floor_char_boundary(SUBJECT)].to_owned());
        Grant { subject, ..self }
    }

    /// Whom the token was issued to, as far as it says so: the beginning of its claim `sub`.
    pub fn subject(&self) -> Option<&str> {
        self.subject.as_deref()
    }

    /// Whether administration may go ahead.
    ///
    /// # Errors
    /// [`Denied::NotAdmin`] when it may not.
    pub fn require_admin(&self) -> Result<(), Denied> {
        if self.admin { Ok(()) } else { Err(Denied::NotAdmin) }
    }

    /// What is allowed in this database.
    ///
    /// # Errors
    /// [`Denied::OtherDatabase`] when nothing is.
    pub fn access(&self, database: &str) -> Result<Access, Denied> {
        match &self.scope {
            Scope::Every(access) => Some(*access),
            Scope::Named(named) => {
                named.iter().filter(|(name, _)| name == database).map(|(_, access)| *access).max()
            }
        }
        .ok_or(Denied::OtherDatabase)
    }

    /// The access to every database; `None` when the token is for named ones only.
    pub fn everywhere(&self) -> Option<Access> {
        match &self.scope {
            Scope::Every(access) => Some(*access),
            Scope::Named(_) => None,
        }
    }
}

/// Why a request is refused. What it displays may be sent to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// There is no token, and anonymous requests are not let in.
    #[error("this server needs a token: send `Authorization: Bearer TOKEN`")]
    Missing,
    /// The token is not one that this server accepts.
    #[error("the token is not valid here: {0}")]
    Invalid(InvalidToken),
    /// The token was valid once.
    #[error("the token has expired: get a new one")]
    Expired,
    /// The token will be valid later.
    #[error("the token is not valid yet: wait, or compare the clocks of its issuer and of this server")]
    NotYetValid,
    /// The token is good, for other databases.
    #[error("the token is not for this database")]
    OtherDatabase,
    /// The token allows reading only.
    #[error("the token is read-only: this request writes")]
    ReadOnly,
    /// The token does not allow administration.
    #[error(
        "the token is not one of an administrator: it needs the claim `\"admin\": true`, or the word admin"
    )]
    NotAdmin,
}

impl Denied {
    /// The HTTP status to answer with: 401 when another token is needed to be known at all, 403 when who asks is known
    /// and may not.
    pub fn status(self) -> u16 {
        match self {
            Denied::Missing | Denied::Invalid(_) | Denied::Expired | Denied::NotYetValid => 401,
            Denied::OtherDatabase | Denied::ReadOnly | Denied::NotAdmin => 403,
        }
    }
}

/// What is wrong with a token that is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// It is longer than any token that is looked at.
    #[error("it is too long")]
    TooLong,
    /// It is no token of this server's, nor a JWT.
    #[error("it is not known to this server")]
    Unknown,
    /// It has the shape of a JWT, but its parts cannot be read.
    #[error("it is no well-formed JWT")]
    Malformed,
    /// Its algorithm is none of `EdDSA`, RS256, RS384, RS512, ES256, ES384.
    #[error("its algorithm is not accepted (EdDSA, RS256, RS384, RS512, ES256, ES384 are)")]
    Algorithm,
    /// It demands that extensions (`crit`) be understood that are not.
    #[error("it demands an extension (`crit`) that this server does not know")]
    Extension,
    /// No key of this server made its signature.
    #[error("its signature is by no key of this server")]
    Signature,
    /// Its signature is right, but its claims are not ones that this server understands: refused, because a
    /// restriction that is not understood must not become a wider permission.
    #[error("its claims are not understood")]
    Claims,
    /// It names audiences (`aud`), and this server is none of them.
    #[error("it is for another audience")]
    Audience,
}

impl From<InvalidToken> for Denied {
    fn from(why: InvalidToken) -> Denied {
        Denied::Invalid(why)
    }
}
