//! The other end of a BGP connection, by blocking calls.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use bgp_wire::{Context, ErrorCode, Framer, Message, Notification};
use socket2::{Domain, Socket, Type};

use super::{PATIENCE, encoded, open};

/// A scripted peer.
pub struct Peer {
    pub stream: TcpStream,
    pub framer: Framer,
    /// How the speaker's messages read.
    pub context: Context,
}

impl Peer {
    /// Connects to the speaker from `source`.
    pub fn connect(to: SocketAddr, source: Ipv4Addr) -> Self {
        Self::try_connect(to, source).unwrap()
    }

    /// The same, if it can.
    pub fn try_connect(to: SocketAddr, source: Ipv4Addr) -> std::io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((source, 0)).into())?;
        socket.connect_timeout(&to.into(), PATIENCE)?;
        Ok(Self::over(socket.into()))
    }

    /// Waits for the speaker to connect.
    pub fn accept(listener: &TcpListener) -> Self {
        Self::over(listener.accept().unwrap().0)
    }

    /// Speaks over this connection.
    pub fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, framer: Framer::default(), context: Context::default() }
    }

    /// Writes what it can: the speaker may have had enough.
    pub fn say(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Sends a message.
    pub fn send(&mut self, message: &Message) {
        self.say(&message.encode(self.context).unwrap());
    }

    /// The next message; `None` when the speaker closed.
    pub fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(frame) = self.framer.next_frame().unwrap() {
                return Some(Message::decode(frame, self.context).unwrap());
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => return None,
                Ok(length) => self.framer.push(&bytes[..length]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("neither a message nor an end: {error}"),
            }
        }
    }

    /// The next NOTIFICATION; what comes before it is passed over.
    pub fn notification(&mut self) -> (ErrorCode, Vec<u8>) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "no NOTIFICATION within {PATIENCE:?}");
            match self.next() {
                Some(Message::Notification(Notification { error, data })) => return (error, data),
                Some(_) => {}
                None => panic!("closed without a NOTIFICATION"),
            }
        }
    }

    /// Whether the session comes up, as AS 64500 with a hold time of 30 s; not while the speaker keeps the peer out for
    /// what it did before.
    pub fn establish(&mut self) -> bool {
        self.say(&encoded(&Message::Open(open(64500, [10, 0, 0, 9], 30))));
        if !matches!(self.next(), Some(Message::Open(_))) || self.next() != Some(Message::KeepAlive) {
            return false;
        }
        self.say(&encoded(&Message::KeepAlive));
        true
    }

    /// Reads until the speaker closes.
    pub fn until_closed(&mut self) {
        while self.next().is_some() {}
    }
}
