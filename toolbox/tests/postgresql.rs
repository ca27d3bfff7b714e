//! The history in PostgreSQL: asked about, purged, taken over from the folder, and waited for while the server is away.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod running;

use axum::http::{Method, StatusCode};
use cloakway_testing::postgresql::Postgresql;
use running::{KEY, Nas, START, STOP, Toolbox, eventually, now_s};
use serde_json::json;

const ADDRESS: [u8; 4] = [198, 51, 100, 70];

fn tables(server: &Postgresql) -> String {
    format!("[history.postgresql]\nconnection = \"{}\"\n", server.connection())
}

/// A session from `from` to `to`.
fn session(nas: &mut Nas, user: &str, from: u32, to: u32) {
    // As a NAS says it that could not send them earlier.
    for (status, at) in [(START, from), (STOP, to)] {
        let packet = nas.accounting_of(status, user, user, ADDRESS, at, now_s() - at);
        nas.tell(&packet);
    }
}

fn time(s: u32) -> String {
    cloakway_types::Timestamp::from_secs(s.into()).to_string()
}

/// The answer about a moment: its status, and whether it is yes.
fn asked(toolbox: &Toolbox, subscriber: &str, at: u32) -> (StatusCode, bool) {
    let body = json!({"address": "198.51.100.70", "subscriber": subscriber, "at": time(at)}).to_string();
    let headers = [("authorization", &*format!("Bearer {KEY}")), ("content-type", "application/json")];
    let (status, answer) = toolbox.ask(Method::POST, "/v1/verify", &headers, body.as_bytes());
    (status, answer["live"] == json!(true))
}

#[test]
fn the_past_is_answered_from_postgresql_and_what_the_folder_had_is_taken_over() {
    let Some(server) = Postgresql::start() else { return };
    let now = now_s();
    let mut toolbox = Toolbox::start();
    let mut nas = Nas::new("127.0.0.1:0", toolbox.radius);
    session(&mut nas, "alice", now - 900, now - 800);
    toolbox.terminate();
    let config = std::fs::read_to_string(toolbox.path("toolbox.toml")).unwrap();
    std::fs::write(toolbox.path("toolbox.toml"), config + &tables(&server)).unwrap();
    toolbox.run();
    assert!(toolbox.data().join("history.redb.old").exists());
    assert_eq!(asked(&toolbox, "alice", now - 850), (StatusCode::OK, true));
    session(&mut nas, "bob", now - 700, now - 600);
    let count = || server.ask("test", "SELECT count(*) FROM toolbox.rows WHERE name = 'history'");
    eventually("it is there", || (count() == "2").then_some(()));
    // What is remembered in no file of the folder is in the server alone.
    toolbox.kill();
    toolbox.run();
    assert_eq!(asked(&toolbox, "bob", now - 650), (StatusCode::OK, true));
    assert_eq!(asked(&toolbox, "bob", now - 850), (StatusCode::OK, false));
    // Kept no longer than was configured.
    toolbox.terminate();
    let config = std::fs::read_to_string(toolbox.path("toolbox.toml")).unwrap();
    let config = config.replace("[history.postgresql]", "[history]\nretention-days = 0\n[history.postgresql]");
    std::fs::write(toolbox.path("toolbox.toml"), config).unwrap();
    toolbox.run();
    assert_eq!(asked(&toolbox, "bob", now - 650), (StatusCode::OK, false), "it is forgotten at once");
}

#[test]
fn while_the_server_is_away_the_present_goes_on_and_the_past_waits() {
    let Some(mut server) = Postgresql::start() else { return };
    let now = now_s();
    let mut toolbox = Toolbox::start_in(tempfile::tempdir().unwrap(), "", "", &tables(&server));
    let mut nas = Nas::new("127.0.0.1:0", toolbox.radius);
    session(&mut nas, "alice", now - 900, now - 800);
    let count = |server: &Postgresql| server.ask("test", "SELECT count(*) FROM toolbox.rows WHERE name = 'history'");
    eventually("it is there", || (count(&server) == "1").then_some(()));
    server.kill();
    session(&mut nas, "bob", now - 700, now - 600);
    let start = nas.accounting(START, "carol", "carol", ADDRESS, now - 10);
    nas.tell(&start);
    assert!(toolbox.live("carol", "198.51.100.70"));
    assert_eq!(asked(&toolbox, "alice", now - 850).0, StatusCode::SERVICE_UNAVAILABLE);
    // Not even the end of the process loses what waits.
    toolbox.terminate();
    server.run();
    toolbox.run();
    eventually("what waited is there", || (count(&server) == "2").then_some(()));
    for (name, at) in [("alice", 850), ("bob", 650)] {
        assert_eq!(asked(&toolbox, name, now - at), (StatusCode::OK, true), "{name}");
    }
    assert!(toolbox.live("carol", "198.51.100.70"));
    server.kill();
    server.run();
    session(&mut nas, "dave", now - 9, now - 5);
    eventually("it goes on by itself", || (count(&server) == "3").then_some(()));
}
