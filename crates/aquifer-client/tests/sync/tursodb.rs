//! The sync server that comes with Turso, as its users run it: `tursodb --sync-server`, which the npm package `turso` brings for each kind of machine.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::installed::Runtime;

/// Longer than it takes on a loaded machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running server, killed when dropped.
pub(crate) struct Tursodb {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Tursodb {
    /// Where its program is; `None`: it is not installed.
    pub(crate) fn program() -> Option<PathBuf> {
        Runtime::Node.program()?;
        let packages = Runtime::Node.folder().join("node_modules/@tursodatabase");
        let packages = std::fs::read_dir(packages).unwrap().map(|package| package.unwrap().path());
        let program = packages.map(|package| package.join("tursodb")).find(|program| program.exists());
        let is_made = cfg!(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"));
        assert!(program.is_some() || !is_made, "the package for this machine has no tursodb");
        program
    }

    /// Serves this file, which is made if it is not there.
    pub(crate) fn start(program: &Path, file: &Path) -> Tursodb {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let child = Command::new(program)
                .arg(file)
                .args(["--sync-server", &address.to_string()])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let mut server = Tursodb { child, address };
            while server.child.try_wait().unwrap().is_none() {
                if TcpStream::connect(address).is_ok() {
                    return server;
                }
                assert!(Instant::now() < deadline, "tursodb does not answer");
                std::thread::sleep(Duration::from_millis(2));
            }
            // Somebody else had the port by then.
            assert!(Instant::now() < deadline, "tursodb ends at once");
        }
    }
}

impl Tursodb {
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Tursodb {
    fn drop(&mut self) {
        self.kill();
    }
}
