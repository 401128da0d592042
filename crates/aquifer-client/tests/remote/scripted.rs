//! A server that answers what a test has written down, and keeps what it was asked.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// What to answer to a request's head (in small letters) and body: all bytes, from the status line on. Empty: nothing, for ever.
type Script = Box<dyn FnMut(&str, &[u8]) -> Vec<u8> + Send>;

pub(crate) struct Scripted {
    pub(crate) address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    task: AbortHandle,
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Scripted {
    pub(crate) async fn start(script: impl FnMut(&str, &[u8]) -> Vec<u8> + Send + 'static) -> Scripted {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let script: Arc<Mutex<Script>> = Arc::new(Mutex::new(Box::new(script)));
        let task = {
            let heads = Arc::clone(&heads);
            tokio::spawn(async move {
                while let Ok((socket, _)) = listener.accept().await {
                    tokio::spawn(converse(socket, Arc::clone(&heads), Arc::clone(&script)));
                }
            })
        };
        Scripted { address, heads, task: task.abort_handle() }
    }

    /// The heads of all requests up to now, in small letters.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

/// One request, one answer.
async fn converse(mut socket: TcpStream, heads: Arc<Mutex<Vec<String>>>, script: Arc<Mutex<Script>>) {
    let mut bytes = Vec::new();
    let begin = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if socket.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..begin]).to_ascii_lowercase();
    let len = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    while bytes.len() < begin + len.unwrap_or(0) {
        if socket.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let answer = (script.lock().unwrap())(&head, &bytes[begin..]);
    heads.lock().unwrap().push(head);
    if answer.is_empty() {
        std::future::pending::<()>().await;
    }
    let _ = socket.write_all(&answer).await;
}

/// An answer with this status line's end, these lines, and this body.
pub(crate) fn answer(status: &str, lines: &[&str], body: &[u8]) -> Vec<u8> {
    let lines: String = lines.iter().flat_map(|line| [line, "\r\n"]).collect();
    let head =
        format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n{lines}\r\n", body.len());
    [head.as_bytes(), body].concat()
}
