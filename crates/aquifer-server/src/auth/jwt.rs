//! JSON Web Tokens: three base64url parts, of which the third signs the first two (RFC 7515, 7519).
//!
//! The algorithm that the token's header claims only ever narrows down the keys: each key belongs to one family of
//! algorithms, whatever a token says, so that neither `none` nor a public key taken for an HMAC secret gets anywhere.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::claims::Claims;
use super::grant::InvalidToken;
use super::keys::{Algorithm, VerifyingKey};

/// Longest token that is looked at, in bytes: clients send them in a header.
const MAX_LEN: usize = 16 * 1024;

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<serde_json::Value>,
}

/// The claims of a token whose signature one of the keys made. Says nothing about expiry.
pub(super) fn verify<'k>(
    token: &str,
    keys: impl Iterator<Item = &'k VerifyingKey>,
) -> Result<Claims, InvalidToken> {
    if token.len() > MAX_LEN {
        return Err(InvalidToken::TooLong);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(InvalidToken::Unknown)?;
    let (header, claims) = signed.split_once('.').ok_or(InvalidToken::Unknown)?;
    if claims.contains('.') {
        return Err(InvalidToken::Malformed);
    }
    let header: Header = json(header).ok_or(InvalidToken::Malformed)?;
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| InvalidToken::Malformed)?;
    let algorithm = Algorithm::of_jwt(&header.alg).ok_or(InvalidToken::Algorithm)?;
    if header.crit.is_some() {
        return Err(InvalidToken::Extension);
    }
    let mut fitting = keys.filter(|key| key.fits(algorithm, header.kid.as_deref()));
    if !fitting.any(|key| key.verifies(algorithm, signed.as_bytes(), &signature)) {
        return Err(InvalidToken::Signature);
    }
    // Parsed after the signature is known to be right: what is wrong from here on is the issuer's.
    json(claims).ok_or(InvalidToken::Claims)
}

fn json<T: serde::de::DeserializeOwned>(part: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}
