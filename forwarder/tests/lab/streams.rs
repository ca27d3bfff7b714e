//! Numbered streams from the subscriber, whose answers are counted.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{FAR4, FAR6, Lab, MARK, SUB4, SUB6, eventually};

impl Lab {
    /// A steady stream from the subscriber to a private network address, and how many answers came.
    fn stream(&self, from: &str, to: &str, port: u16) -> Stream {
        let from: IpAddr = from.parse().unwrap();
        let to = SocketAddr::new(to.parse().unwrap(), port);
        let counts = Arc::new(Counts::default());
        let stop = Arc::new(AtomicBool::new(false));
        let (counting, stopping) = (counts.clone(), stop.clone());
        let thread = self.within("sub", move || {
            let socket = UdpSocket::bind((from, 0)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
            let mut buffer = [0; 64];
            let mut answered = std::collections::BTreeSet::new();
            let mut take = || {
                while let Ok((length, _)) = socket.recv_from(&mut buffer) {
                    assert!(answered.insert(buffer[..length].to_vec()), "an answer came twice");
                    counting.answered.fetch_add(1, Ordering::Relaxed);
                }
            };
            while !stopping.load(Ordering::Relaxed) {
                let number = counting.sent.fetch_add(1, Ordering::Relaxed);
                // The send of the next packet after an ICMP error reports that error.
                let _ = socket.send_to(&[MARK, &number.to_be_bytes()].concat(), to);
                take();
            }
            socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            take();
        });
        Stream { counts, stop, thread }
    }

    /// Streams to both echoes.
    pub(crate) fn streams(&self) -> Streams {
        Streams([self.stream(SUB4, FAR4, 7000), self.stream(SUB6, FAR6, 7001)])
    }
}

#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    answered: AtomicU64,
}

struct Stream {
    counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Stream {
    fn answered(&self) -> u64 {
        self.counts.answered.load(Ordering::Relaxed)
    }

    /// Waits for `count` more packets to be sent.
    fn more_sent(&self, count: u64) {
        let from = self.counts.sent.load(Ordering::Relaxed);
        eventually("packets sent", || (self.counts.sent.load(Ordering::Relaxed) >= from + count).then_some(()));
    }

    /// Waits for `count` more answers.
    fn more_answers(&self, count: u64) {
        let from = self.answered();
        eventually("packets answered", || (self.answered() >= from + count).then_some(()));
    }

    /// Ends it: packets sent, answers received.
    fn end(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        (self.counts.sent.load(Ordering::Relaxed), self.counts.answered.load(Ordering::Relaxed))
    }
}

/// One stream of each IP version.
pub(crate) struct Streams([Stream; 2]);

impl Streams {
    pub(crate) fn more_sent(&self, count: u64) {
        self.0.iter().for_each(|stream| stream.more_sent(count));
    }

    pub(crate) fn more_answers(&self, count: u64) {
        self.0.iter().for_each(|stream| stream.more_answers(count));
    }

    pub(crate) fn end(self) -> [(u64, u64); 2] {
        self.0.map(Stream::end)
    }
}
