//! The messages of a socket, as JSON.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::hrana::request::{Batch, Stmt};
use crate::hrana::response::WireError;

/// What a client sends.
#[derive(Debug)]
pub(super) enum ClientMessage<'a> {
    /// Who it is; also again later, with another token.
    Hello { token: Option<String> },
    /// Something to do.
    Request { id: i32, request: &'a RawValue },
}

#[derive(Deserialize)]
struct Flat<'a> {
    r#type: Kind,
    #[serde(default)]
    jwt: Option<String>,
    #[serde(default)]
    request_id: Option<i32>,
    #[serde(default, borrow)]
    request: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Hello,
    Request,
}

/// Why a message cannot even be answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum Malformed {
    #[error("not a message of Hrana: {0}")]
    Json(#[from] serde_json::Error),
    #[error("a request needs a request_id and a request")]
    Incomplete,
}

impl ClientMessage<'_> {
    pub(super) fn parse(text: &str) -> Result<ClientMessage<'_>, Malformed> {
        let Flat { r#type, jwt, request_id, request } = serde_json::from_str(text)?;
        match (r#type, request_id, request) {
            (Kind::Hello, ..) => Ok(ClientMessage::Hello { token: jwt }),
            (Kind::Request, Some(id), Some(request)) => Ok(ClientMessage::Request { id, request }),
            _ => Err(Malformed::Incomplete),
        }
    }
}

/// What a request asks for. The ids are the client's choice.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum SocketRequest {
    OpenStream { stream_id: i32 },
    CloseStream { stream_id: i32 },
    OpenCursor { stream_id: i32, cursor_id: i32, batch: Batch },
    FetchCursor { cursor_id: i32, max_count: u32 },
    CloseCursor { cursor_id: i32 },
    StoreSql { sql_id: i32, sql: String },
    CloseSql { sql_id: i32 },
    Execute { stream_id: i32, stmt: Stmt },
    Batch { stream_id: i32, batch: Batch },
    Sequence { stream_id: i32, sql: Option<String>, sql_id: Option<i32> },
    Describe { stream_id: i32, sql: Option<String>, sql_id: Option<i32> },
    GetAutocommit { stream_id: i32 },
}

/// The answer to `hello`.
pub(super) fn hello(error: Option<&WireError>) -> String {
    match error {
        None => r#"{"type":"hello_ok"}"#.to_owned(),
        Some(error) => format!(r#"{{"type":"hello_error","error":{}}}"#, json(error)),
    }
}

/// The answer to a request that tells no more than that it was done.
pub(super) fn done(id: i32, kind: &str) -> String {
    ok(id, &format!(r#"{{"type":"{kind}"}}"#))
}

/// The answer to a request, or why there is none.
pub(super) fn answer(id: i32, result: &Result<impl Serialize, WireError>) -> String {
    match result {
        Ok(response) => ok(id, &json(response)),
        Err(error) => failed(id, error),
    }
}

/// The answer to a request that failed.
pub(super) fn failed(id: i32, error: &WireError) -> String {
    format!(r#"{{"type":"response_error","request_id":{id},"error":{}}}"#, json(error))
}

/// Entries of a cursor; each of `lines` is JSON.
pub(super) fn entries(id: i32, lines: &[String], done: bool) -> String {
    let entries = lines.join(",");
    ok(id, &format!(r#"{{"type":"fetch_cursor","entries":[{entries}],"done":{done}}}"#))
}

fn ok(id: i32, response: &str) -> String {
    format!(r#"{{"type":"response_ok","request_id":{id},"response":{response}}}"#)
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("an answer has only what JSON can carry")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_message_is_told_from_what_is_no_request() {
        assert!(matches!(
            ClientMessage::parse(r#"{"type":"hello","jwt":null,"more":1}"#),
            Ok(ClientMessage::Hello { token: None })
        ));
        for text in [
            "",
            "[]",
            r#"{"type":"hallo"}"#,
            r#"{"type":"request","request":{}}"#,
            r#"{"type":"request","request_id":2147483648,"request":{}}"#,
            r#"{"type":"request","request_id":1e3,"request":{}}"#,
        ] {
            assert!(ClientMessage::parse(text).is_err(), "{text}");
        }
        let text = r#"{"type":"request","request_id":-2147483648,"request":{"type":"dance"}}"#;
        let Ok(ClientMessage::Request { id: i32::MIN, request }) = ClientMessage::parse(text) else {
            panic!("{text}")
        };
        assert!(serde_json::from_str::<SocketRequest>(request.get()).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*|\\{\"type\":\"request\",[\"a-z_:,0-9\\{\\}]*") {
            if let Ok(ClientMessage::Request { request, .. }) = ClientMessage::parse(&text) {
                let _ = serde_json::from_str::<SocketRequest>(request.get());
            }
        }
    }
}
