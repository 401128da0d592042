//! What is different on a terminal: questions.

use std::process::Command;

use crate::world::World;

/// Runs the program on a pseudo-terminal, types a line when it asks, and returns its code.
const ON_TERMINAL: &str = "
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[2], sys.argv[2:])
said = b''
while b'[y/N]' not in said:
    said += os.read(terminal, 1024)
os.write(terminal, sys.argv[1].encode() + b'\\n')
while True:
    try:
        if not os.read(terminal, 1024):
            break
    except OSError:
        break
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
";

fn answer(world: &World, answer: &str, args: &[&str]) -> i32 {
    let status = Command::new("python3")
        .args(["-c", ON_TERMINAL, answer, env!("CARGO_BIN_EXE_aquifer")])
        .args(args)
        .current_dir(world.path("."))
        .env_remove("AQUIFER_STORE")
        .status();
    status.unwrap().code().unwrap()
}

#[test]
fn rm_asks_and_takes_only_a_yes() {
    let world = World::new();
    let file = world.database("app.db", 1);
    world.ship("aquifer-data", "app.db", &file, 1);
    for no in ["", "n", "what?", "yes please"] {
        assert_eq!(answer(&world, no, &["rm", "app.db"]), 1, "{no}");
        assert_eq!(world.run(&["ls"]).ok().stdout, "app.db\n");
    }
    assert_eq!(answer(&world, "Y", &["rm", "app.db"]), 0);
    assert_eq!(world.run(&["ls"]).ok().stdout, "");
}
