//! NASes that send as much as is answered, and what came of it.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

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
                std::thread::spawn(move || Client::new(server, secret, first).run(window, seconds))
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
    packet: Vec<u8>,
    first: Instant,
    last: Instant,
}

struct Client {
    socket: UdpSocket,
    secret: String,
    number: u32,
    sessions: u32,
    waiting: Vec<Option<Waiting>>,
    again: u64,
}

impl Client {
    fn new(server: SocketAddr, secret: String, number: u32) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(server).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let waiting = (0..256).map(|_| None).collect();
        Self { socket, secret, number, sessions: 0, waiting, again: 0 }
    }

    fn send(&mut self, identifier: u8) {
        self.sessions += 1;
        let (number, session) = (self.number, self.sessions);
        let user = format!("user{number}-{session}");
        let name = format!("{number:04x}{session:08x}");
        // Addresses of 10.0.0.0/8, each client's from a part of its own.
        let address = ((10 << 24) | ((number % 16) << 20) | (session % (1 << 20))).to_be_bytes();
        let attributes: [(u8, &[u8]); 7] = [
            (40, &[0, 0, 0, 1]),
            (44, name.as_bytes()),
            (1, user.as_bytes()),
            (32, b"edge"),
            (4, &[198, 51, 100, 1]),
            (5, &session.to_be_bytes()),
            (8, &address),
        ];
        let secret = self.secret.as_bytes();
        let packet = build_request(Request::Accounting, identifier, &attributes, secret, [0; 16], false).unwrap();
        self.socket.send(&packet).unwrap();
        let now = Instant::now();
        self.waiting[usize::from(identifier)] = Some(Waiting { packet, first: now, last: now });
    }

    fn run(mut self, window: usize, seconds: Duration) -> (Vec<Duration>, u64) {
        let begun = Instant::now();
        let mut took = Vec::with_capacity(1 << 20);
        (0..window).for_each(|n| self.send(n as u8));
        let mut looked = begun;
        let mut buffer = [0; 4096];
        while begun.elapsed() < seconds {
            if let Ok(length) = self.socket.recv(&mut buffer) {
                let answer = Packet::parse(&buffer[..length]).unwrap();
                let identifier = answer.identifier();
                // A second answer to what was sent again.
                let Some(waiting) = self.waiting[usize::from(identifier)].take() else { continue };
                let asked = Packet::parse(&waiting.packet).unwrap().authenticator();
                if answer.verify_response(&asked, self.secret.as_bytes(), false).is_err() {
                    self.waiting[usize::from(identifier)] = Some(waiting);
                    continue;
                }
                took.push(waiting.first.elapsed());
                self.send(identifier);
            }
            if looked.elapsed() > Duration::from_millis(200) {
                looked = Instant::now();
                for waiting in self.waiting.iter_mut().flatten().filter(|waiting| waiting.last.elapsed() > AGAIN) {
                    waiting.last = Instant::now();
                    self.again += 1;
                    self.socket.send(&waiting.packet).unwrap();
                }
            }
        }
        (took, self.again)
    }
}
