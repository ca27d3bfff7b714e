//! Captures on every interface of every namespace: packets of streams, and of private addresses, are on the access and
//! the private links alone, and there in the right direction.

use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use nix::sys::socket::sockopt::{RcvBufForce, ReceiveTimeout};
use nix::sys::socket::{LinkAddr, MsgFlags, recvmsg, setsockopt};
use nix::sys::time::{TimeVal, TimeValLike as _};
use socket2::{Domain, Protocol, Socket, Type};

use super::{FAR4, FAR6, Lab, MARK, PATIENCE};

/// What a frame is to its interface (`linux/if_packet.h`).
const OUTGOING: u8 = 4;

/// Frames that the captures may wait for, in octets.
const BUFFER: usize = 32 << 20;

/// Captures that are running.
pub(crate) struct Watch {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Seen {
    /// Frames with a mark or a private address, by namespace and interface.
    frames: BTreeMap<(String, String), u64>,
    /// Those that must not be there: the first of them, in words.
    wrong: Vec<String>,
}

/// What may be on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Everything: a private link, or what carries one.
    Private,
    /// What goes to private addresses one way, and what comes from them the other way; `true` where subscribers' packets go out.
    Access(bool),
    /// Nothing.
    Other,
}

fn kind(short: &str, interface: &str) -> Kind {
    match (short, interface) {
        ("sub", "eth0") => Kind::Access(true),
        ("isp", "edge0") => Kind::Access(false),
        ("isp" | "far", name) if ["priv", "und", "vx", "deep"].iter().any(|link| name.starts_with(link)) => {
            Kind::Private
        }
        _ => Kind::Other,
    }
}

impl Lab {
    /// Watches all interfaces of all namespaces from now on, also those that come later.
    pub(crate) fn watch(&self) -> Watch {
        let (seen, stop) = (Arc::<Mutex<Seen>>::default(), Arc::<AtomicBool>::default());
        let mut threads = Vec::new();
        for short in ["sub", "isp", "far", "net"] {
            let (stopping, noting) = (stop.clone(), seen.clone());
            let (ready, opened) = channel();
            threads.push(self.within(short, move || {
                // ETH_P_ALL, on all interfaces.
                let all = Some(Protocol::from(i32::from(3_u16.to_be())));
                let socket = OwnedFd::from(Socket::new(Domain::PACKET, Type::RAW, all).unwrap());
                setsockopt(&socket, RcvBufForce, &BUFFER).unwrap();
                setsockopt(&socket, ReceiveTimeout, &TimeVal::milliseconds(50)).unwrap();
                ready.send(()).unwrap();
                let mut buffer = [0; 2048];
                let mut names = BTreeMap::new();
                loop {
                    let mut part = [IoSliceMut::new(&mut buffer)];
                    let got = recvmsg::<LinkAddr>(socket.as_raw_fd(), &mut part, None, MsgFlags::empty());
                    let Ok(got) = got else {
                        // Nothing is waiting any more.
                        if stopping.load(Ordering::Relaxed) {
                            return;
                        }
                        continue;
                    };
                    let (Some(from), length) = (got.address, got.bytes) else { continue };
                    let index = u32::try_from(from.ifindex()).unwrap();
                    // An interface that is gone by now has told its name before, or is one that is made anew: a private link.
                    let name = names.entry(index).or_insert_with(|| name_of(index));
                    note(&noting, short, name, from.pkttype() == OUTGOING, &buffer[..length]);
                }
            }));
            opened.recv_timeout(PATIENCE).unwrap();
        }
        Watch { seen, stop, threads }
    }
}

fn name_of(index: u32) -> String {
    let named = nix::net::if_::if_indextoname(index);
    named.map(|name| name.to_string_lossy().into_owned()).unwrap_or_else(|_| "priv-gone".to_owned())
}

fn note(seen: &Mutex<Seen>, short: &str, interface: &str, is_outgoing: bool, frame: &[u8]) {
    let has = |octets: &[u8]| frame.windows(octets.len()).any(|window| window == octets);
    let private = [FAR4, FAR6].map(|text| match text.parse::<IpAddr>().unwrap() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    });
    if !has(MARK) && !private.iter().any(|address| has(address)) {
        return;
    }
    let mut seen = seen.lock().unwrap();
    *seen.frames.entry((short.to_owned(), interface.to_owned())).or_default() += 1;
    let wrong = match kind(short, interface) {
        Kind::Private => None,
        Kind::Other => Some("nothing of it may be here"),
        Kind::Access(sends) => {
            let (source, destination) = ends(frame);
            let is_private = |end: &[u8]| private.iter().any(|address| address == end);
            let is_from_subscribers = is_outgoing == sends;
            match (is_private(source), is_private(destination)) {
                (true, _) if is_from_subscribers => Some("a private source comes from subscribers"),
                (_, true) if !is_from_subscribers => Some("a private destination goes to subscribers"),
                _ => None,
            }
        }
    };
    if let Some(wrong) = wrong.filter(|_| seen.wrong.len() < 10) {
        seen.wrong.push(format!("{short} {interface}, outgoing {is_outgoing}: {wrong}: {frame:02x?}"));
    }
}

/// Source and destination of the IP packet in a frame; nothing where there is none.
fn ends(frame: &[u8]) -> (&[u8], &[u8]) {
    let part = |from: usize, length: usize| frame.get(from..from + length).unwrap_or_default();
    match part(12, 2) {
        [0x08, 0x00] => (part(26, 4), part(30, 4)),
        [0x86, 0xdd] => (part(22, 16), part(38, 16)),
        _ => (&[], &[]),
    }
}

impl Watch {
    /// Fails when something was where it must not be, and when the captures saw nothing where something had to be.
    pub(crate) fn clean(mut self, lab: &Lab) {
        self.end();
        let seen = self.seen.lock().unwrap();
        assert!(seen.wrong.is_empty(), "{}", seen.wrong.join("\n"));
        // Not at the forwarder's own end: what XDP forwards is seen by no socket there, but at the other end of each wire.
        let frames = seen.frames.get(&("sub".to_owned(), "eth0".to_owned())).copied().unwrap_or_default();
        assert!(frames > 0, "the captures saw nothing: {:?}", seen.frames);
        assert_eq!(lab.leaked(), 0, "at the Internet's door");
    }

    /// Reads what is waiting, and ends.
    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end();
    }
}
