//! The speaker on loopback, between a scripted router and a scripted forwarder.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
#![cfg(test)]

mod support;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bgp_wire::{Community, Context, ErrorCode, Message, Open};
use serde_json::Value;
use support::inside::{Inside, Place};
use support::program::{Program, binary};
use support::router::Router;
use support::{HEAD, soon};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinHandle;

const V4: &str = "203.0.113.200/32";
const V6: &str = "2001:db8:c10a::200/128";

/// A configuration with two private routes and a router.
fn text(speaker: &str, peer: &str) -> String {
    format!(
        "{HEAD}{speaker}\n\
         [[peers]]\nname = \"edge\"\nremote-as = 64500\n{peer}\n\
         [[private-routes]]\nprefix = \"{V4}\"\nnext-hop = \"198.51.100.2\"\n\
         [[private-routes]]\nprefix = \"{V6}\"\nnext-hop = \"2001:db8:5100:1::2\"\nguard = \"no-advertise\"\n\
         [health]\nsocket = \"$/health\"\n"
    )
}

fn open() -> Open {
    support::open(64500, [198, 51, 100, 1], 90)
}

/// The next UPDATE as text; keepalives are answered on the way.
async fn update(router: &mut Router) -> String {
    loop {
        match router.next().await {
            Some(Message::KeepAlive) => router.send(Message::KeepAlive).await,
            Some(Message::Update(update)) => {
                if let Some(family) = update.ends_rib_of() {
                    return format!("end of {family}");
                }
                let communities: Vec<String> = update.attributes.communities.iter().map(Community::to_string).collect();
                let gone = update.unreachable().map(|prefix| format!("-{prefix}"));
                let come = update.reachable().map(|prefix| format!("+{prefix} {}", communities.join(" ")));
                return gone.chain(come).collect::<Vec<_>>().join(", ");
            }
            other => panic!("{other:?}"),
        }
    }
}

async fn updates<const N: usize>(router: &mut Router) -> [String; N] {
    let mut all = [(); N].map(|()| String::new());
    for one in &mut all {
        *one = update(router).await;
    }
    all
}

fn announced() -> [String; 2] {
    [format!("+{V4} no-export"), format!("+{V6} no-advertise")]
}

fn ends() -> [String; 2] {
    ["end of ipv4-unicast".to_owned(), "end of ipv6-unicast".to_owned()]
}

/// The forwarder's end of a health stream, played by the test.
struct Forwarder {
    stream: UnixStream,
    sequence: u64,
}

impl Forwarder {
    async fn accept(listener: &UnixListener) -> Self {
        let (stream, _) = soon("the speaker on the health socket", listener.accept()).await.unwrap();
        Self { stream, sequence: 0 }
    }

    async fn word(&mut self, prefix: &str, healthy: bool) {
        let message =
            forwarder_wire::Message::Prefix { prefix: prefix.parse().unwrap(), healthy, reason: "test".to_owned() };
        self.line(&forwarder_wire::encode(&message)).await;
    }

    async fn heartbeat(&mut self) {
        let message = forwarder_wire::Message::Heartbeat { sequence: self.sequence };
        self.sequence += 1;
        self.line(&forwarder_wire::encode(&message)).await;
    }

    async fn line(&mut self, line: &str) {
        self.stream.write_all(line.as_bytes()).await.unwrap();
    }

    /// Good words on both prefixes, then heartbeats until told otherwise.
    async fn healthy(mut self) -> Beating {
        self.word(V4, true).await;
        self.word(V6, true).await;
        self.heartbeat().await;
        Beating::new(self)
    }
}

/// A forwarder that beats on its own.
struct Beating {
    lines: tokio::sync::mpsc::Sender<String>,
    task: JoinHandle<()>,
}

impl Beating {
    fn new(mut forwarder: Forwarder) -> Self {
        let (lines, mut said) = tokio::sync::mpsc::channel::<String>(16);
        let task = tokio::spawn(async move {
            let mut beat = tokio::time::interval(Duration::from_millis(100));
            loop {
                tokio::select! {
                    _ = beat.tick() => forwarder.heartbeat().await,
                    line = said.recv() => match line {
                        Some(line) => forwarder.line(&line).await,
                        None => return,
                    },
                }
            }
        });
        Self { lines, task }
    }

    async fn word(&self, prefix: &str, healthy: bool) {
        let message =
            forwarder_wire::Message::Prefix { prefix: prefix.parse().unwrap(), healthy, reason: "test".to_owned() };
        self.lines.send(forwarder_wire::encode(&message)).await.unwrap();
    }

    /// As a kill -9 would: the socket closes without a word.
    fn kill(self) {
        self.task.abort();
    }
}

/// A speaker that connects to a scripted router, with a health socket for a scripted forwarder.
async fn active() -> (Inside, TcpListener, UnixListener) {
    let place = Place::new();
    let router = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let health = UnixListener::bind(place.path("health")).unwrap();
    let port = router.local_addr().unwrap().port();
    let speaker = place.start(&text("", &format!("address = \"127.0.0.1\"\nport = {port}")));
    (speaker, router, health)
}

#[tokio::test]
async fn routes_follow_the_forwarders_words() {
    let (speaker, listener, health) = active().await;
    let mut router = Router::established(&listener).await;
    assert_eq!(updates(&mut router).await, ends(), "nothing is announced before a good word");

    let forwarder = Forwarder::accept(&health).await.healthy().await;
    assert_eq!(updates(&mut router).await, announced());
    forwarder.word(V4, false).await;
    assert_eq!(update(&mut router).await, format!("-{V4}"));
    forwarder.word(V4, true).await;
    assert_eq!(update(&mut router).await, announced()[0]);

    let routes = speaker.show("routes").await;
    assert_eq!(routes[0]["announced_to"], serde_json::json!(["edge"]));
    assert_eq!(routes[1]["guard"], "no-advertise");
    let health = speaker.show("health").await;
    assert_eq!((&health["connected"], &health["prefixes"][0]["healthy"]), (&true.into(), &true.into()));
    let sessions = speaker.show("sessions").await;
    assert_eq!((&sessions[0]["state"], &sessions[0]["announced"]), (&"Established".into(), &2.into()));
    assert!(speaker.ask("cards").await.unwrap_err().contains("sessions, routes, "));
    speaker.end().await;
    assert_eq!(router.notification().await, (ErrorCode::ADMINISTRATIVE_SHUTDOWN, vec![]));
}

#[tokio::test]
async fn a_withdrawal_waits_for_no_silence_and_says_how_long_it_took() {
    let (speaker, listener, health) = active().await;
    let mut router = Router::established(&listener).await;
    let forwarder = Forwarder::accept(&health).await.healthy().await;
    assert_eq!(updates::<4>(&mut router).await.iter().filter(|update| update.starts_with('+')).count(), 2);
    // Its heartbeats go on, so that the word alone can be the reason.
    for _ in 0..5 {
        forwarder.word(V4, false).await;
        assert_eq!(update(&mut router).await, format!("-{V4}"));
        forwarder.word(V4, true).await;
        assert_eq!(update(&mut router).await, announced()[0]);
    }
    let sessions = speaker.show("sessions").await;
    let took = sessions[0]["last_withdraw_us"].as_u64().unwrap();
    println!("from the word to the socket: {took} us");
    assert!(took > 0, "{sessions}");
    speaker.end().await;
}

#[tokio::test]
async fn the_death_of_the_health_stream_withdraws_and_its_return_announces() {
    let (speaker, listener, health) = active().await;
    let mut router = Router::established(&listener).await;
    let forwarder = Forwarder::accept(&health).await.healthy().await;
    updates::<4>(&mut router).await;
    forwarder.kill();
    let gone = [format!("-{V4}"), format!("-{V6}")];
    assert_eq!(updates(&mut router).await, gone);

    // A line that is none is as good as no forwarder.
    let mut forwarder = Forwarder::accept(&health).await;
    forwarder.heartbeat().await;
    forwarder.word(V4, true).await;
    assert_eq!(update(&mut router).await, announced()[0]);
    forwarder.line("{\"type\":\"prefix\"}\n").await;
    assert_eq!(update(&mut router).await, gone[0]);

    // So is one that never ends.
    let mut forwarder = Forwarder::accept(&health).await;
    forwarder.heartbeat().await;
    forwarder.word(V4, true).await;
    assert_eq!(update(&mut router).await, announced()[0]);
    forwarder.line(&"x".repeat(forwarder_wire::MAX_LINE + 1)).await;
    assert_eq!(update(&mut router).await, gone[0]);

    let _forwarder = Forwarder::accept(&health).await.healthy().await;
    let mut back = updates::<2>(&mut router).await;
    back.sort();
    assert_eq!(back, [&announced()[1], &announced()[0]].map(String::clone));
    speaker.end().await;
}

#[tokio::test]
async fn silence_of_a_second_withdraws() {
    let (speaker, listener, health) = active().await;
    let mut router = Router::established(&listener).await;
    let mut forwarder = Forwarder::accept(&health).await;
    updates::<2>(&mut router).await;
    forwarder.word(V4, true).await;
    let start = std::time::Instant::now();
    forwarder.heartbeat().await;
    assert_eq!(update(&mut router).await, announced()[0]);
    assert_eq!(update(&mut router).await, format!("-{V4}"));
    assert!(start.elapsed() >= Duration::from_millis(990), "{:?}", start.elapsed());
    speaker.end().await;
}

#[tokio::test]
async fn a_session_that_starts_later_gets_what_is_healthy() {
    let (speaker, listener, health) = active().await;
    let _forwarder = Forwarder::accept(&health).await.healthy().await;
    speaker.show_until("routes", |routes| routes[0]["healthy"] == true && routes[1]["healthy"] == true).await;
    let mut router = Router::established(&listener).await;
    assert_eq!(updates::<4>(&mut router).await, [announced(), ends()].concat()[..]);
    speaker.end().await;
}

fn header(length: u16, kind: u8) -> Vec<u8> {
    [&[0xff; 16], &length.to_be_bytes()[..], &[kind]].concat()
}

#[tokio::test]
async fn what_a_broken_router_sends_gets_its_notification_and_the_session_starts_again() {
    tokio::join!(
        broken(b"GET / HTTP/1.1\r\n\r\n".to_vec(), ErrorCode::NOT_SYNCHRONIZED, &[]),
        broken(header(18, 4), ErrorCode::BAD_LENGTH, &[0, 18]),
        broken(header(19, 77), ErrorCode::BAD_TYPE, &[77]),
        // An UPDATE whose attributes are cut off behind the length field, and one with a prefix of 33 bits.
        broken([header(23, 2), vec![0, 0, 0, 9]].concat(), ErrorCode::MALFORMED_ATTRIBUTES, &[]),
        broken([header(25, 2), vec![0, 2, 33, 1, 0, 0]].concat(), ErrorCode::INVALID_NETWORK, &[]),
    );
}

async fn broken(bytes: Vec<u8>, error: ErrorCode, data: &[u8]) {
    let (speaker, listener, health) = active().await;
    let _forwarder = Forwarder::accept(&health).await.healthy().await;
    let mut router = Router::established(&listener).await;
    speaker.show_until("sessions", |sessions| sessions[0]["announced"] == 2).await;
    // What follows the damage is never looked at.
    router.send_bytes(&[bytes, header(19, 4)].concat()).await;
    assert_eq!(router.notification().await, (error, data.to_vec()));
    let sessions = speaker.show_until("sessions", |sessions| sessions[0]["flaps"] == 1).await;
    assert_eq!(sessions[0]["announced"], 0);
    let last_down = sessions[0]["last_down"].as_str().unwrap();
    assert!(last_down.starts_with(&format!("sent {error}: ")), "{last_down}");
    let mut router = Router::established(&listener).await;
    assert_eq!(updates::<4>(&mut router).await, [announced(), ends()].concat()[..]);
    speaker.end().await;
}

#[tokio::test]
async fn an_open_of_the_wrong_as_and_a_half_open_are_refused() {
    let (speaker, listener, _health) = active().await;
    let mut router = Router::accept(&listener).await;
    router.send(Message::Open(support::open(64511, [198, 51, 100, 1], 90))).await;
    assert!(matches!(router.next().await, Some(Message::Open(_))));
    assert_eq!(router.notification().await, (ErrorCode::BAD_PEER_AS, vec![]));
    let sessions = speaker.show_until("sessions", |sessions| sessions[0]["last_down"] != Value::Null).await;
    assert!(sessions[0]["last_down"].as_str().unwrap().contains("the peer is AS 64511, the configuration says 64500"));

    // Half an OPEN, then the end: no session, and the next connection is as good as the first.
    let mut router = Router::accept(&listener).await;
    let bytes = Message::Open(open()).encode(Context::default()).unwrap();
    router.send_bytes(&bytes[..bytes.len() / 2]).await;
    drop(router);
    let mut router = Router::established(&listener).await;
    assert_eq!(updates(&mut router).await, ends());
    speaker.end().await;
}

#[tokio::test]
async fn messages_may_come_octet_by_octet() {
    let (speaker, listener, _health) = active().await;
    let mut router = Router::accept(&listener).await;
    router.stream.set_nodelay(true).unwrap();
    let messages =
        [Message::Open(open()), Message::KeepAlive].map(|message| message.encode(Context::default()).unwrap());
    for byte in messages.concat() {
        router.send_bytes(&[byte]).await;
    }
    assert!(matches!(router.next().await, Some(Message::Open(_))));
    assert_eq!(router.next().await, Some(Message::KeepAlive));
    assert_eq!(updates(&mut router).await, ends());
    speaker.end().await;
}

#[tokio::test]
async fn a_refused_connection_is_tried_again_and_its_reason_shown() {
    let port = support::free_port();
    let speaker = Inside::start(&text("", &format!("address = \"127.0.0.1\"\nport = {port}")));
    let sessions = speaker.show_until("sessions", |sessions| sessions[0]["last_down"] != Value::Null).await;
    assert!(sessions[0]["last_down"].as_str().unwrap().contains("refused"), "{sessions}");
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    Router::established(&listener).await;
    speaker.end().await;
}

#[tokio::test]
async fn two_speakers_meet_over_the_listener_and_strangers_do_not() {
    let port = support::free_port();
    let listens = format!("listen = [\"127.0.0.1:{port}\"]");
    let passive = Inside::start(&text(&listens, "address = \"127.0.0.2\"\npassive = true"));
    // The other speaker has another router id and its own private route.
    let there = text("", &format!("address = \"127.0.0.1\"\nport = {port}\nlocal-address = \"127.0.0.2\"")).replacen(
        "\"198.51.100.2\"",
        "\"198.51.100.9\"",
        1,
    );
    let active = Inside::start(&there);
    passive.show_until("sessions", |sessions| sessions[0]["state"] == "Established").await;

    let mut stranger = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut heard = Vec::new();
    soon("the stranger's end", stranger.read_to_end(&mut heard)).await.unwrap();
    assert!(heard.is_empty(), "a stranger hears nothing");

    // Both have the same private routes here: hearing one's own from a peer is counted.
    let health = UnixListener::bind(active.path("health")).unwrap();
    let _forwarder = Forwarder::accept(&health).await.healthy().await;
    let sessions = passive.show_until("sessions", |sessions| sessions[0]["private_received"] == 2).await;
    assert_eq!(sessions[0]["prefixes_received"], 2);
    active.end().await;
    let sessions = passive.show_until("sessions", |sessions| sessions[0]["state"] != "Established").await;
    assert_eq!(sessions[0]["last_down"], "received 6/2 Administrative Shutdown");
    passive.end().await;
}

fn output(command: &mut Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[test]
fn the_command_line_checks_and_explains() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/bgp-speaker.toml");
    let (code, said) = output(binary().arg("check").arg(&example));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("203.0.113.200/32 via 198.51.100.2, guarded by no-export"), "{said}");
    let place = Place::new();
    let bad = place.text(&text("", "address = \"127.0.0.1\"\nhold-time-s = 2"));
    std::fs::write(place.path("bad.toml"), bad).unwrap();
    let (code, said) = output(binary().arg("check").arg(place.path("bad.toml")));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("bad.toml:10: peers[0].hold-time-s: 2 s is not allowed: 3 to 65535"), "{said}");
    let (code, said) = output(binary().args(["show", "sessions", "--socket"]).arg(place.path("none")));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("is the role running?"), "{said}");
}

#[tokio::test]
async fn kill_9_ends_the_session_and_offers_no_graceful_restart() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut program = Program::stopped(&text("", &format!("address = \"127.0.0.1\"\nport = {port}")));
    let health = UnixListener::bind(program.path("health")).unwrap();
    program.run();
    let mut router = Router::accept(&listener).await;
    let Some(Message::Open(theirs)) = router.next().await else { panic!() };
    let codes: Vec<u8> = theirs.capabilities.iter().map(|capability| capability.encode().unwrap()[0]).collect();
    assert_eq!(codes, [1, 1, 2, 65, 5, 6, 70], "graceful restart (64) would keep the routes of a dead speaker");
    router.send(Message::Open(open())).await;
    router.send(Message::KeepAlive).await;
    assert_eq!(router.next().await, Some(Message::KeepAlive));
    let _forwarder = Forwarder::accept(&health).await.healthy().await;
    let mut updates = updates::<4>(&mut router).await.to_vec();
    updates.sort();
    assert_eq!(updates[..2], [&announced()[1], &announced()[0]].map(String::clone));
    program.kill();
    assert_eq!(router.next().await, None);
}
