//! A server behind a proxy, and a script that talks to it.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use aquifer_testkit::proxy::{Proxy, ProxyFault};
use tokio::runtime::Runtime;

use crate::daemon::{eventually, request_with};
use crate::server::Server;
use crate::world::World;

/// What the server lets in; the scripts have it.
const TOKEN: &str = "token-of-the-clients";
/// A script that has not ended by then hangs. Clients that are compiled here are not optimised.
const PATIENCE: Duration = Duration::from_mins(5);

pub(crate) struct Stage {
    world: World,
    server: Option<Server>,
    /// The one that was asked before this one, and still runs.
    before: Option<Server>,
    /// How many servers there were, each with an empty disk.
    servers: usize,
    proxy: Option<Proxy>,
    runtime: Runtime,
}

impl Stage {
    pub(crate) fn new() -> Stage {
        let world = World::new();
        std::fs::write(world.path("tokens"), format!("{TOKEN} rw\n")).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut stage = Stage { world, server: None, before: None, servers: 0, proxy: None, runtime };
        stage.restart();
        stage
    }

    /// Kills the server and starts one on an empty disk.
    fn restart(&mut self) {
        (self.server, self.before) = (None, None);
        self.start();
    }

    /// Starts another one beside it, which has no database, and lets clients ask that one.
    fn beside(&mut self) {
        self.before = self.server.take();
        self.start();
    }

    fn start(&mut self) {
        self.servers += 1;
        let data = format!("data-{}", self.servers);
        let server = Server::start(&self.world, &data, &["--auth-tokens", "tokens", "--lease", "500ms"]);
        // The one before is waited for, as long as its lease lasts.
        let (body, head) = (r#"{"requests":[{"type":"close"}]}"#, format!("Authorization: Bearer {TOKEN}"));
        eventually("served", || {
            let answer = request_with(&server.address, "POST", "/db/shop/v2/pipeline", &head, body);
            answer.starts_with("HTTP/1.1 200")
        });
        let address = server.address.parse().unwrap();
        match &self.proxy {
            Some(proxy) => proxy.set_server(address),
            None => self.proxy = Some(self.runtime.block_on(Proxy::start(address))),
        }
        self.server = Some(server);
    }

    /// Runs a script to its end, which must be a good one.
    pub(crate) fn run(&mut self, script: &mut Command) {
        let address = self.proxy.as_ref().unwrap().address();
        script
            .env("AQUIFER_URL", format!("http://{address}"))
            .env("AQUIFER_TOKEN", TOKEN)
            .env("AQUIFER_PROGRAM", env!("CARGO_BIN_EXE_aquifer"))
            .current_dir(self.world.path(""))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let script = Script::start(script, &self.runtime);
        self.serve(script);
    }

    /// Does this to one of the requests to come for this path, after so many others.
    fn fault(&self, path: &str, mut skip: usize, fault: ProxyFault) {
        let (path, mut fault) = (path.to_owned(), Some(fault));
        self.proxy.as_ref().unwrap().set_faults(move |found, _| {
            if !found.ends_with(&path) {
                return None;
            }
            if skip > 0 {
                skip -= 1;
                return None;
            }
            fault.take()
        });
    }

    /// Does what the script asks for until it ends.
    fn serve(&mut self, mut script: Script) {
        let mut input = script.child.stdin.take().unwrap();
        let output = BufReader::new(script.child.stdout.take().unwrap());
        for line in output.lines() {
            let line = line.unwrap();
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["restart"] => self.restart(),
                ["beside"] => self.beside(),
                ["fault", path, skip, ref fault @ ..] => {
                    self.fault(path, skip.parse().unwrap(), parse_fault(fault));
                }
                _ => panic!("the script asks for {line:?}"),
            }
            // A script that has failed does not read its answers.
            let _ = writeln!(input, "done");
        }
        script.end();
    }
}

fn parse_fault(words: &[&str]) -> ProxyFault {
    match words {
        ["status", status] => ProxyFault::Status(status.parse().unwrap()),
        ["drop"] => ProxyFault::DropReply,
        ["cut"] => ProxyFault::CutReply,
        ["delay", ms] => ProxyFault::Delay(Duration::from_millis(ms.parse().unwrap())),
        other => panic!("the script asks for the fault {other:?}"),
    }
}

/// A running script, killed when dropped.
struct Script {
    child: Child,
    stderr: Option<std::thread::JoinHandle<String>>,
    watchdog: tokio::task::JoinHandle<()>,
}

impl Script {
    fn start(command: &mut Command, runtime: &Runtime) -> Script {
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let mut stderr = child.stderr.take().unwrap();
        // Read beside it: a script that says much must not wait for a full pipe.
        let stderr = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            text
        });
        let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
        let watchdog = runtime.spawn(async move {
            tokio::time::sleep(PATIENCE).await;
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::ABORT);
        });
        Script { child, stderr: Some(stderr), watchdog }
    }

    fn end(mut self) {
        let status = self.child.wait().unwrap();
        self.watchdog.abort();
        let stderr = self.stderr.take().unwrap().join().unwrap();
        assert!(status.success(), "{status}\n{stderr}");
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.watchdog.abort();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
