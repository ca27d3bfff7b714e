//! What the tests of this folder share: the program as a process, the speaker inside the test, and scripted peers.

#![allow(dead_code, unreachable_pub, reason = "each test program uses its part")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

pub mod inside;
pub mod peer;
pub mod program;
pub mod router;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use bgp_wire::{Asn, Context, Family, HoldTime, Message, Open, RouterId};

/// How long anything may take on a machine that is busy with something else.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The speaker's own tables, where nothing else is wanted; `$` is the folder of the test.
pub const HEAD: &str = "admin-socket = \"$/admin\"\n[speaker]\nlocal-as = 64500\nrouter-id = \"198.51.100.2\"\n";
/// Injection of whatever is in 10.0.0.0/8.
pub const INJECT: &str = "[inject]\njournal = \"$/journal\"\napi-socket = \"$/api\"\nallow = [\"10.0.0.0/8\"]\n";

/// Calls until `done` gives something, at most for the patience.
pub fn until<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Calls until it is so, at most for the patience.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    until(what, || done().then_some(()));
}

/// The same of something that is waited for.
pub async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

/// What Prometheus is told at `from` of the metric with this name and these labels.
pub fn metric(from: SocketAddr, name: &str) -> Option<f64> {
    let mut stream = TcpStream::connect(from).ok()?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// A port that nobody had a moment ago; taken by another in between, the start fails and says so.
pub fn free_port() -> u16 {
    listener().1
}

/// Where a speaker can connect to.
pub fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// The OPEN of a router in AS `asn`.
pub fn open(asn: u32, router_id: [u8; 4], hold_time_s: u16) -> Open {
    let router_id = RouterId::new(router_id.into()).unwrap();
    Open::new(Asn(asn), HoldTime::from_secs(hold_time_s).unwrap(), router_id, Family::ALL)
}

/// A message as it is written before anything is settled.
pub fn encoded(message: &Message) -> Vec<u8> {
    message.encode(Context::default()).unwrap()
}

/// A message of this type and length, whatever is in it.
pub fn frame(kind: u8, length: u16, body: &[u8]) -> Vec<u8> {
    [&[0xff; 16][..], &length.to_be_bytes(), &[kind], body].concat()
}
