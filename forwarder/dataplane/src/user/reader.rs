//! The loop at one interface: a frame in, what becomes of it, frames out.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use forwarder_core::Verdict;
use forwarder_core::ruleset::{FROM_PRIVATE, LINK_UPKEEP, TO_PRIVATE};
use forwarder_core::trace::Why;
use forwarder_core::user::{Answer, Fate, Frame, User, Way};

use super::asker::Neighbour;
use super::socket::{Offload, PATIENCE, Receiver};
use super::{Shared, lock};

/// How many packets wait for neighbours; one more is lost.
const WAITING: usize = 256;

/// How long a packet waits for a neighbour of which the kernel says nothing.
const WAIT: Duration = Duration::from_secs(5);

pub(super) struct Reader {
    port: u32,
    shared: Arc<Shared>,
    stop: Arc<AtomicBool>,
    waiting: Vec<Waiting>,
    /// When those were looked after last.
    looked: Instant,
}

/// A packet whose neighbour is being asked for.
struct Waiting {
    index: u32,
    neighbour: IpAddr,
    offload: Offload,
    packet: Vec<u8>,
    /// The frame as it came.
    came: Vec<u8>,
    since: Instant,
}

impl Reader {
    pub(super) fn new(port: u32, shared: Arc<Shared>, stop: Arc<AtomicBool>) -> Self {
        Self { port, shared, stop, waiting: Vec::new(), looked: Instant::now() }
    }

    pub(super) fn run(mut self, mut receiver: Receiver) {
        while !self.stop.load(Ordering::Relaxed) {
            match receiver.next() {
                Ok(bytes) => self.take(bytes),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                Err(error) => {
                    // An interface that is down says so once, one that is gone for ever.
                    tracing::debug!(port = self.port, %error, "a raw socket");
                    std::thread::sleep(PATIENCE);
                }
            }
            // Each is a question to the kernel: not with every frame that comes in.
            if !self.waiting.is_empty() && self.looked.elapsed() >= PATIENCE {
                self.look_after();
                self.looked = Instant::now();
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        let Some((mut offload, came)) = Offload::split(bytes) else { return };
        let mut octets = came.to_vec();
        let segment = offload.segment();
        if segment.is_none() {
            if offload.complete(&mut octets).is_none() {
                return;
            }
            offload = Offload::default();
        }
        let frame = Frame { port: self.port, octets: &octets, segment };
        match self.shared.step(&frame) {
            Fate::Kernel | Fate::Nothing => {}
            Fate::Dropped(reason) => {
                self.shared.count(reason.name(), 1, packet_length(&octets));
                // The rest is seen by who looks on at the guard, which drops the copies.
                if !reason.is_of_arrival() {
                    self.shared.tell(Why::Policy(reason), self.port, &octets);
                }
            }
            Fate::Over { over, counted, bytes } => {
                self.shared.count(over.name(), counted, bytes);
                self.shared.tell(Why::Limit(over), self.port, &octets);
            }
            Fate::Answered(answer) => self.answer(answer),
            Fate::Forwarded(done) => {
                let counter = if matches!(done.verdict, Verdict::ToLink(_)) { TO_PRIVATE } else { FROM_PRIVATE };
                self.shared.count(counter, done.counted, done.bytes);
                for packet in done.packets {
                    self.deliver(done.index, done.neighbour, offload, packet, &octets);
                }
            }
        }
    }

    /// Sends an error. When its own neighbour is silent, nobody is told.
    fn answer(&mut self, answer: Answer) {
        if answer.is_upkeep {
            self.shared.count(LINK_UPKEEP, 1, answer.packet.len().try_into().unwrap_or(u64::MAX));
        }
        self.deliver(answer.index, answer.neighbour, Offload::default(), answer.packet, &[]);
    }

    /// Sends a packet, or lets it wait for its neighbour, behind those that already do.
    fn deliver(&mut self, index: u32, neighbour: IpAddr, offload: Offload, packet: Vec<u8>, came: &[u8]) {
        let queued = self.waiting.iter().any(|waiting| (waiting.index, waiting.neighbour) == (index, neighbour));
        if !queued {
            if let Some(mac) = self.shared.asker.mac(index, neighbour) {
                return self.shared.send(index, mac, &offload, &packet);
            }
            self.shared.asker.ask(index, neighbour);
        }
        if self.waiting.len() < WAITING {
            let (came, since) = (came.to_vec(), Instant::now());
            self.waiting.push(Waiting { index, neighbour, offload, packet, came, since });
        }
    }

    /// Sends what has its neighbour now, and tells the sources of what will never have it.
    fn look_after(&mut self) {
        for waiting in std::mem::take(&mut self.waiting) {
            match self.shared.asker.neighbour(waiting.index, waiting.neighbour) {
                Neighbour::Known(mac) | Neighbour::Stale(mac) => {
                    self.shared.send(waiting.index, mac, &waiting.offload, &waiting.packet);
                }
                Neighbour::Asked | Neighbour::Unknown if waiting.since.elapsed() < WAIT => self.waiting.push(waiting),
                Neighbour::Asked | Neighbour::Unknown | Neighbour::Silent => {
                    let frame = Frame { port: self.port, octets: &waiting.came, segment: None };
                    if let Fate::Answered(answer) = self.shared.unreachable(&frame) {
                        self.answer(answer);
                    }
                }
            }
        }
    }
}

/// Without the Ethernet header and padding.
fn packet_length(frame: &[u8]) -> u64 {
    let packet = frame.get(14..).unwrap_or_default();
    forwarder_core::user::length(packet).unwrap_or(packet.len()).try_into().unwrap_or(u64::MAX)
}

impl Shared {
    fn step(&self, frame: &Frame<'_>) -> Fate {
        let user = self.user();
        user.step(frame, self.now(), &mut |address| self.way(&user, address))
    }

    fn unreachable(&self, frame: &Frame<'_>) -> Fate {
        let user = self.user();
        user.unreachable(frame, self.now(), &mut |address| self.way(&user, address))
    }

    fn way(&self, user: &User, address: IpAddr) -> Way {
        self.asker.way(address, |index| user.host().ports.contains_key(&index))
    }

    /// Sends a packet to the neighbour with this link-layer address.
    fn send(&self, index: u32, to: [u8; 6], offload: &Offload, packet: &[u8]) {
        let from = self.user().host().ports.get(&index).map(|port| port.mac);
        let kind: [u8; 2] = if packet.first().is_some_and(|first| first >> 4 == 4) { [8, 0] } else { [0x86, 0xdd] };
        let sender = lock(&self.senders).get(&index).cloned();
        let (Some(from), Some(sender)) = (from, sender) else { return };
        let frame = [offload.octets(), &to, &from, &kind, packet].concat();
        // A frame that the interface does not take is lost, as on any wire.
        if let Some(Err(error)) = lock(&sender).send_to(&frame, None) {
            tracing::debug!(index, %error, "a frame is not sent");
        }
    }
}
