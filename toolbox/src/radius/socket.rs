//! UDP sockets that take a burst: large buffers, several at one address, many answers at once, and what the kernel dropped
//! nevertheless.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use cloakway_runtime::Stop;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, getsockopt, sendmsg, setsockopt, sockopt};
use nix::{getsockopt_impl, libc, sockopt_impl};
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

/// Datagrams that the kernel cuts one piece of memory into at most (`UDP_MAX_SEGMENTS`, linux/udp.h).
const SEGMENTS: usize = 64;

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
    let whole: Vec<u8> = some.iter().flat_map(|(answer, _)| answer).copied().collect();
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
