//! `aquifer admin`: a real server, asked by a real client.

use serde_json::json;

use crate::daemon::Daemon;
use crate::server::Server;
use crate::world::{Ran, World};

fn server(world: &World, more: &[&str]) -> (Daemon, String) {
    let args = ["serve", "--listen", "127.0.0.1:0", "--store", "store", "--log-format", "json"];
    let mut daemon = Daemon::start(world, &[&args[..], more].concat());
    let address = daemon.address_in_log("serving databases");
    (daemon, format!("http://{address}"))
}

#[test]
fn a_servers_databases_are_administered_from_the_command_line() {
    let world = World::new();
    std::fs::write(world.path("tokens"), "token-to-administer admin\ntoken-to-write-0 rw\n").unwrap();
    std::fs::write(world.path("token"), "token-to-administer\n").unwrap();
    let (_server, url) = server(&world, &["--auth-tokens", "tokens", "--create", "admin"]);
    let admin = |args: &[&str]| -> Ran {
        world.run(&[&["admin", "--server", &url, "--token-file", "token", "--json"], args].concat())
    };
    let created = admin(&["create", "team/shop"]).ok().json();
    assert_eq!(created["name"], "team/shop");
    assert_eq!(admin(&["create", "team/shop"]).code, 8);
    world.database("app.db", 3);
    admin(&["import", "app.db", "app"]).ok();
    let stats = admin(&["stats", "app"]).ok().json();
    assert_eq!(stats["page_size"], 4096, "{stats}");
    admin(&["snapshot", "app"]).ok();
    admin(&["fork", "app", "copy", "--timestamp", "now"]).ok();
    admin(&["freeze", "copy"]).ok();
    assert!(admin(&["stats", "copy"]).ok().json()["frozen"].is_string());
    admin(&["unfreeze", "copy"]).ok();
    admin(&["restore", "copy", "--txid", "1", "--yes"]).ok();
    assert_eq!(admin(&["delete", "copy"]).code, 8, "nobody can be asked");
    admin(&["delete", "copy", "--yes"]).ok();
    let listed = admin(&["list"]).ok().json();
    let names: Vec<_> =
        listed["databases"].as_array().unwrap().iter().map(|d| (&d["name"], &d["deleted"])).collect();
    let expected =
        [(json!("app"), json!(false)), (json!("copy"), json!(true)), (json!("team/shop"), json!(false))];
    assert_eq!(names, expected.iter().map(|(a, b)| (a, b)).collect::<Vec<_>>());
    admin(&["undelete", "copy"]).ok();
    admin(&["delete", "copy", "--grace", "0s", "--yes"]).ok();
    assert_eq!(admin(&["stats", "copy"]).code, 3);
    world.run(&["verify", "app", "--deep", "--store", "store"]).ok();

    let refused =
        world.run_with(&["admin", "--server", &url, "list"], &[("AQUIFER_TOKEN", "token-to-write-0")]);
    assert_eq!(refused.code, 7, "{refused:?}");
    assert!(
        refused.stderr.contains("administrator") && !refused.stderr.contains("token-to-write-0"),
        "{refused:?}"
    );
    let text =
        world.run_with(&["admin", "--server", &url, "list"], &[("AQUIFER_TOKEN", "token-to-administer")]);
    assert_eq!(text.ok().stdout, "app\nteam/shop\n");
}

#[test]
fn a_server_that_is_not_there_is_told_by_its_address() {
    let world = World::new();
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = world.run(&["admin", "--server", &format!("http://{free}"), "list"]);
    assert_eq!(nobody.code, 6, "{nobody:?}");
    assert!(nobody.stderr.contains(&free.to_string()), "{nobody:?}");
}

#[test]
fn where_clients_are_sent_elsewhere_administrators_are_told_which_server_to_ask() {
    let world = World::new();
    let a = Server::start(&world, "a", &[]);
    let b = Server::start(&world, "b", &["--redirect"]);
    a.rows("CREATE TABLE t(k)");
    let ask = |server: &str| world.run(&["admin", "--server", server, "freeze", "shop"]);
    let refused = ask(&format!("http://{}", b.address));
    assert_eq!(refused.code, 1, "{refused:?}");
    let other = format!("http://{}", a.address);
    assert!(refused.stderr.contains(&format!("--server {other}")), "{refused:?}");
    ask(&other).ok();
}
