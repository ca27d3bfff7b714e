//! NASes that send as much as is answered, and what came of it.
//!
//! The load runs on the processors that it measures. So what a NAS has to say at once goes through the kernel at once (UDP GSO
//! and GRO), and packets are made from one that is built. Every answer is verified.

use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use cloakway_crypto::radius::md5;
use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg, setsockopt, sockopt};
use toolbox_wire::radius::{Packet, Request, build_request};

/// When a packet is sent again.
const AGAIN: Duration = Duration::from_secs(2);

/// How much is sent.
pub(crate) struct Load {
    pub(crate) clients: usize,
    /// Packets of each client that wait for an answer; at most 256.
    pub(crate) window: usize,
    pub(crate) seconds: Duration,
    /// Makes the sessions of each round others.
    pub(crate) round: usize,
    /// Each packet goes through the kernel alone, as from NASes that have one thing to say at a time.
    pub(crate) alone: bool,
}

/// What was answered, and how soon.
pub(crate) struct Figures {
    took: Vec<Duration>,
    over: Duration,
    pub(crate) again: u64,
}

impl Figures {
    pub(crate) fn new(mut took: Vec<Duration>, over: Duration, again: u64) -> Self {
        assert!(!took.is_empty(), "nothing was answered");
        took.sort_unstable();
        Self { took, over, again }
    }

    pub(crate) fn answered(&self) -> usize {
        self.took.len()
    }

    pub(crate) fn per_second(&self) -> f64 {
        self.took.len() as f64 / self.over.as_secs_f64()
    }

    pub(crate) fn quantile(&self, of: f64) -> Duration {
        self.took[((self.took.len() - 1) as f64 * of) as usize]
    }
}

impl Load {
    pub(crate) fn run(&self, server: SocketAddr, secret: &str) -> Figures {
        let begun = Instant::now();
        let clients: Vec<_> = (0..self.clients)
            .map(|client| {
                let (window, seconds, secret) = (self.window.min(256), self.seconds, secret.to_owned());
                let first = (self.round * self.clients + client) as u32;
                let together = if self.alone { 1 } else { TOGETHER };
                std::thread::spawn(move || Client::new(server, secret, first, together).run(window, seconds))
            })
            .collect();
        let (mut took, mut again) = (Vec::new(), 0);
        for client in clients {
            let (of_client, of_again) = client.join().unwrap();
            took.extend(of_client);
            again += of_again;
        }
        Figures::new(took, begun.elapsed(), again)
    }
}

struct Waiting {
    waits: bool,
    packet: Vec<u8>,
    first: Instant,
    last: Instant,
}

struct Client {
    socket: UdpSocket,
    secret: String,
    number: u32,
    sessions: u32,
    waiting: Vec<Waiting>,
    again: u64,
    /// Packets that go through the kernel at once.
    together: usize,
}

/// What the kernel cuts into packets, or gives as one, at most.
const TOGETHER: usize = 64;

impl Client {
    fn new(server: SocketAddr, secret: String, number: u32, together: usize) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(server).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        setsockopt(&socket, sockopt::UdpGroSegment, &(together > 1)).unwrap();
        let now = Instant::now();
        let waiting = |identifier| Waiting {
            waits: false,
            packet: first_packet(identifier, secret.as_bytes()),
            first: now,
            last: now,
        };
        let waiting = (0..=u8::MAX).map(waiting).collect();
        Self { socket, secret, number, sessions: 0, waiting, again: 0, together }
    }

    /// Sends the next session's packet under each of these identifiers.
    fn send(&mut self, identifiers: &[u8]) {
        let now = Instant::now();
        for identifier in identifiers {
            self.sessions += 1;
            let waiting = &mut self.waiting[usize::from(*identifier)];
            (waiting.waits, waiting.first, waiting.last) = (true, now, now);
            next_packet(&mut waiting.packet, self.number, self.sessions, self.secret.as_bytes());
        }
        for some in identifiers.chunks(self.together) {
            let packets = some.iter().map(|identifier| self.waiting[usize::from(*identifier)].packet.as_slice());
            let whole = packets.collect::<Vec<_>>().concat();
            let length = u16::try_from(whole.len() / some.len()).unwrap();
            let how = [ControlMessage::UdpGsoSegments(&length)];
            let how = if some.len() > 1 { &how[..] } else { &[] };
            let whole = [IoSlice::new(&whole)];
            sendmsg::<()>(self.socket.as_raw_fd(), &whole, how, MsgFlags::empty(), None).unwrap();
        }
    }

    fn run(mut self, window: usize, seconds: Duration) -> (Vec<Duration>, u64) {
        let begun = Instant::now();
        let mut took = Vec::with_capacity(1 << 20);
        let all: Vec<u8> = (0..window).map(|n| n as u8).collect();
        self.send(&all);
        let mut looked = begun;
        let (mut buffer, mut free) = (vec![0; 1 << 16], Vec::new());
        while begun.elapsed() < seconds {
            let mut how = MsgFlags::empty();
            while let Some((length, each)) = self.receive(&mut buffer, how) {
                let now = Instant::now();
                for answer in buffer[..length].chunks(each) {
                    free.extend(self.answered(answer, now).map(|(identifier, after)| {
                        took.push(after);
                        identifier
                    }));
                }
                how = MsgFlags::MSG_DONTWAIT;
            }
            self.send(&free);
            free.clear();
            if looked.elapsed() > Duration::from_millis(200) {
                looked = Instant::now();
                for waiting in self.waiting.iter_mut().filter(|of| of.waits && of.last.elapsed() > AGAIN) {
                    waiting.last = Instant::now();
                    self.again += 1;
                    self.socket.send(&waiting.packet).unwrap();
                }
            }
        }
        (took, self.again)
    }

    /// How many octets of answers came, and how many each has.
    fn receive(&self, buffer: &mut [u8], how: MsgFlags) -> Option<(usize, usize)> {
        let mut more = cmsg_space!(i32);
        let mut into = [IoSliceMut::new(buffer)];
        let message = recvmsg::<()>(self.socket.as_raw_fd(), &mut into, Some(&mut more), how).ok()?;
        let together = message.cmsgs().unwrap().find_map(|more| match more {
            ControlMessageOwned::UdpGroSegments(each) => usize::try_from(each).ok(),
            _ => None,
        });
        Some((message.bytes, together.unwrap_or(message.bytes).max(1)))
    }

    /// What this answers, and how long after the first packet; none when it answers nothing.
    fn answered(&mut self, answer: &[u8], now: Instant) -> Option<(u8, Duration)> {
        let answer = Packet::parse(answer).unwrap();
        let waiting = &mut self.waiting[usize::from(answer.identifier())];
        let asked = Packet::parse(&waiting.packet).unwrap().authenticator();
        // A second answer to what was sent again answers nothing.
        if !waiting.waits || answer.verify_response(&asked, self.secret.as_bytes(), false).is_err() {
            return None;
        }
        waiting.waits = false;
        Some((answer.identifier(), now.duration_since(waiting.first)))
    }
}

/// The names of a session, of the same length whichever it is.
fn names(number: u32, session: u32) -> (String, String) {
    (format!("{number:04x}{session:08x}"), format!("user{number:04}-{session:08}"))
}

/// Code, identifier, length and authenticator.
const HEADER: usize = 20;

fn first_packet(identifier: u8, secret: &[u8]) -> Vec<u8> {
    let (name, user) = names(0, 0);
    let attributes: [(u8, &[u8]); 7] = [
        (40, &[0, 0, 0, 1]),
        (44, name.as_bytes()),
        (1, user.as_bytes()),
        (32, b"edge"),
        (4, &[198, 51, 100, 1]),
        (5, &[0; 4]),
        (8, &[0; 4]),
    ];
    build_request(Request::Accounting, identifier, &attributes, secret, [0; 16], false).unwrap()
}

/// Makes it the packet of another session.
fn next_packet(packet: &mut [u8], number: u32, session: u32, secret: &[u8]) {
    let (name, user) = names(number, session);
    // Addresses of 10.0.0.0/8, each client's from a part of its own.
    let address = ((10 << 24) | ((number % 16) << 20) | (session % (1 << 20))).to_be_bytes();
    let port = session.to_be_bytes();
    let mut at = HEADER;
    while let [kind, length, ..] = packet[at..] {
        let value = &mut packet[at + 2..at + usize::from(length)];
        match kind {
            44 => value.copy_from_slice(name.as_bytes()),
            1 => value.copy_from_slice(user.as_bytes()),
            5 => value.copy_from_slice(&port),
            8 => value.copy_from_slice(&address),
            _ => {}
        }
        at += usize::from(length);
    }
    packet[4..HEADER].fill(0);
    let signature = md5(&[packet, secret]);
    packet[4..HEADER].copy_from_slice(&signature);
}
