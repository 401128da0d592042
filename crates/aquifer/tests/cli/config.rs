//! `config check`, and what a wrong file says.

use crate::world::World;

const FLEET: &str = "\
store = \"/srv/store\"
[replicate]
interval = \"1s\"
retain = \"30d\"
[[database]]
path = \"app.db\"
";

#[test]
fn merged_settings_tell_where_each_came_from() {
    let world = World::new();
    std::fs::write(world.path("fleet.toml"), FLEET).unwrap();
    let args = ["config", "check", "--config", "fleet.toml", "--interval", "250ms", "--json"];
    let json = world.run(&args).ok().json();
    assert_eq!(json["store"]["value"], "/srv/store");
    assert_eq!(json["store"]["origin"], "file");
    let settings = json["replicate"].as_array().unwrap();
    let find = |key| settings.iter().find(|setting| setting["key"] == key).unwrap();
    assert_eq!(
        (&find("interval")["value"], &find("interval")["origin"]),
        (&"250ms".into(), &"command-line".into())
    );
    assert_eq!((&find("retain")["value"], &find("retain")["origin"]), (&"30d".into(), &"file".into()));
    let other = world.run_with(&args, &[("AQUIFER_STORE", "other")]).ok().json();
    assert_eq!(
        (&other["store"]["value"], &other["store"]["origin"]),
        (&"other".into(), &"environment".into())
    );
}

#[test]
fn each_database_is_told_with_its_own_settings_and_those_that_it_inherits() {
    let world = World::new();
    let own = "interval = \"9s\"\n[[database]]\npath = \"b.db\"\nname = \"b\"\n[[directory]]\npath = \"more\"\nfanout = 4\n";
    std::fs::write(world.path("fleet.toml"), format!("{FLEET}{own}")).unwrap();
    let args = ["config", "check", "--config", "fleet.toml", "--retain", "7d"];
    let json = world.run(&[&args[..], &["--json"]].concat()).ok().json();
    let setting = |of: &serde_json::Value, key: &str| {
        let found = of["settings"].as_array().unwrap().iter().find(|setting| setting["key"] == key).cloned();
        let found = found.unwrap_or_default();
        (found["value"].clone(), found["origin"].clone())
    };
    let (first, second) = (&json["databases"][0], &json["databases"][1]);
    assert_eq!((&first["path"], &second["name"]), (&"app.db".into(), &"b".into()));
    assert_eq!(setting(first, "interval"), ("9s".into(), "entry".into()));
    assert_eq!(setting(second, "interval"), ("1s".into(), "file".into()));
    assert_eq!(setting(first, "retain"), ("7d".into(), "command-line".into()));
    assert_eq!(setting(&json["directories"][0], "fanout"), (4.into(), "entry".into()));
    assert_eq!(setting(second, "fanout"), Default::default());
    let text = world.run(&args).ok().stdout;
    assert!(text.contains("  interval  9s") && text.contains("for it alone"), "{text}");
}

#[test]
fn databases_that_are_synced_are_told_with_what_is_said_of_each() {
    let world = World::new();
    std::fs::write(world.path("key"), "secret of the file").unwrap();
    let synced = "[[sync]]\npath = \"a.db\"\nremote = \"https://example.com/db/a\"\ntoken_file = \"key\"\n\
                  ignore_tables = [\"drafts\"]\n[[sync]]\npath = \"/b.db\"\nprotocol = \"libsql\"\n";
    std::fs::write(world.path("fleet.toml"), format!("{FLEET}{synced}")).unwrap();
    let args = ["config", "check", "--config", "fleet.toml"];
    let json = world.run(&[&args[..], &["--json"]].concat()).ok().json();
    let (first, second) = (&json["sync"][0], &json["sync"][1]);
    assert_eq!((&first["path"], &first["ignore_tables"][0]), (&"a.db".into(), &"drafts".into()));
    assert_eq!((&first["remote"], &first["protocol"]), (&"https://example.com/db/a".into(), &"auto".into()));
    assert_eq!((&second["path"], &second["remote"]), (&"/b.db".into(), &serde_json::Value::Null));
    let text = world.run(&args).ok().stdout;
    let lines: Vec<_> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    for (key, value) in [("sync", "a.db"), ("token_file", "key"), ("sync", "/b.db"), ("protocol", "libsql")] {
        assert!(lines.iter().any(|line| line[..2] == [key, value]), "{key} {value}: {text}");
    }
    assert!(!text.contains("secret of the file"));
    // What cannot be used is not printed, either.
    let wrong = synced.replace("https://", "https://me:hush@");
    std::fs::write(world.path("fleet.toml"), format!("{FLEET}{wrong}")).unwrap();
    let ran = world.run(&args);
    assert!(ran.code == 2 && ran.stderr.contains("a.db"), "{ran:?}");
    assert!(!ran.stderr.contains("hush") && !ran.stdout.contains("hush"), "{ran:?}");
}

#[test]
fn secrets_are_never_printed() {
    let world = World::new();
    let environment =
        [("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"), ("AWS_SECRET_ACCESS_KEY", "hush"), ("AWS_REGION", "eu-1")];
    for format in [&["config", "check"][..], &["config", "check", "--json"]] {
        let ran = world.run_with(format, &environment).ok();
        assert!(ran.stdout.contains("AWS_SECRET_ACCESS_KEY") && ran.stdout.contains("eu-1"), "{ran:?}");
        assert!(!ran.stdout.contains("hush") && !ran.stdout.contains("AKIDEXAMPLE"), "{ran:?}");
    }
}

#[test]
fn configuration_file_holds_for_every_command() {
    let world = World::new();
    let file = world.database("app.db", 1);
    world.ship("of the file", "app.db", &file, 1);
    std::fs::write(world.path("fleet.toml"), "store = \"of the file\"\n").unwrap();
    assert_eq!(world.run(&["ls", "--config", "fleet.toml"]).ok().stdout, "app.db\n");
    assert_eq!(world.run_with(&["ls"], &[("AQUIFER_CONFIG", "fleet.toml")]).ok().stdout, "app.db\n");
}

#[test]
fn wrong_file_is_a_usage_error_with_its_place() {
    let world = World::new();
    std::fs::write(world.path("fleet.toml"), FLEET.replace("retain", "retian")).unwrap();
    let ran = world.run(&["config", "check", "--config", "fleet.toml"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("fleet.toml:4:1: unknown key 'retian', did you mean 'retain'?"), "{ran:?}");
    let ran = world.run(&["ls", "--config", "none.toml"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("none.toml"), "{ran:?}");
}
