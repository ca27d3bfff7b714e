//! The ends: a raw socket in every namespace around the forwarder, held by this one process. Each sends what it is told,
//! keeps what arrives, and answers ARP and ND for the addresses that are behind it; there is no kernel address
//! at any end, so that nothing else is ever sent.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use pnet::datalink::{self, Channel, DataLinkSender};

use crate::packet::{neighbour, octets};

/// A frame that came out, and at which end.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    pub(crate) end: &'static str,
    pub(crate) frame: Vec<u8>,
}

/// What has come out so far.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    kept: Mutex<Vec<Arrival>>,
    more: Condvar,
}

impl Arrivals {
    fn push(&self, arrival: Arrival) {
        self.kept.lock().unwrap().push(arrival);
        self.more.notify_all();
    }

    /// Waits until what is there is `enough`, or the time is over; gives it all and keeps none of it.
    pub(crate) fn take(&self, patience: Duration, enough: impl Fn(&[Arrival]) -> bool) -> Vec<Arrival> {
        let deadline = Instant::now() + patience;
        let mut kept = self.kept.lock().unwrap();
        while !enough(&kept) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            kept = self.more.wait_timeout(kept, left).unwrap().0;
        }
        std::mem::take(&mut *kept)
    }
}

/// One end of the lab's wires.
pub(crate) struct End {
    pub(crate) name: &'static str,
    /// Its own hardware address, and that of the forwarder's interface at the other end of the wire.
    pub(crate) mac: [u8; 6],
    pub(crate) other: [u8; 6],
    sender: Arc<Mutex<Box<dyn DataLinkSender>>>,
    answers: Arc<Mutex<Answers>>,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

/// For which addresses an end answers, and with which hardware address.
#[derive(Debug)]
struct Answers {
    addresses: BTreeSet<IpAddr>,
    mac: [u8; 6],
}

impl End {
    /// To be called on a thread that is in the end's namespace: a socket stays where it was opened.
    pub(crate) fn open(
        name: &'static str,
        macs: ([u8; 6], [u8; 6]),
        addresses: BTreeSet<IpAddr>,
        arrivals: Arc<Arrivals>,
    ) -> Self {
        let interface = datalink::interfaces().into_iter().find(|found| found.name == "eth0").unwrap();
        let config = datalink::Config {
            read_timeout: Some(Duration::from_millis(50)),
            read_buffer_size: 1 << 17,
            write_buffer_size: 1 << 17,
            ..datalink::Config::default()
        };
        let Ok(Channel::Ethernet(sender, mut receiver)) = datalink::channel(&interface, config) else {
            panic!("no raw socket in {name}")
        };
        let (mac, other) = macs;
        let sender = Arc::new(Mutex::new(sender));
        let answers = Arc::new(Mutex::new(Answers { addresses, mac }));
        let stop = Arc::new(AtomicBool::new(false));
        let (sending, answering, stopping) = (sender.clone(), answers.clone(), stop.clone());
        let reader = thread::spawn(move || {
            while !stopping.load(Ordering::Relaxed) {
                // A timeout is the chance to stop.
                let Ok(frame) = receiver.next() else { continue };
                let answer = answering.lock().unwrap().answer(frame);
                if let Some(answer) = answer {
                    sending.lock().unwrap().send_to(&answer, None);
                }
                arrivals.push(Arrival { end: name, frame: frame.to_vec() });
            }
        });
        Self { name, mac, other, sender, answers, stop, reader: Some(reader) }
    }

    pub(crate) fn send(&self, frame: &[u8]) {
        self.sender.lock().unwrap().send_to(frame, None).unwrap().unwrap();
    }

    /// Answers for `address` with `mac` from now on, or not at all.
    pub(crate) fn answer_for(&self, address: IpAddr, mac: Option<[u8; 6]>) {
        let mut answers = self.answers.lock().unwrap();
        match mac {
            Some(mac) => {
                answers.addresses.insert(address);
                answers.mac = mac;
            }
            None => {
                answers.addresses.remove(&address);
            }
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.reader.take().unwrap().join();
    }
}

impl Answers {
    /// The answer to an ARP request or a neighbour solicitation for an address of ours.
    fn answer(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let target = asked(frame)?;
        if !self.addresses.contains(&target) {
            return None;
        }
        let (asker, target) = (frame.get(6..12)?, octets(target));
        if target.len() == 4 {
            let head = [asker, &self.mac, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2], &self.mac, &target].concat();
            return Some([&head, asker, frame.get(28..32)?].concat());
        }
        // Solicited, and this one over what is known (RFC 4861 §4.4).
        let body = [&[136, 0, 0, 0, 0x60, 0, 0, 0][..], &target, &[2, 1], &self.mac].concat();
        let packet = neighbour(&target, frame.get(22..38)?, body, None);
        Some([asker, &self.mac, &[0x86, 0xdd], &packet].concat())
    }
}

/// Whose hardware address a frame asks for.
pub(crate) fn asked(frame: &[u8]) -> Option<IpAddr> {
    match frame.get(12..14)? {
        [8, 6] if frame.get(20..22)? == [0, 1] => Some(IpAddr::from(<[u8; 4]>::try_from(frame.get(38..42)?).ok()?)),
        [0x86, 0xdd] if *frame.get(20)? == 58 && *frame.get(54)? == 135 => {
            Some(IpAddr::from(<[u8; 16]>::try_from(frame.get(62..78)?).ok()?))
        }
        _ => None,
    }
}

/// What a host says of itself, whoever sends what through it: ARP, neighbour discovery and group membership.
pub(crate) fn is_upkeep(frame: &[u8]) -> bool {
    match frame.get(12..14) {
        Some([8, 6]) => true,
        Some([0x86, 0xdd]) => match (frame.get(20), frame.get(54), frame.get(62)) {
            (Some(58), Some(133..=136), _) => true,
            // Reports of group membership come behind a router alert.
            (Some(0), Some(58), Some(130..=132 | 143)) => true,
            _ => false,
        },
        // IGMP.
        Some([8, 0]) => frame.get(23) == Some(&2),
        _ => false,
    }
}
