//! UDP sockets that take a burst: large buffers, several at one address, many packets and many answers at once, and what the
//! kernel dropped nevertheless.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use cloakway_runtime::Stop;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, getsockopt, recvmmsg, sendmsg,
    setsockopt, sockopt,
};
use nix::{cmsg_space, getsockopt_impl, libc, sockopt_impl};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::tally::Tally;

/// How often the kernel is asked.
const INTERVAL: Duration = Duration::from_secs(1);
/// Where the drops are in what [`MemoryInfo`] gives (`SK_MEMINFO_DROPS`, linux/sock_diag.h).
const DROPS: usize = 8;

sockopt_impl!(
    /// How full a socket is, and what it dropped.
    MemoryInfo, GetOnly, libc::SOL_SOCKET, libc::SO_MEMINFO, [u32; 9]
);

/// Opens `count` sockets at `listen`, each with room for `buffer` octets as far as this host allows.
///
/// What one NAS process sends comes to one of them, in order: the kernel chooses by addresses and ports.
///
/// # Errors
/// The address is taken, or not ours.
pub fn open(listen: SocketAddr, count: usize, buffer: usize) -> io::Result<Vec<UdpSocket>> {
    // Sharing an address would also hide that somebody else is there already.
    let (address, first) = {
        let first = socket(listen, buffer, false)?;
        (first.local_addr()?.as_socket().unwrap_or(listen), first)
    };
    if count <= 1 {
        return Ok(vec![UdpSocket::from_std(first.into())?]);
    }
    drop(first);
    (0..count).map(|_| UdpSocket::from_std(socket(address, buffer, true)?.into())).collect()
}

fn socket(listen: SocketAddr, buffer: usize, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(listen), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    socket.set_reuse_port(shared)?;
    // Past net.core.rmem_max with CAP_NET_ADMIN, up to it without.
    if setsockopt(&socket, sockopt::RcvBufForce, &buffer).is_err() {
        socket.set_recv_buffer_size(buffer)?;
    }
    socket.bind(&listen.into())?;
    Ok(socket)
}

/// Datagrams that the kernel cuts one piece of memory into, or gives as one, at most (`UDP_MAX_SEGMENTS`, linux/udp.h).
const SEGMENTS: usize = 64;
/// Messages that are taken by one call.
const MESSAGES: usize = 16;
/// The longest message: datagrams that came together are given as one.
const MESSAGE: usize = 65_536;
/// Datagrams that one call takes at most.
pub(super) const TOGETHER: usize = MESSAGES * SEGMENTS;

/// Takes what has arrived at a socket. What one sender sent at once may come in one piece (UDP GRO), as the device or the
/// loopback had it; the memory of a message is not touched before one is so long.
#[derive(Debug)]
pub(super) struct Inbox {
    memory: Vec<u8>,
    messages: Vec<Message>,
}

/// Datagrams of one sender: all are of one length, but for the last one, which may be shorter.
#[derive(Debug, Clone, Copy)]
struct Message {
    from: SocketAddr,
    length: usize,
    each: usize,
}

impl Inbox {
    /// For what comes to `socket`.
    pub(super) fn new(socket: &UdpSocket) -> Self {
        // An older kernel gives each alone.
        let _ = setsockopt(socket, sockopt::UdpGroSegment, &true);
        Self { memory: vec![0; MESSAGES * MESSAGE], messages: Vec::with_capacity(MESSAGES) }
    }

    /// Takes what is there now.
    ///
    /// # Errors
    /// There is nothing, or an ICMP error about an earlier answer comes back.
    pub(super) fn take(&mut self, socket: &UdpSocket) -> io::Result<()> {
        let Self { memory, messages } = self;
        messages.clear();
        socket.try_io(Interest::READABLE, || {
            let mut slices: Vec<[IoSliceMut<'_>; 1]> =
                memory.chunks_mut(MESSAGE).map(|part| [IoSliceMut::new(part)]).collect();
            let mut heads = MultiHeaders::<SockaddrStorage>::preallocate(MESSAGES, Some(cmsg_space!(i32)));
            let taken = recvmmsg(socket.as_raw_fd(), &mut heads, &mut slices, MsgFlags::MSG_DONTWAIT, None)?;
            for message in taken {
                let (from, length) = (message.address.and_then(|from| address(&from)), message.bytes);
                let together = message.cmsgs().ok().and_then(|mut all| {
                    all.find_map(|more| match more {
                        ControlMessageOwned::UdpGroSegments(each) => usize::try_from(each).ok(),
                        _ => None,
                    })
                });
                // Without a sender it is nobody's.
                let from = from.unwrap_or(([0; 4], 0).into());
                messages.push(Message { from, length, each: together.unwrap_or(length) });
            }
            Ok(())
        })
    }

    /// What was taken, by sender.
    pub(super) fn datagrams(&self) -> impl Iterator<Item = (SocketAddr, impl Iterator<Item = &[u8]>)> {
        self.messages.iter().zip(self.memory.chunks(MESSAGE)).map(|(message, memory)| {
            let Message { from, length, each } = *message;
            let octets = memory.get(..length).unwrap_or_default();
            // An empty datagram is one, too.
            let alone = (length <= each).then_some(octets);
            let several = if alone.is_some() { &[] } else { octets };
            (from, alone.into_iter().chain(several.chunks(each.max(1))))
        })
    }
}

fn address(of: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = of.as_sockaddr_in().map(|address| std::net::SocketAddrV4::from(*address).into());
    v4.or_else(|| of.as_sockaddr_in6().map(|address| std::net::SocketAddrV6::from(*address).into()))
}

/// Sends answers. Those of one length to one place go through the kernel once, and are cut into datagrams behind all that costs.
pub(super) async fn send_all(socket: &UdpSocket, mut answers: Vec<(Vec<u8>, SocketAddr)>) {
    // Stable: what one NAS is told keeps its order.
    answers.sort_by_key(|(answer, to)| (*to, answer.len()));
    for run in answers.chunk_by(|(one, to), (other, also)| (one.len(), to) == (other.len(), also)) {
        for some in run.chunks(SEGMENTS) {
            let ([(answer, to), ..], true) = (some, some.len() > 1) else {
                for (answer, to) in some {
                    let _ = socket.send_to(answer, to).await;
                }
                continue;
            };
            let sent = send_cut(socket, some, answer.len(), *to).await;
            // A device that cannot, or an older kernel.
            if sent.is_err() {
                for (answer, to) in some {
                    let _ = socket.send_to(answer, to).await;
                }
            }
        }
    }
}

async fn send_cut(socket: &UdpSocket, some: &[(Vec<u8>, SocketAddr)], length: usize, to: SocketAddr) -> io::Result<()> {
    let segment = u16::try_from(length).map_err(io::Error::other)?;
    let mut whole = Vec::with_capacity(some.len() * length);
    some.iter().for_each(|(answer, _)| whole.extend_from_slice(answer));
    let to = SockaddrStorage::from(to);
    let send = || {
        let how = [ControlMessage::UdpGsoSegments(&segment)];
        let sent = sendmsg(socket.as_raw_fd(), &[IoSlice::new(&whole)], &how, MsgFlags::MSG_DONTWAIT, Some(&to));
        sent.map(drop).map_err(io::Error::from)
    };
    socket.async_io(Interest::WRITABLE, send).await
}

/// Counts what the kernel drops at `socket`, until the stop.
pub(super) async fn watch(socket: &UdpSocket, place: &str, tally: &Tally, stop: &Stop) {
    let mut known = 0_u32;
    tally.kernel_dropped(place, 0);
    loop {
        if let Some(drops) = drops(socket) {
            tally.kernel_dropped(place, u64::from(drops.wrapping_sub(known)));
            known = drops;
        }
        tokio::select! {
            () = stop.told() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

fn drops(socket: &UdpSocket) -> Option<u32> {
    getsockopt(socket, MemoryInfo).ok()?.get(DROPS).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn several_sockets_share_an_address_that_nobody_else_has() {
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        let sockets = open(any, 3, 1 << 20).unwrap();
        let address = sockets[0].local_addr().unwrap();
        assert!(sockets.iter().all(|socket| socket.local_addr().unwrap() == address));
        assert!(open(address, 1, 1 << 20).is_err() && open(address, 2, 1 << 20).is_err());
    }

    #[tokio::test]
    async fn answers_of_any_length_to_anybody_arrive_each_as_one_datagram() {
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        let socket = open(any, 1, 1 << 20).unwrap().remove(0);
        let to = [UdpSocket::bind(any).await.unwrap(), UdpSocket::bind(any).await.unwrap()];
        let address = [to[0].local_addr().unwrap(), to[1].local_addr().unwrap()];
        let answers: Vec<_> = (0..300_usize)
            .map(|n| (vec![n as u8; if n % 7 == 0 { 38 } else { 20 }], address[usize::from(n % 3 == 0)]))
            .collect();
        send_all(&socket, answers.clone()).await;
        for (socket, address) in to.iter().zip(address) {
            let mut expected: Vec<_> =
                answers.iter().filter(|(_, to)| *to == address).map(|(of, _)| of.clone()).collect();
            let mut got = Vec::new();
            let mut buffer = [0; 4096];
            while got.len() < expected.len() {
                let length = socket.recv(&mut buffer).await.unwrap();
                got.push(buffer[..length].to_vec());
            }
            expected.sort();
            got.sort();
            assert_eq!(got, expected);
        }
    }

    #[tokio::test]
    async fn datagrams_are_taken_each_as_it_was_sent_however_they_came() {
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        let socket = open(any, 1, 1 << 20).unwrap().remove(0);
        let to = socket.local_addr().unwrap();
        let mut inbox = Inbox::new(&socket);
        let senders = [UdpSocket::bind(any).await.unwrap(), UdpSocket::bind(any).await.unwrap()];
        let sent = |n: u8| -> Vec<Vec<u8>> {
            let lengths = [100; 90].into_iter().chain([0, 30, 30, 4000, 1, 0]);
            lengths.enumerate().map(|(at, length)| vec![n ^ at as u8; length]).collect()
        };
        for (n, sender) in (1..).zip(&senders) {
            // Some at once, which come as one, and some alone.
            send_all(sender, sent(n).into_iter().take(90).map(|of| (of, to)).collect()).await;
            for datagram in sent(n).iter().skip(90) {
                sender.send_to(datagram, to).await.unwrap();
            }
        }
        let mut got = [Vec::new(), Vec::new()];
        while got.iter().any(|got| got.len() < sent(1).len()) {
            socket.readable().await.unwrap();
            if inbox.take(&socket).is_err() {
                continue;
            }
            for (from, datagrams) in inbox.datagrams() {
                let of = senders.iter().position(|sender| sender.local_addr().unwrap() == from).unwrap();
                got[of].extend(datagrams.map(<[u8]>::to_vec));
            }
        }
        assert_eq!(got, [sent(1), sent(2)]);
        assert!(inbox.take(&socket).is_err(), "there is nothing more");
    }

    #[tokio::test]
    async fn what_does_not_fit_is_counted() {
        let socket = open(([127, 0, 0, 1], 0).into(), 1, 4096).unwrap().remove(0);
        let address = socket.local_addr().unwrap();
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(drops(&socket), Some(0));
        for _ in 0..200 {
            sender.send_to(&[0; 1000], address).unwrap();
        }
        assert!(drops(&socket).unwrap() > 0);
    }
}
