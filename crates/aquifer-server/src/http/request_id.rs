//! What a request is called in the log and in its answer.

use std::fmt;

use axum::http::{HeaderMap, HeaderValue};

/// The header that brings a request's id, and takes it back.
pub const REQUEST_ID_HEADER: &str = "x-request-id";

/// Longest id that is taken from a client, in bytes.
const MAX_LEN: usize = 128;

/// A request's id: the client's own where it is fit for a log line, else a random one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RequestId(HeaderValue);

impl RequestId {
    pub(super) fn of(headers: &HeaderMap) -> RequestId {
        let theirs = headers.get(REQUEST_ID_HEADER).filter(|value| is_fit(value.as_bytes()));
        theirs.cloned().map_or_else(RequestId::random, RequestId)
    }

    fn random() -> RequestId {
        let mut bytes = [0; 16];
        // Without randomness two requests may share an id, which confuses whoever reads the log and nobody else.
        let _ = getrandom::fill(&mut bytes);
        let digits = format!("{:032x}", u128::from_be_bytes(bytes));
        RequestId(HeaderValue::try_from(digits).expect("hexadecimal digits are a header's value"))
    }

    pub(super) fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_str().unwrap_or_default())
    }
}

fn is_fit(id: &[u8]) -> bool {
    (1..=MAX_LEN).contains(&id.len())
        && id.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.:/+=".contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(id: &[u8]) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID_HEADER, HeaderValue::from_bytes(id).unwrap());
        RequestId::of(&headers).to_string()
    }

    #[test]
    fn a_clients_id_is_kept_unless_it_could_fake_a_log_line() {
        assert_eq!(of(b"0af7651916cd43dd-8448"), "0af7651916cd43dd-8448");
        for bad in [&b"a b"[..], b"a\"b", b"{}", "ä".as_bytes(), &[b'x'; MAX_LEN + 1], b""] {
            assert_eq!(of(bad).len(), 32, "{bad:?}");
        }
        assert_ne!(of(b""), of(b""));
    }
}
