//! A lean HTTP/1.1 client, so that it is the server that is measured.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

const BUFFER: usize = 256 << 10;

/// One connection, kept alive for as long as the server keeps it.
pub(super) struct Client {
    address: SocketAddr,
    connection: Option<BufReader<TcpStream>>,
}

/// How an answer's body ends.
enum Length {
    Known(u64),
    Chunked,
}

impl Client {
    pub(super) fn new(address: SocketAddr) -> Client {
        Client { address, connection: None }
    }

    pub(super) fn get(&mut self, path: &str) -> io::Result<Vec<u8>> {
        self.whole("GET", path, &[])
    }

    pub(super) fn post(&mut self, path: &str, body: &[u8]) -> io::Result<Vec<u8>> {
        self.whole("POST", path, body)
    }

    fn whole(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<Vec<u8>> {
        let mut answer = Vec::new();
        self.receive(method, path, body, |part| answer.extend_from_slice(part))?;
        Ok(answer)
    }

    /// Sends a request and gives the answer's body to `take`, part by part. A status other than 200 is an error.
    pub(super) fn receive(
        &mut self,
        method: &str,
        path: &str,
        body: &[u8],
        mut take: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        let mut connection = if let Some(connection) = self.connection.take() {
            connection
        } else {
            let stream = TcpStream::connect(self.address)?;
            stream.set_nodelay(true)?;
            BufReader::with_capacity(BUFFER, stream)
        };
        let mut request = request_head(method, path, body.len()).into_bytes();
        request.extend_from_slice(body);
        connection.get_mut().write_all(&request)?;
        let head = read_head(&mut connection)?;
        let mut failed = Vec::new();
        let mut give =
            |part: &[u8]| if head.status == 200 { take(part) } else { failed.extend_from_slice(part) };
        match head.length {
            Length::Known(length) => take_exactly(&mut connection, length, &mut give)?,
            Length::Chunked => take_chunks(&mut connection, &mut give)?,
        }
        if !head.closes {
            self.connection = Some(connection);
        }
        if head.status == 200 {
            Ok(())
        } else {
            let said = String::from_utf8_lossy(&failed).into_owned();
            Err(io::Error::other(format!("{method} {path}: {}: {said}", head.status)))
        }
    }
}

/// What comes before the body of a request.
pub(super) fn request_head(method: &str, path: &str, length: usize) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n")
}

struct Head {
    status: u16,
    length: Length,
    closes: bool,
}

fn read_head(from: &mut impl BufRead) -> io::Result<Head> {
    let status = line(from)?;
    let status = status.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(|| bad(&status))?;
    let mut head = Head { status, length: Length::Known(0), closes: false };
    loop {
        let field = line(from)?;
        if field.is_empty() {
            return Ok(head);
        }
        let Some((name, value)) = field.split_once(':') else { return Err(bad(&field)) };
        match (name.to_ascii_lowercase().as_str(), value.trim()) {
            ("content-length", value) => {
                head.length = Length::Known(value.parse().map_err(|_| bad(&field))?);
            }
            ("transfer-encoding", "chunked") => head.length = Length::Chunked,
            ("connection", "close") => head.closes = true,
            _ => {}
        }
    }
}

fn line(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    line.truncate(line.trim_end().len());
    Ok(line)
}

fn take_exactly(from: &mut impl BufRead, length: u64, take: &mut impl FnMut(&[u8])) -> io::Result<()> {
    let mut from = from.take(length);
    let mut left = length;
    while left > 0 {
        let part = from.fill_buf()?;
        if part.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let count = part.len();
        take(part);
        from.consume(count);
        left -= count as u64;
    }
    Ok(())
}

fn take_chunks(from: &mut impl BufRead, take: &mut impl FnMut(&[u8])) -> io::Result<()> {
    loop {
        let size = line(from)?;
        let length = u64::from_str_radix(&size, 16).map_err(|_| bad(&size))?;
        take_exactly(from, length, take)?;
        line(from)?;
        if length == 0 {
            return Ok(());
        }
    }
}

fn bad(line: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("'{line}' is none of HTTP's lines that are known here"),
    )
}
