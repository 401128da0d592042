//! A running `replicate`, as tests see it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStderr, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::world::{Ran, World};

/// Longer than anything here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// A running `replicate`, killed when dropped.
pub(crate) struct Daemon {
    pub(crate) child: Child,
    pub(crate) stdout: BufReader<ChildStdout>,
    log: BufReader<ChildStderr>,
}

impl Daemon {
    pub(crate) fn start(world: &World, args: &[&str]) -> Daemon {
        Daemon::start_with(world, args, &[])
    }

    pub(crate) fn start_with(world: &World, args: &[&str], environment: &[(&str, &str)]) -> Daemon {
        let mut command = world.command(args);
        command.envs(environment.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let log = BufReader::new(child.stderr.take().unwrap());
        Daemon { child, stdout, log }
    }

    /// The next line of its log in which this is.
    pub(crate) fn wait_for_log(&mut self, what: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(self.log.read_line(&mut line).unwrap() > 0, "it ended without: {what}");
            if line.contains(what) {
                return line;
            }
        }
    }

    /// Where it serves metrics; its log must be in JSON.
    pub(crate) fn address(&mut self) -> String {
        self.address_in_log("/healthz")
    }

    /// The address in the next line of its log, which must be in JSON, in which this is.
    pub(crate) fn address_in_log(&mut self, what: &str) -> String {
        let event: Value = serde_json::from_str(&self.wait_for_log(what)).unwrap();
        event["fields"]["address"].as_str().unwrap().to_owned()
    }

    /// The next event of `--json` that is about this.
    pub(crate) fn wait_for(&mut self, name: &str, state: &str) -> Value {
        loop {
            let mut line = String::new();
            assert!(self.stdout.read_line(&mut line).unwrap() > 0, "it ended: {:?}", self.rest());
            let event: Value = serde_json::from_str(&line).unwrap();
            if event["name"] == name && event["state"] == state {
                return event;
            }
        }
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.child.id().cast_signed()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    fn rest(&mut self) -> String {
        let mut stderr = String::new();
        self.log.read_to_string(&mut stderr).unwrap();
        stderr
    }

    pub(crate) fn end(self) -> Ran {
        self.end_by(rustix::process::Signal::TERM)
    }

    pub(crate) fn end_by(mut self, signal: rustix::process::Signal) -> Ran {
        self.signal(signal);
        let (mut stdout, stderr) = (String::new(), self.rest());
        self.stdout.read_to_string(&mut stdout).unwrap();
        Ran { code: self.child.wait().unwrap().code().unwrap_or(-1), stdout, stderr }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Repeats until it holds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Asks a daemon for a page.
pub(crate) fn get(address: &str, page: &str) -> String {
    request(address, "GET", page, "")
}

/// The whole answer to a request, its head included.
pub(crate) fn request(address: &str, method: &str, path: &str, body: &str) -> String {
    request_with(address, method, path, "Accept: */*", body)
}

/// The same, with more in its head, which ends without the end of its last line.
pub(crate) fn request_with(address: &str, method: &str, path: &str, head: &str, body: &str) -> String {
    let mut connection = TcpStream::connect(address).unwrap();
    let len = body.len();
    write!(
        connection,
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}\r\nContent-Length: {len}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer
}

/// The value of a metric of a database.
pub(crate) fn metric(address: &str, name: &str, database: &str) -> f64 {
    let metrics = get(address, "/metrics");
    let start = format!("{name}{{database=\"{database}\"}} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&start));
    value.unwrap_or_else(|| panic!("no {name} of {database}: {metrics}")).parse().unwrap()
}
