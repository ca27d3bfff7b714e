//! A peer that takes everything and notes when each octet came: on the loopback, a thread of the bench.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bgp_wire::{Asn, Context, Family, Framer, HoldTime, Message, Open, RouterId};

use super::until;

/// When an UPDATE with the marked prefix 10.255.a.b/32 came: as a withdrawal, and as an announcement.
pub(crate) type Marked = Arc<Mutex<HashMap<(bool, [u8; 2]), Instant>>>;

/// A peer that takes everything, and what it saw.
pub(crate) struct Sink {
    pub(crate) port: u16,
    pub(crate) messages: Arc<AtomicU64>,
    pub(crate) octets: Arc<AtomicU64>,
    pub(crate) ends: Arc<AtomicU64>,
    pub(crate) marked: Marked,
}

impl Sink {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let sink = Self {
            port: listener.local_addr().unwrap().port(),
            messages: Arc::default(),
            octets: Arc::default(),
            ends: Arc::default(),
            marked: Arc::default(),
        };
        let (messages, octets) = (sink.messages.clone(), sink.octets.clone());
        let (ends, marked) = (sink.ends.clone(), sink.marked.clone());
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                take(stream, &messages, &octets, &ends, &marked);
            }
        });
        sink
    }

    pub(crate) fn peer(&self, n: usize) -> String {
        format!(
            "[[peers]]\nname = \"p{n}\"\nremote-as = 64500\naddress = \"127.0.0.{}\"\nport = {}\nhold-time-s = 90\n",
            n + 1,
            self.port
        )
    }

    /// Waits for the host 10.255.`a`.`b` to be announced, or withdrawn, and says when that was; what was seen before counts.
    pub(crate) fn saw(&self, withdrawn: bool, host: [u8; 2]) -> Instant {
        until("the host at the peer", || self.marked.lock().unwrap().remove(&(withdrawn, host)))
    }

    pub(crate) fn quiet(&self) {
        let mut last = self.octets.load(Ordering::Relaxed);
        let mut since = Instant::now();
        until("the end of the stream", || {
            let now = self.octets.load(Ordering::Relaxed);
            if now != last {
                (last, since) = (now, Instant::now());
            }
            (since.elapsed() > Duration::from_millis(400)).then_some(())
        });
    }
}

fn take(mut stream: TcpStream, messages: &AtomicU64, octets: &AtomicU64, ends: &AtomicU64, marked: &Marked) {
    let open = Open::new(
        Asn(64500),
        HoldTime::from_secs(90).unwrap(),
        RouterId::new([192, 0, 2, 9].into()).unwrap(),
        Family::ALL,
    );
    for message in [Message::Open(open), Message::KeepAlive] {
        stream.write_all(&message.encode(Context::default()).unwrap()).unwrap();
    }
    let (mut framer, mut bytes) = (Framer::default(), vec![0; 1 << 18]);
    while let Ok(count @ 1..) = stream.read(&mut bytes) {
        let now = Instant::now();
        octets.fetch_add(count as u64, Ordering::Relaxed);
        framer.push(&bytes[..count]);
        while let Ok(Some(frame)) = framer.next_frame() {
            if frame[18] == 4 {
                // So that a long run outlives the hold time.
                let _ = stream.write_all(&Message::KeepAlive.encode(Context::default()).unwrap());
            }
            if frame[18] != 2 {
                continue;
            }
            if frame.len() < 40
                && let Ok(Message::Update(update)) = Message::decode(frame, Context::default())
                && update.ends_rib_of().is_some()
            {
                ends.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            messages.fetch_add(1, Ordering::Relaxed);
            if frame.len() < 600 {
                let withdrawn = frame[19..21] != [0, 0];
                for at in 21..frame.len().saturating_sub(4) {
                    if frame[at..at + 3] == [32, 10, 255] {
                        marked.lock().unwrap().insert((withdrawn, [frame[at + 3], frame[at + 4]]), now);
                    }
                }
            }
        }
    }
}
