//! One store and one database, round after round.

use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use aquifer_testkit::app::{AppOptions, AppProcess, Language, Mix, check_log};
use aquifer_testkit::workload::Rng;

use crate::stage::{Stage, StoreKind, kill, kill_app, kills, run, terminate};

/// Longer than a standby takes to catch up on a loaded machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// Says which life it was that failed, and how to repeat it.
pub(crate) struct Epitaph {
    pub(crate) seed: u64,
    pub(crate) rounds: u64,
    pub(crate) round: u64,
    pub(crate) what: &'static str,
}

impl Drop for Epitaph {
    fn drop(&mut self) {
        if thread::panicking() {
            let Epitaph { seed, rounds, round, what } = self;
            eprintln!(
                "failed with seed {seed} in round {round} ({what}); repeat with: cargo xtask torture --seed {seed} \
                 --rounds {rounds}"
            );
        }
    }
}

/// What happens in a round, while the application writes and the daemon ships.
const EVENTS: [&str; 9] = [
    "the daemon dies under load, and another takes over",
    "the application dies",
    "a restore dies",
    "a restore of the newest",
    "nothing",
    "the standby dies",
    "the standby is read",
    "compact, snapshot, copy or verify die",
    "the machine is lost",
];

pub(crate) fn live(kind: StoreKind, seed: u64, rounds: u64) {
    let mut rng = Rng::new(seed);
    let mut stage = Stage::new(kind, seed);
    let mut epitaph = Epitaph { seed, rounds, round: 0, what: "at the start" };
    let mut committed = 0;
    for round in 0..rounds {
        let event = rng.below(EVENTS.len() as u64) as usize;
        (epitaph.round, epitaph.what) = (round, EVENTS[event]);
        let before = kills();
        committed = play(&mut stage, &mut rng, seed * 1000 + round, event, committed);
        eprintln!("seed {seed}, round {round}: {}, {} killed", EVENTS[event], kills() - before);
    }
    epitaph.what = "at the end";
    end(&mut stage, &mut rng, committed);
}

/// One round. Returns the last transaction that the database has after it.
fn play(stage: &mut Stage, rng: &mut Rng, seed: u64, event: usize, committed: u64) -> u64 {
    let options = AppOptions { seed, mix: Mix::Hostile, ..AppOptions::default() };
    let language = if rng.one_in(4) { Language::Python } else { Language::Rust };
    let mut app = AppProcess::start(language, &stage.database, &options).unwrap();
    let mut daemon = stage.daemon();
    app.run().unwrap();
    pause(rng);
    let has_replica = stage.restored > 0;
    if has_replica {
        stage.follow();
    }
    let mut is_lost = false;
    let acknowledged = match event {
        0 => {
            kill(daemon);
            pause(rng);
            daemon = stage.daemon();
            pause(rng);
            kill_app(app)
        }
        1 => {
            let acknowledged = kill_app(app);
            pause(rng);
            acknowledged
        }
        2 => {
            // Its target is untouched or whole.
            let to = stage.path("killed.db");
            kill_soon(rng, stage.restore_to(&to).spawn().unwrap());
            if to.exists() {
                check_log(&to).unwrap();
            }
            kill_app(app)
        }
        3 if has_replica => {
            let n = stage.restore();
            let acknowledged = app.stop().unwrap();
            assert!(n <= acknowledged, "restored {n} of {acknowledged}");
            acknowledged
        }
        5 if has_replica => {
            pause(rng);
            stage.kill_standby();
            stage.check_standby();
            app.stop().unwrap()
        }
        6 if has_replica => {
            let n = stage.check_standby();
            let acknowledged = app.stop().unwrap();
            assert!(n <= acknowledged, "the standby has {n} of {acknowledged}");
            acknowledged
        }
        7 => {
            let copy = stage.path("copy").display().to_string();
            let commands = [
                &["compact", "app.db", "--fanout", "4"][..],
                &["snapshot", "app.db"],
                &["verify", "app.db", "--deep"],
                &["copy", "app.db", &copy],
            ];
            let command = rng.pick(&commands);
            kill_soon(rng, stage.aquifer(command).spawn().unwrap());
            app.stop().unwrap()
        }
        8 if has_replica => {
            is_lost = true;
            kill_app(app)
        }
        _ => app.stop().unwrap(),
    };
    assert!(acknowledged >= committed, "{acknowledged} after {committed}");
    if is_lost {
        kill(daemon);
        return stage.lose_machine();
    }
    if rng.one_in(2) {
        kill(daemon);
    } else if terminate(daemon) {
        let durable = stage.restore();
        assert!(durable >= acknowledged, "{durable} durable of {acknowledged} acknowledged");
    }
    let n = check_log(&stage.database).unwrap();
    assert!(n >= acknowledged, "the database itself lost {acknowledged}, it has {n}");
    n
}

/// All is shipped, the standby catches up, and all that the store says it can restore is restored.
fn end(stage: &mut Stage, rng: &mut Rng, committed: u64) {
    run(stage.aquifer(&["replicate", "--once"]).arg(&stage.database));
    assert_eq!(stage.restore(), committed);
    stage.follow();
    let deadline = Instant::now() + PATIENCE;
    while stage.check_standby() < committed {
        assert!(Instant::now() < deadline, "the standby does not catch up with {committed}");
        thread::sleep(Duration::from_millis(20));
    }
    run(&mut stage.aquifer(&["verify", "app.db", "--deep"]));
    run(stage.aquifer(&["copy", "app.db"]).arg(stage.path("copy")));

    let info =
        stage.aquifer(&["info", "app.db", "--json"]).stdout(std::process::Stdio::piped()).output().unwrap();
    let info: serde_json::Value = serde_json::from_slice(&info.stdout).unwrap();
    let (oldest, newest) = (&info["survey"]["oldest"], &info["survey"]["newest"]);
    let (oldest, newest) = (oldest.as_u64().unwrap(), newest.as_u64().unwrap());
    let mut txids: Vec<u64> = (0..5).map(|_| rng.range(oldest, newest)).chain([oldest, newest]).collect();
    txids.sort_unstable();
    let mut before = 0;
    for txid in txids {
        let to = stage.path("then.db");
        run(stage.restore_to(&to).args(["--txid", &txid.to_string()]));
        let n = check_log(&to).unwrap();
        assert!(n >= before, "txid {txid} has {n} after {before}");
        before = n;
    }
    assert_eq!(before, committed);
}

/// The moment of the next blow: nothing waits for anything here.
pub(crate) fn pause(rng: &mut Rng) {
    thread::sleep(Duration::from_millis(rng.range(5, 300)));
}

fn kill_soon(rng: &mut Rng, child: Child) {
    thread::sleep(Duration::from_millis(rng.range(1, 80)));
    kill(child);
}
