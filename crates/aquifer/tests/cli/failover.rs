//! Two real servers on one store, of which one stands still for a while.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, WaitOptions, waitpid};
use serde_json::Value;

use crate::daemon::eventually;
use crate::server::{Server, execute};
use crate::world::World;

/// What all clients together were told.
#[derive(Default)]
struct Told {
    acknowledged: Mutex<BTreeSet<i64>>,
    /// Rows that somebody has read.
    seen: Mutex<BTreeSet<i64>>,
    stop: AtomicBool,
}

impl Told {
    /// Reads all rows through a server, which must know what was acknowledged before.
    fn read(&self, address: &str) {
        let before = locked(&self.acknowledged).clone();
        if let Some(read) = column(&execute(address, "shop", "SELECT k FROM t")) {
            let unknown: Vec<_> = before.difference(&read).collect();
            assert!(unknown.is_empty(), "{address} does not know {unknown:?}");
            locked(&self.seen).extend(&read);
        }
    }
}

/// A client that keeps talking to one server: writes a row, reads all of them.
struct Client {
    told: Arc<Told>,
    /// Rows that this one had acknowledged.
    own: Arc<Mutex<BTreeSet<i64>>>,
    thread: JoinHandle<()>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The first column, if the statement was answered.
fn column(answer: &Value) -> Option<BTreeSet<i64>> {
    let rows = answer["results"][0]["response"]["result"]["rows"].as_array()?;
    Some(rows.iter().map(|row| row[0]["value"].as_str().unwrap().parse().unwrap()).collect())
}

impl Client {
    fn start(server: &Server, first: i64, told: &Arc<Told>) -> Client {
        let (address, told) = (server.address.clone(), Arc::clone(told));
        let own = Arc::new(Mutex::new(BTreeSet::new()));
        let thread = std::thread::spawn({
            let (told, own) = (Arc::clone(&told), Arc::clone(&own));
            move || {
                for k in first.. {
                    if told.stop.load(Ordering::Acquire) {
                        return;
                    }
                    if column(&execute(&address, "shop", &format!("INSERT INTO t VALUES({k})"))).is_some() {
                        locked(&told.acknowledged).insert(k);
                        locked(&own).insert(k);
                    }
                    told.read(&address);
                }
            }
        });
        Client { told, own, thread }
    }

    /// Waits until so many more of its rows are acknowledged.
    fn wait_for(&self, more: usize) {
        let before = locked(&self.own).len();
        eventually("acknowledged", || {
            assert!(!self.thread.is_finished() || self.told.stop.load(Ordering::Acquire), "a client failed");
            std::thread::sleep(std::time::Duration::from_millis(5));
            locked(&self.own).len() >= before + more
        });
    }
}

/// Stops a server, and waits until each of its threads stands still.
fn stop(server: &Server) {
    server.daemon.signal(Signal::STOP);
    let pid = Pid::from_raw(server.daemon.child.id().cast_signed());
    let (_, status) = waitpid(pid, WaitOptions::UNTRACED).unwrap().unwrap();
    assert!(status.stopped(), "{status:?}");
}

#[test]
fn a_server_that_stood_still_during_a_takeover_fences_itself_and_forgets_what_it_did_not_acknowledge() {
    let world = World::new();
    let lease = ["--lease", "600ms"];
    let (a, b) = (Server::start(&world, "a", &lease), Server::start(&world, "b", &lease));
    a.rows("CREATE TABLE t(k INTEGER PRIMARY KEY)");
    let told = Arc::new(Told::default());
    let (by_a, by_b) = (Client::start(&a, 1_000_000, &told), Client::start(&b, 2_000_000, &told));
    by_a.wait_for(10);
    by_b.wait_for(10);
    stop(&a);
    // What its last breath committed, and never shipped.
    let file = rusqlite::Connection::open(world.path("a/shop/db.sqlite")).unwrap();
    file.execute_batch("PRAGMA wal_autocheckpoint=0").unwrap();
    let lost = file.execute("INSERT INTO t VALUES(-1)", []);
    by_b.wait_for(10);
    // The first that it is asked when it goes on, beside what it was asked before.
    let readers: Vec<_> = std::iter::repeat_with(|| {
        let (told, address) = (Arc::clone(&told), a.address.clone());
        std::thread::spawn(move || told.read(&address))
    })
    .take(4)
    .collect();
    a.daemon.signal(Signal::CONT);
    for reader in readers {
        reader.join().unwrap();
    }
    by_a.wait_for(10);
    by_b.wait_for(10);
    told.stop.store(true, Ordering::Release);
    by_a.thread.join().unwrap();
    by_b.thread.join().unwrap();
    drop(file);
    assert_eq!(a.daemon.end_by(Signal::TERM).code, 0);
    assert_eq!(b.daemon.end_by(Signal::TERM).code, 0);

    let witness = Server::start(&world, "c", &[]);
    let found = column(&witness.execute("shop", "SELECT k FROM t")).expect("it was given back");
    let (acknowledged, seen) = (locked(&told.acknowledged), locked(&told.seen));
    let gone: Vec<_> = acknowledged.difference(&found).collect();
    assert!(gone.is_empty(), "acknowledged and gone: {gone:?}");
    let revealed: Vec<_> = seen.difference(&found).collect();
    assert!(revealed.is_empty(), "read by somebody, and gone: {revealed:?}");
    // Where the stopped server held the write lock, nothing could be committed in its name.
    assert!(lost.is_err() || !found.contains(&-1));
    world.run(&["verify", "shop", "--deep", "--store", "store"]).ok();
}
