//! Peers that come and go while the speaker runs: by a new configuration, and by connecting from a known prefix.
#![cfg(test)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use bgp_wire::{Context as Wire, ErrorCode, Family, Message};
use cloakway_runtime::admin;
use serde_json::{Value, json};
use support::inside::Inside;
use support::program::{Program, binary};
use support::router::Router;
use support::{HEAD, INJECT, PATIENCE, free_port, soon};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, UnixStream};

/// A configuration; `tables` stands behind the speaker's own table.
fn text(speaker: &str, tables: &str) -> String {
    let inject = match tables.contains("# narrow") {
        true => INJECT.replace("10.0.0.0/8", "10.0.0.0/16"),
        false => INJECT.to_owned(),
    };
    format!("{HEAD}{speaker}\n{tables}\n{inject}")
}

/// Another file, read again: what changed.
async fn reload(running: &Inside, speaker: &str, tables: &str) -> Result<Value, String> {
    running.configure(&text(speaker, tables));
    running.ask("reload").await
}

async fn sessions_until(running: &Inside, fits: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let sessions = running.show_until("sessions", |sessions| fits(sessions.as_array().unwrap())).await;
    sessions.as_array().unwrap().clone()
}

/// Puts a set of routes.
async fn put(running: &Inside, set: &str, prefixes: &[String]) {
    let mut stream = soon("the API", UnixStream::connect(running.path("api"))).await.unwrap();
    let routes = [json!({ "next-hop": "192.0.2.1", "prefixes": prefixes })];
    let request = json!({ "put": { "set": set, "routes": routes } });
    stream.write_all(format!("{request}\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon("an answer", BufReader::new(stream).read_line(&mut answer)).await.unwrap();
    assert!(answer.starts_with("{\"ok\""), "{answer}");
}

fn peer(name: &str, listener: &TcpListener, more: &str) -> String {
    let address = listener.local_addr().unwrap();
    format!(
        "[[peers]]\nname = {name:?}\naddress = \"{}\"\nport = {}\nremote-as = 64500\n{more}\n",
        address.ip(),
        address.port()
    )
}

fn prefixes(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| format!("10.{}.{}.0/24", n / 256, n % 256)).collect()
}

#[tokio::test]
async fn an_unchanged_neighbour_is_not_touched_while_others_come_go_and_start_again() {
    let [a, b, c] = [2, 3, 4].map(|host| format!("127.0.0.{host}:0"));
    let (a, b, c) =
        (TcpListener::bind(a).await.unwrap(), TcpListener::bind(b).await.unwrap(), TcpListener::bind(c).await.unwrap());
    let first = peer("a", &a, "") + &peer("b", &b, "");
    let speaker = Inside::start(&text("", &first));
    let (mut at_a, mut at_b) =
        (Router::accept(&a).await.opened(64500).await, Router::accept(&b).await.opened(64500).await);
    for router in [&mut at_a, &mut at_b] {
        assert_eq!([router.routes().await, router.routes().await], ["end", "end"]);
    }
    // A stream of changes goes on all the while.
    let mut told = 0;
    let mut change = async |speaker: &Inside, at_a: &mut Router| {
        told += 1;
        put(speaker, "s", &prefixes(told..told + 1)).await;
        let expected = if told == 1 { format!("+10.0.{told}.0/24") } else { format!("-10.0.{}.0/24", told - 1) };
        let mut all = at_a.routes().await;
        while !all.contains(&expected) {
            all = at_a.routes().await;
        }
    };
    change(&speaker, &mut at_a).await;

    // The hold time of b, and c: a hears nothing of either.
    let second = peer("a", &a, "") + &peer("b", &b, "hold-time-s = 30") + &peer("c", &c, "");
    let done = reload(&speaker, "", &second).await.unwrap();
    let effects = [("b", "reset: hold-time-s changed"), ("c", "new")];
    let effects = effects.map(|(peer, effect)| json!({ "peer": peer, "effect": effect }));
    assert_eq!((&done["changed"], &done["peers"]), (&json!(["peers"]), &json!(effects)));
    assert_eq!(at_b.ended().await, Some(ErrorCode::CONFIGURATION_CHANGE));
    let (mut at_b, mut at_c) =
        (Router::accept(&b).await.opened(64500).await, Router::accept(&c).await.opened(64500).await);
    for router in [&mut at_b, &mut at_c] {
        assert_eq!(router.routes().await, "+10.0.1.0/24");
    }
    change(&speaker, &mut at_a).await;
    // b is told on a clock of its own, and has to have it before it can be taken away.
    while !at_b.routes().await.contains("+10.0.2.0/24") {}

    // What is told and how is taken over as it runs.
    let list = "[[prefix-lists]]\nname = \"none\"\nrules = []\n";
    let third = peer("a", &a, "") + &peer("b", &b, "hold-time-s = 30\nexport-prefixes = \"none\"") + list;
    let done = reload(&speaker, "shutdown-communication = \"bye\"", &third).await.unwrap();
    assert_eq!(done["changed"], json!(["peers", "prefix-lists", "speaker.shutdown-communication"]));
    assert_eq!(done["peers"][2], json!({ "peer": "c", "effect": "removed" }));
    assert_eq!(done["peers"][1]["effect"], "changed, without a reset");
    assert_eq!(at_c.ended().await, Some(ErrorCode::PEER_DECONFIGURED));
    let mut last = at_b.routes().await;
    while last != "-10.0.2.0/24" {
        last = at_b.routes().await;
    }
    change(&speaker, &mut at_a).await;

    let sessions = sessions_until(&speaker, |sessions| sessions.len() == 2).await;
    assert_eq!((&sessions[0]["state"], &sessions[0]["flaps"]), (&json!("Established"), &json!(0)));
    assert_eq!((&sessions[1]["flaps"], &sessions[1]["hold_time_s"]), (&json!(1), &json!(30)));
    speaker.end().await;
    assert_eq!(at_a.ended().await, Some(ErrorCode::ADMINISTRATIVE_SHUTDOWN));
}

#[tokio::test]
async fn a_narrower_allow_list_withdraws_what_is_outside_and_a_wider_one_brings_it_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let speaker = Inside::start(&text("", &peer("a", &listener, "")));
    let mut router = Router::accept(&listener).await.opened(64500).await;
    assert_eq!([router.routes().await, router.routes().await], ["end", "end"]);
    put(&speaker, "s", &["10.0.1.0/24".to_owned(), "10.7.0.0/24".to_owned()]).await;
    assert_eq!(router.routes().await, "+10.0.1.0/24 +10.7.0.0/24");
    let done = reload(&speaker, "", &format!("# narrow\n{}", peer("a", &listener, ""))).await.unwrap();
    assert_eq!(done, json!({ "changed": ["inject.allow"], "peers": [] }));
    assert_eq!(router.routes().await, "-10.7.0.0/24");
    reload(&speaker, "", &peer("a", &listener, "")).await.unwrap();
    assert_eq!(router.routes().await, "+10.7.0.0/24");
    speaker.end().await;
}

#[tokio::test]
async fn a_file_with_an_error_and_what_takes_a_restart_change_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let speaker = Inside::start(&text("", &peer("a", &listener, "")));
    let mut router = Router::accept(&listener).await.opened(64500).await;
    assert_eq!([router.routes().await, router.routes().await], ["end", "end"]);
    let error = reload(&speaker, "", &peer("a", &listener, "hold-time-s = 2")).await.unwrap_err();
    assert!(error.contains("speaker.toml:11: peers[0].hold-time-s: 2 s is not allowed"), "{error}");
    let error = reload(&speaker, "", &format!("metrics-listen = 1\n{}", peer("a", &listener, ""))).await.unwrap_err();
    assert!(error.contains("speaker.metrics-listen: unknown field"), "{error}");
    let admin =
        text("", &peer("a", &listener, "")).replacen("[speaker]", "metrics-listen = \"127.0.0.1:1\"\n[speaker]", 1);
    speaker.configure(&admin);
    let error = speaker.ask("reload").await.unwrap_err();
    assert!(error.contains("metrics-listen: takes a restart to change: nothing has changed"), "{error}");
    // A socket that cannot be had, beside a peer that would be reset.
    let _taken = TcpListener::bind(taken).await.unwrap();
    let error = reload(&speaker, &format!("listen = [\"{taken}\"]"), &peer("a", &listener, "hold-time-s = 33"))
        .await
        .unwrap_err();
    assert!(error.contains(&format!("cannot listen on {taken}: ")), "{error}");
    let sessions = sessions_until(&speaker, |_| true).await;
    assert_eq!(
        (&sessions[0]["state"], &sessions[0]["flaps"], &sessions[0]["hold_time_s"]),
        (&json!("Established"), &json!(0), &json!(9))
    );
    speaker.end().await;
}

#[tokio::test]
async fn whoever_connects_from_a_known_prefix_is_a_neighbour_until_the_session_is_over() {
    let port = free_port();
    let listens = format!("listen = [\"127.0.0.1:{port}\"]");
    let tables = "[[peer-groups]]\nname = \"leaf\"\nexport = \"all\"\n\
                  [[dynamic-peers]]\nprefix = \"127.0.0.16/28\"\ngroup = \"leaf\"\nremote-as = [64510, \"64520-64529\"]\nlimit = 2\n";
    let speaker = Inside::start(&text(&listens, tables));
    assert_eq!(sessions_until(&speaker, |_| true).await, Vec::<Value>::new());
    let mut first = Router::connect("127.0.0.17", port).await.opened(64510).await;
    let mut second = Router::connect("127.0.0.18", port).await.opened(64525).await;
    for router in [&mut first, &mut second] {
        assert_eq!([router.routes().await, router.routes().await], ["end", "end"]);
    }
    let sessions = sessions_until(&speaker, |sessions| sessions.len() == 2).await;
    assert_eq!(
        (&sessions[1]["peer"], &sessions[1]["remote_as"], &sessions[1]["dynamic"]),
        (&json!("leaf/127.0.0.18"), &json!(64525), &json!(true))
    );
    // They share one table.
    put(&speaker, "s", &["10.0.0.0/24".to_owned()]).await;
    assert_eq!([first.routes().await, second.routes().await], ["+10.0.0.0/24", "+10.0.0.0/24"]);
    // The limit, and somebody from outside.
    for from in ["127.0.0.19", "127.0.0.9"] {
        let mut refused = Router::connect(from, port).await;
        assert_eq!(refused.next().await, None, "{from}");
    }
    second.send(Message::Notification(ErrorCode::ADMINISTRATIVE_SHUTDOWN.into())).await;
    assert_eq!(second.ended().await, None);
    sessions_until(&speaker, |sessions| sessions.len() == 1).await;
    // There is room again; but not for an AS that is not listed.
    let mut third = Router::connect("127.0.0.19", port).await;
    third = third.opened(64530).await;
    assert_eq!(third.ended().await, Some(ErrorCode::BAD_PEER_AS));
    // A setting of the group that the OPEN depends on starts the dynamic sessions again; they may come back.
    let done = reload(&speaker, &listens, &tables.replace("export", "hold-time-s = 30\nexport")).await.unwrap();
    assert_eq!(done["changed"], json!(["peer-groups"]));
    assert_eq!(first.ended().await, Some(ErrorCode::CONFIGURATION_CHANGE));
    let mut first = Router::connect("127.0.0.17", port).await.opened(64510).await;
    assert_eq!(first.routes().await, "+10.0.0.0/24");
    // Without its prefix nobody comes.
    let none = peer("other", &TcpListener::bind("127.0.0.1:0").await.unwrap(), "");
    reload(&speaker, &listens, &none).await.unwrap();
    assert_eq!(first.ended().await, Some(ErrorCode::PEER_DECONFIGURED));
    assert_eq!(Router::connect("127.0.0.17", port).await.next().await, None);
    speaker.end().await;
}

#[test]
fn check_warns_of_open_doors_and_groups_that_nobody_is_of() {
    let tables = "[[peer-groups]]\nname = \"a\"\n[[peer-groups]]\nname = \"b\"\n\
                  [[dynamic-peers]]\nprefix = \"192.0.2.0/24\"\ngroup = \"a\"\nremote-as = 64501\n";
    let program = Program::stopped(&text("listen = [\"127.0.0.1:1179\"]", tables));
    let output = binary().arg("check").arg(program.path("speaker.toml")).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("up to 100 neighbours from 192.0.2.0/24, external"), "{said}");
    assert!(said.contains("warning: whoever can send from 192.0.2.0/24 is a neighbour"), "{said}");
    assert!(said.contains("warning: no peer is of group b"), "{said}");
}

/// An UPDATE with these prefixes, from an internal peer.
fn update(prefixes: &[&str]) -> Message {
    let attributes = bgp_wire::Attributes {
        origin: Some(bgp_wire::Origin::Igp),
        as_path: Some(bgp_wire::AsPath::default()),
        local_pref: Some(100),
        ..bgp_wire::Attributes::default()
    };
    let prefixes = prefixes.iter().map(|prefix| prefix.parse().unwrap());
    let updates = bgp_wire::announce_v4(&attributes, [192, 0, 2, 1].into(), prefixes, Wire::default()).unwrap();
    Message::Update(updates.into_iter().next().unwrap())
}

async fn neighbour_until(speaker: &Inside, fits: impl Fn(&Value) -> bool) -> Value {
    soon("the neighbour", async {
        loop {
            let rows = speaker.ask("neighbours").await.unwrap();
            if fits(&rows[0]) {
                return rows[0].clone();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

#[tokio::test]
async fn more_routes_than_allowed_end_the_session_until_its_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let limit = "import = \"all\"\nmax-prefix = { limit = 2, restart-s = 1 }";
    let speaker = Inside::start(&text("", &peer("a", &listener, limit)));
    let mut router = Router::accept(&listener).await.opened(64500).await;
    assert_eq!([router.routes().await, router.routes().await], ["end", "end"]);
    router.send(update(&["192.0.2.0/24", "198.51.100.0/24"])).await;
    let row = neighbour_until(&speaker, |row| row["held"] == json!(["2 of ipv4-unicast"])).await;
    assert_eq!((&row["max_prefix"], &row["state"]), (&json!(2), &json!("Established")));
    // The same again is no more.
    router.send(update(&["192.0.2.0/24"])).await;
    router.send(update(&["203.0.113.0/24"])).await;
    assert_eq!(router.ended().await, Some(ErrorCode::MAXIMUM_PREFIXES));
    let row = neighbour_until(&speaker, |row| row["held"] == json!([])).await;
    assert!(
        row["last_down"].as_str().unwrap().contains("3 routes of ipv4-unicast, and max-prefix.limit is 2"),
        "{row}"
    );
    let _router = Router::accept(&listener).await.opened(64500).await;
    neighbour_until(&speaker, |row| row["state"] == "Established").await;
    speaker.end().await;
}

#[tokio::test]
async fn routes_of_a_peer_that_restarts_stay_until_it_has_told_them_again() {
    use bgp_wire::{Capability, GracefulRestart};
    let graceful = || {
        let families = vec![(Family::Ipv4, true)];
        Capability::GracefulRestart(GracefulRestart { restart_time_s: 60, families, ..GracefulRestart::default() })
    };
    let open = |mut router: Router| async move {
        let mut open = support::open(64500, [198, 51, 100, 1], 90);
        open.capabilities.push(graceful());
        router.send(Message::Open(open)).await;
        let Some(Message::Open(theirs)) = router.next().await else { panic!() };
        assert!(theirs.capabilities.iter().any(|capability| matches!(capability, Capability::GracefulRestart(_))));
        router.send(Message::KeepAlive).await;
        router
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let helps = "import = \"all\"\ngraceful-restart = { restart-s = 30 }";
    let speaker = Inside::start(&text("", &peer("a", &listener, helps)));
    let mut router = open(Router::accept(&listener).await).await;
    router.send(update(&["192.0.2.0/24", "198.51.100.0/24"])).await;
    neighbour_until(&speaker, |row| row["held"] == json!(["2 of ipv4-unicast"])).await;
    drop(router);
    let row = neighbour_until(&speaker, |row| row["outdated"] != json!([])).await;
    assert_eq!(row["held"], json!(["2 of ipv4-unicast"]));
    assert!(row["outdated"][0].as_str().unwrap().starts_with("ipv4-unicast for "), "{row}");
    // It comes back with one of the two.
    let mut router = open(Router::accept(&listener).await).await;
    router.send(update(&["192.0.2.0/24"])).await;
    router.send(Message::Update(bgp_wire::Update::end_of_rib(Family::Ipv4))).await;
    let row = neighbour_until(&speaker, |row| row["held"] == json!(["1 of ipv4-unicast"])).await;
    assert_eq!(row["outdated"], json!([]));
    // Without the capability, everything goes with the connection.
    drop(router);
    let _router = Router::accept(&listener).await.opened(64500).await;
    neighbour_until(&speaker, |row| row["held"] == json!([]) && row["state"] == "Established").await;
    speaker.end().await;
}

/// What became of the route to `prefix`, by `show look-up`; empty where there is none.
async fn standing_until(speaker: &Inside, prefix: &str, expected: &str) {
    let address = prefix.split_once('/').unwrap().0.to_owned();
    let arguments = [("address".to_owned(), address)].into();
    let request = admin::Request { topic: "look-up".to_owned(), arguments };
    let mut last = Value::Null;
    let shown = tokio::time::timeout(PATIENCE, async {
        while last != expected {
            let shown = admin::ask_for(&speaker.path("admin"), &request).await.unwrap();
            let routes = shown["routes"].as_array().unwrap();
            last = routes.first().map_or(json!(""), |route| route["reason"].clone());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    shown.await.unwrap_or_else(|_| panic!("{prefix}: {last}, not {expected:?}"));
}

const LISTS: &str = "[[prefix-lists]]\nname = \"some\"\nrules = [{ prefix = \"192.0.2.0/24\", action = \"permit\" }]\n";

#[tokio::test]
async fn what_is_taken_of_a_peer_changes_and_its_session_stays() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tables = |more: &str| peer("a", &listener, more) + LISTS;
    let speaker = Inside::start(&text("", &tables("import = \"all\"")));
    let mut router = Router::accept(&listener).await.opened(64500).await;
    assert_eq!([router.routes().await, router.routes().await], ["end", "end"]);
    router.send(update(&["192.0.2.0/24", "198.51.100.0/24"])).await;
    standing_until(&speaker, "198.51.100.0/24", "best").await;
    let effect = async |more: &str| reload(&speaker, "", &tables(more)).await.unwrap()["peers"][0]["effect"].clone();

    // What is kept is judged again.
    assert_eq!(effect("import = \"all\"\nimport-prefixes = \"some\"").await, "changed, without a reset");
    let refused = "rejected: the peer's prefix list does not allow it";
    standing_until(&speaker, "198.51.100.0/24", refused).await;
    standing_until(&speaker, "192.0.2.0/24", "best").await;
    assert_eq!(effect("import = \"all\"\naccept-blackhole = true").await, "changed, without a reset");
    standing_until(&speaker, "198.51.100.0/24", "best").await;

    // Nothing is kept any more: nothing of it stays.
    assert_eq!(effect("import = \"nothing\"").await, "changed, without a reset");
    standing_until(&speaker, "192.0.2.0/24", "").await;
    router.send(update(&["203.0.113.0/24"])).await;

    // And again: the peer is asked for what was not listened to.
    let asked = effect("import = \"all\"").await;
    assert_eq!(asked, "changed, without a reset: it is asked for its routes (RFC 2918)");
    let mut families = Vec::new();
    while families.len() < 2 {
        match router.next().await {
            Some(Message::RouteRefresh(refresh)) => families.push((refresh.afi, refresh.safi, refresh.subtype)),
            Some(Message::KeepAlive) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(families, [(1, 1, 0), (2, 1, 0)]);
    router.send(update(&["192.0.2.0/24"])).await;
    standing_until(&speaker, "192.0.2.0/24", "best").await;
    standing_until(&speaker, "203.0.113.0/24", "").await;
    let row = neighbour_until(&speaker, |row| row["state"] == "Established").await;
    assert_eq!(row["held"], json!(["1 of ipv4-unicast"]));
    let sessions = sessions_until(&speaker, |sessions| sessions.len() == 1).await;
    assert_eq!(sessions[0]["flaps"], 0, "one connection all the while");
    speaker.end().await;
    assert_eq!(router.ended().await, Some(ErrorCode::ADMINISTRATIVE_SHUTDOWN));
}

#[tokio::test]
async fn a_peer_that_can_not_be_asked_starts_again_when_its_routes_are_wanted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let speaker = Inside::start(&text("", &peer("a", &listener, "")));
    let mut router = Router::accept(&listener).await;
    let mut open = support::open(64500, [198, 51, 100, 1], 90);
    open.capabilities.retain(|capability| *capability != bgp_wire::Capability::RouteRefresh);
    router.send(Message::Open(open)).await;
    assert!(matches!(router.next().await, Some(Message::Open(_))));
    router.send(Message::KeepAlive).await;
    assert_eq!([router.routes().await, router.routes().await], ["end", "end"]);
    let done = reload(&speaker, "", &peer("a", &listener, "import = \"all\"")).await.unwrap();
    assert_eq!(
        done["peers"][0]["effect"],
        "reset: import changed, and the peer can't be asked for its routes (RFC 2918)"
    );
    assert_eq!(router.ended().await, Some(ErrorCode::CONFIGURATION_CHANGE));
    let mut router = Router::accept(&listener).await.opened(64500).await;
    router.send(update(&["192.0.2.0/24"])).await;
    standing_until(&speaker, "192.0.2.0/24", "best").await;
    speaker.end().await;
}
