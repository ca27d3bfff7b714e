//! One connection: what waits to be sent on it, how it is made, and how it ends.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::task::Poll;
use std::time::Duration;

use bgp_core::{Ends, LinkId, Session};
use bgp_wire::Families;
use mrt_wire::writer::{Direction, Style};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::config::Peer;
use crate::mrt::Tape;

/// A peer that leaves this much unread is given up.
const BACKLOG_LIMIT: usize = 1 << 20;
/// How long a closing connection may take to hear our last words.
const FAREWELL: Duration = Duration::from_secs(1);

pub(super) struct Link {
    pub(super) stream: TcpStream,
    /// Sent by the session and not yet taken by the socket.
    pub(super) backlog: Vec<u8>,
    /// Octets that the socket has taken.
    pub(super) taken: u64,
    /// What the peer had acknowledged before any of them.
    pub(super) base: u64,
    pub(super) tape: Option<Tape>,
}

pub(super) enum Readiness {
    Read,
    Write,
}

impl Link {
    pub(super) fn send(&mut self, bytes: &[u8], style: Style) {
        self.backlog.extend_from_slice(bytes);
        if let Some(tape) = &mut self.tape {
            tape.pass(Direction::Sent, bytes, style);
        }
    }

    pub(super) fn ends(&self) -> Option<Ends> {
        let (local, remote) = (self.stream.local_addr().ok()?, self.stream.peer_addr().ok()?);
        Some(Ends { local: local.ip().to_canonical(), remote: remote.ip().to_canonical() })
    }

    pub(super) fn flush(&mut self) -> std::io::Result<()> {
        while !self.backlog.is_empty() {
            match self.stream.try_write(&self.backlog) {
                Ok(written) => {
                    self.backlog.drain(..written);
                    self.taken += written as u64;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        if self.backlog.len() > BACKLOG_LIMIT {
            return Err(std::io::Error::new(ErrorKind::TimedOut, "the peer does not read what we send"));
        }
        Ok(())
    }
}

/// How the session's messages in one direction are written, as far as it is settled.
pub(super) fn style(session: &Session, id: LinkId, direction: Direction) -> Style {
    let context = session.negotiated(id).map(|agreed| match direction {
        Direction::Received => agreed.incoming,
        Direction::Sent => agreed.context,
    });
    context.map_or(Style { four_octet_as: true, path_ids: false }, |context| Style {
        four_octet_as: context.four_octet_as,
        path_ids: context.path_ids != Families::NONE,
    })
}

/// Waits until a connection has something to read, or takes what waits to be written, or what can be made for it if it
/// is the `hungry` one: another beside it, which is tracked until its OPEN comes, says nothing about that.
pub(super) async fn ready(links: &BTreeMap<LinkId, Link>, hungry: Option<LinkId>) -> (LinkId, Readiness) {
    poll_fn(|cx| {
        for (id, link) in links {
            if (hungry == Some(*id) || !link.backlog.is_empty()) && link.stream.poll_write_ready(cx).is_ready() {
                return Poll::Ready((*id, Readiness::Write));
            }
            if link.stream.poll_read_ready(cx).is_ready() {
                return Poll::Ready((*id, Readiness::Read));
            }
        }
        Poll::Pending
    })
    .await
}

pub(super) async fn connect(peer: &Peer) -> std::io::Result<TcpStream> {
    let to = peer.address;
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(from) = peer.local_address {
        socket.bind(SocketAddr::new(from, 0))?;
    }
    peer.protection.before_connecting(&socket, to.ip())?;
    socket.connect(to).await
}

/// Says the last words and waits until the peer has heard them: closing a socket with something unread in it
/// would reset the connection and take the NOTIFICATION with it.
pub(super) async fn farewell(mut link: Link) {
    let words = async {
        link.stream.write_all(&link.backlog).await?;
        link.stream.shutdown().await?;
        let mut unread = [0; 1024];
        while link.stream.read(&mut unread).await? > 0 {}
        std::io::Result::Ok(())
    };
    // However it ends, the connection is closed.
    let _ = tokio::time::timeout(FAREWELL, words).await;
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use bgp_core::Settings;
    use bgp_wire::{Asn, HoldTime, RouterId};
    use cloakway_types::Instant;
    use tokio::net::TcpListener;

    use super::*;

    fn ids() -> [LinkId; 2] {
        let settings = Settings {
            local_as: Asn(64500),
            router_id: RouterId::new([10, 0, 0, 1].into()).unwrap(),
            remote_as: Asn(64500),
            hold_time: HoldTime::from_secs(9).unwrap(),
            passive: true,
            private: Default::default(),
            export: bgp_core::Export::All,
            options: Default::default(),
        };
        let mut session = Session::new(settings, 1, Instant::ORIGIN);
        [session.new_link(), session.new_link()]
    }

    #[tokio::test]
    async fn a_connection_beside_the_established_one_does_not_take_for_it() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mut links, mut far_ends) = (BTreeMap::new(), Vec::new());
        for id in ids() {
            let stream = TcpStream::connect(address).await.unwrap();
            stream.writable().await.unwrap();
            links.insert(id, Link { stream, backlog: Vec::new(), taken: 0, base: 0, tape: None });
            far_ends.push(listener.accept().await.unwrap().0);
        }
        let [tracked, established] = ids();
        let soon = Duration::from_millis(50);
        let (id, _) = tokio::time::timeout(soon, ready(&links, Some(established))).await.unwrap();
        assert_eq!(id, established);
        // The far end reads nothing: in the end the kernel takes no more.
        let stream = &links[&established].stream;
        while tokio::time::timeout(soon, stream.writable()).await.is_ok() {
            while stream.try_write(&[0; 1 << 16]).is_ok() {}
        }
        let waited = tokio::time::timeout(soon, ready(&links, Some(established))).await;
        assert!(waited.is_err(), "it would be looked at again and again");
        far_ends[0].try_write(&[1]).unwrap();
        let (id, readiness) = tokio::time::timeout(soon, ready(&links, Some(established))).await.unwrap();
        assert!(id == tracked && matches!(readiness, Readiness::Read));
    }
}
