//! UPDATEs that were made before: taken down from a session with BIRD, and sent as fast as a socket takes them. The
//! bench runs itself for that, inside a namespace.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use bgp_wire::{Asn, Context, Family, Framer, HoldTime, Message, Open, RouterId};

use super::{Lab, Process};

const RECORD: &str = "--record";
const REPLAY: &str = "--replay";

/// What this process is to do if the bench started it for one of these.
pub(crate) fn inside() -> bool {
    let words: Vec<String> = std::env::args().collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [_, RECORD, file, routes, ..] => record(Path::new(file), routes.parse().unwrap()),
        [_, REPLAY, file, ..] => replay(Path::new(file)),
        _ => return false,
    }
    true
}

/// Takes down what BIRD sends from 192.0.2.1, up to so many routes. It has ended when it has them.
pub(crate) fn recorder(lab: &Lab, file: &str, routes: usize) -> Process {
    let bench = std::env::current_exe().unwrap();
    Process::spawn(&lab.receiver(), &[bench.to_str().unwrap(), RECORD, file, &routes.to_string()])
}

/// A session from 192.0.2.1 that waits for the word to send.
pub(crate) struct Replayer(Process);

impl Replayer {
    pub(crate) fn start(lab: &Lab, file: &str) -> Self {
        let bench = std::env::current_exe().unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &lab.sender(), bench.to_str().unwrap(), REPLAY, file]);
        Self(Process(command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()))
    }

    /// When the word was given.
    pub(crate) fn go(&mut self) -> Instant {
        self.0.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        Instant::now()
    }
}

/// An internal session that is up, and what came behind its first KEEPALIVE.
pub(crate) fn session(mut stream: TcpStream, asn: Asn, router_id: [u8; 4]) -> (TcpStream, Framer) {
    let context = Context::default();
    let open =
        Open::new(asn, HoldTime::from_secs(90).unwrap(), RouterId::new(router_id.into()).unwrap(), [Family::Ipv4]);
    stream.write_all(&Message::Open(open).encode(context).unwrap()).unwrap();
    stream.write_all(&Message::KeepAlive.encode(context).unwrap()).unwrap();
    let (mut framer, mut up) = (Framer::default(), false);
    while !up {
        let mut bytes = [0; 4096];
        let count = stream.read(&mut bytes).unwrap();
        assert!(count > 0, "the peer hung up");
        framer.push(&bytes[..count]);
        while let Some(frame) = framer.next_frame().unwrap() {
            match Message::decode(frame, context).unwrap() {
                Message::KeepAlive => {
                    up = true;
                    break;
                }
                Message::Open(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
    (stream, framer)
}

fn record(file: &Path, routes: usize) {
    let listener = TcpListener::bind("192.0.2.2:179").unwrap();
    let (stream, _) = listener.accept().unwrap();
    let (mut stream, mut framer) = session(stream, Asn(64500), [192, 0, 2, 2]);
    let (mut kept, mut count, mut bytes) = (Vec::new(), 0, vec![0; 1 << 18]);
    while count < routes {
        while let Some(frame) = framer.next_frame().unwrap() {
            if let Message::Update(update) = Message::decode(frame, Context::default()).unwrap() {
                count += update.announced.len();
                kept.extend_from_slice(frame);
            }
        }
        if count < routes {
            let read = stream.read(&mut bytes).unwrap();
            assert!(read > 0, "BIRD hung up");
            framer.push(&bytes[..read]);
        }
    }
    std::fs::write(file, kept).unwrap();
}

fn replay(file: &Path) {
    let stream = connected("192.0.2.1:0", "192.0.2.2:179");
    let (mut stream, _) = session(stream, Asn(64500), [192, 0, 2, 1]);
    let bytes = std::fs::read(file).unwrap();
    let mut word = [0];
    if std::io::stdin().read(&mut word).unwrap() == 0 {
        return;
    }
    stream.write_all(&bytes).unwrap();
    let mut bytes = [0; 4096];
    while stream.read(&mut bytes).is_ok_and(|count| count > 0) {}
}

/// A connection from one address to another, tried until the other is there.
pub(crate) fn connected(from: &str, to: &str) -> TcpStream {
    let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
    super::until("a connection", || {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&from.into()).unwrap();
        socket.connect(&to.into()).ok()?;
        Some(socket.into())
    })
}
