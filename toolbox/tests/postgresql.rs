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

#[test]
fn it_starts_while_the_server_is_away_and_what_waits_does_not_fill_the_memory() {
    let Some(mut server) = Postgresql::start() else { return };
    let now = now_s();
    let more = tables(&server) + "waiting = 3\n";
    let mut toolbox = Toolbox::start_in(tempfile::tempdir().unwrap(), "", "", &more);
    let mut nas = Nas::new("127.0.0.1:0", toolbox.radius);
    session(&mut nas, "alice", now - 900, now - 800);
    let count = |server: &Postgresql| server.ask("test", "SELECT count(*) FROM toolbox.rows WHERE name = 'history'");
    eventually("it is there", || (count(&server) == "1").then_some(()));
    server.kill();
    toolbox.kill();
    toolbox.run();
    let start = nas.accounting(START, "carol", "carol", ADDRESS, now - 10);
    nas.tell(&start);
    assert!(toolbox.live("carol", "198.51.100.70"), "the present goes on");
    assert_eq!(asked(&toolbox, "alice", now - 850).0, StatusCode::SERVICE_UNAVAILABLE);
    // More than may wait in memory: a file has them, over a kill too.
    for n in 0..10 {
        session(&mut nas, &format!("user{n}"), now - 1700 + n * 75, now - 1640 + n * 75);
    }
    eventually("they wait in the folder", || toolbox.data().join("history.redb").exists().then_some(()));
    toolbox.kill();
    toolbox.run();
    assert_eq!(asked(&toolbox, "user3", now - 1445).0, StatusCode::SERVICE_UNAVAILABLE);
    assert!(toolbox.live("carol", "198.51.100.70"));
    server.run();
    eventually("all is there", || (count(&server) == "11").then_some(()));
    eventually("the past is answered", || (asked(&toolbox, "alice", now - 850).0 == StatusCode::OK).then_some(()));
    for (name, at) in [("alice", 850), ("user0", 1670), ("user3", 1445), ("user9", 995)] {
        assert_eq!(asked(&toolbox, name, now - at), (StatusCode::OK, true), "{name}");
    }
    assert_eq!(asked(&toolbox, "user4", now - 1445), (StatusCode::OK, false));
    assert!(!toolbox.data().join("history.redb").exists());
}

#[test]
fn the_connection_is_under_tls_where_an_authority_is_named() {
    let Some(mut server) = Postgresql::start() else { return };
    let issued = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let connection = server.secure(&issued.cert.pem(), &issued.signing_key.serialize_pem());
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("server.pem");
    std::fs::write(&ca, issued.cert.pem()).unwrap();
    std::fs::write(folder.path().join("other.pem"), other.cert.pem()).unwrap();
    let tables = format!("[history.postgresql]\nconnection = \"{connection}\"\nca = \"{}\"\n", ca.display());
    let now = now_s();
    let mut toolbox = Toolbox::start_in(folder, "", "", &tables);
    let mut nas = Nas::new("127.0.0.1:0", toolbox.radius);
    session(&mut nas, "alice", now - 900, now - 800);
    let encrypted = "SELECT bool_and(ssl) AND count(*) >= 2 FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                     WHERE application_name = 'cloakway'";
    assert_eq!(server.ask("test", encrypted), "t");
    let count = || server.ask("test", "SELECT count(*) FROM toolbox.rows WHERE name = 'history'");
    eventually("it is there", || (count() == "1").then_some(()));
    assert_eq!(asked(&toolbox, "alice", now - 850), (StatusCode::OK, true));
    // Who is not who it should be is not believed, and without TLS this server takes nobody.
    toolbox.terminate();
    let config = std::fs::read_to_string(toolbox.path("toolbox.toml")).unwrap();
    for (line, said) in
        [(format!("ca = \"{}\"", toolbox.path("other.pem").display()), "certificate"), (String::new(), "no encryption")]
    {
        let changed = config.replace(&format!("ca = \"{}\"", ca.display()), &line);
        std::fs::write(toolbox.path("toolbox.toml"), changed).unwrap();
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_toolbox"))
            .args(["run", "--config"])
            .arg(toolbox.path("toolbox.toml"))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(said), "{text}");
    }
}
