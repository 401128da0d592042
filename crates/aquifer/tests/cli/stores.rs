//! The whole way over S3's protocol, on a store that keeps its promises and on one that does not.

use aquifer_testkit::app::check_log;
use aquifer_testkit::s3_server::{Conditions, S3Server};

use crate::world::World;

#[test]
fn databases_go_to_s3_and_come_back() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    for (conditions, warned) in [(Conditions::Honoured, false), (Conditions::Ignored, true)] {
        let world = World::new();
        world.database("app.db", 12);
        let server = runtime.block_on(S3Server::start(conditions));
        let mut environment = server.environment();
        environment.push(("AQUIFER_STORE".into(), server.url("fleet")));
        let environment: Vec<_> = environment.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let run = |args: &[&str]| world.run_with(args, &environment).ok();
        let ran = run(&["replicate", "--once", "app.db"]);
        assert_eq!(ran.stderr.contains("does not keep two writers"), warned, "{ran:?}");
        let info = run(&["info", "app.db", "--json"]).json();
        assert_eq!(info["fencing"]["fenced"], !warned);
        assert_eq!(run(&["info", "app.db"]).stdout.contains("NONE: the store does not keep"), warned);
        run(&["verify", "app.db", "--deep"]);
        run(&["snapshot", "app.db"]);
        run(&["restore", "app.db", "-o", "copy.db"]);
        assert_eq!(check_log(&world.path("copy.db")).unwrap(), 12);
        run(&["copy", "app.db", "a directory"]);
        run(&["rm", "app.db", "--yes"]);
        assert_eq!(server.keys(), ["fleet/.aquifer/fencing.json"]);
        world.run(&["copy", "app.db", "--store", "a directory", "back"]).ok();
        world.run(&["restore", "app.db", "--store", "back", "-o", "again.db"]).ok();
        assert_eq!(check_log(&world.path("again.db")).unwrap(), 12);
    }
}
