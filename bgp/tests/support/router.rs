//! A router, played by the test.

use std::net::SocketAddr;

use bgp_wire::{Context, ErrorCode, Framer, Message};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::{open, soon};

/// The other end of a BGP connection.
pub struct Router {
    pub stream: TcpStream,
    framer: Framer,
}

impl Router {
    /// Speaks over this connection.
    pub fn over(stream: TcpStream) -> Self {
        Self { stream, framer: Framer::default() }
    }

    /// Waits for the speaker to connect.
    pub async fn accept(listener: &TcpListener) -> Self {
        Self::over(soon("a connection", listener.accept()).await.unwrap().0)
    }

    /// Connects to the speaker at a port of 127.0.0.1.
    pub async fn connect(from: &str, port: u16) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
        Self::over(soon("a connection", socket.connect(([127, 0, 0, 1], port).into())).await.unwrap())
    }

    /// Waits for the speaker, as AS 64500, until the session stands.
    pub async fn established(listener: &TcpListener) -> Self {
        let mut router = Self::accept(listener).await.opened(64500).await;
        assert_eq!(router.next().await, Some(Message::KeepAlive));
        router
    }

    /// Says what it takes for a session, as a router of AS `asn`.
    pub async fn opened(mut self, asn: u32) -> Self {
        self.send(Message::Open(open(asn, [198, 51, 100, 1], 90))).await;
        assert!(matches!(self.next().await, Some(Message::Open(_))));
        self.send(Message::KeepAlive).await;
        self
    }

    /// Sends a message.
    pub async fn send(&mut self, message: Message) {
        self.send_bytes(&message.encode(Context::default()).unwrap()).await;
    }

    /// Sends this, as it is.
    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next message; `None` when the speaker closed.
    pub async fn next(&mut self) -> Option<Message> {
        soon("a message", async {
            loop {
                if let Some(frame) = self.framer.next_frame().unwrap() {
                    return Some(Message::decode(frame, Context::default()).unwrap());
                }
                let mut bytes = Vec::new();
                // A reset is an end, too.
                if self.stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                    return None;
                }
                self.framer.push(&bytes);
            }
        })
        .await
    }

    /// The next routes, or the end of what there was.
    pub async fn routes(&mut self) -> String {
        // KEEPALIVEs alone are no end of waiting.
        soon("routes", self.told()).await
    }

    async fn told(&mut self) -> String {
        loop {
            match self.next().await {
                Some(Message::KeepAlive) => self.send(Message::KeepAlive).await,
                Some(Message::Update(update)) if update.ends_rib_of().is_some() => return "end".to_owned(),
                Some(Message::Update(update)) => {
                    let gone = update.unreachable().map(|prefix| format!("-{prefix}"));
                    let mut all: Vec<String> =
                        gone.chain(update.reachable().map(|prefix| format!("+{prefix}"))).collect();
                    all.sort();
                    return all.join(" ");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// The next NOTIFICATION, behind which the speaker closes; KEEPALIVEs and UPDATEs before it are passed over.
    pub async fn notification(&mut self) -> (ErrorCode, Vec<u8>) {
        loop {
            match self.next().await {
                Some(Message::Notification(notification)) => {
                    assert_eq!(self.next().await, None, "the speaker closes after a NOTIFICATION");
                    return (notification.error, notification.data);
                }
                Some(Message::KeepAlive | Message::Update(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// How the speaker ends it.
    pub async fn ended(&mut self) -> Option<ErrorCode> {
        loop {
            match self.next().await {
                Some(Message::Notification(notification)) => return Some(notification.error),
                Some(_) => {}
                None => return None,
            }
        }
    }
}
