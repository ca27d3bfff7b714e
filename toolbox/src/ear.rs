//! An ear at an interface: UDP of some ports that passes it between others, whole again where it came in fragments.
//!
//! The kernel lets nothing else through (a classic BPF program at the packet socket), so that other traffic wakes nobody, and
//! says what it dropped because it was not heard fast enough.

use std::io;
use std::os::fd::IntoRawFd as _;
use std::time::Duration;

use cloakway_types::Instant;
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use nix::{getsockopt_impl, libc, sockopt_impl};
use pnet::datalink::{self, Channel, DataLinkReceiver};
use socket2::{Domain, SockFilter, Socket, Type};
use toolbox_wire::frame::{self, GivenUp, NoUdp, Parts, Seen, Udp};

/// Longer than any frame.
const LONGEST: usize = 65_536 + 64;

sockopt_impl!(
    /// Frames that came since this was last asked, and those of them that were dropped.
    Statistics, GetOnly, libc::SOL_PACKET, libc::PACKET_STATISTICS, [u32; 2]
);

/// A listener at one interface.
pub(crate) struct Ear {
    socket: Socket,
    frames: Box<dyn DataLinkReceiver>,
    parts: Parts,
}

impl Ear {
    /// Listens at the interface called `name` to what comes from `ports` or goes there; `buffer` octets may wait in the kernel,
    /// and [`Ear::hear`] waits for `patience`.
    ///
    /// # Errors
    /// There is no such interface, or we may not listen (CAP_NET_RAW).
    pub(crate) fn open(name: &str, ports: &[u16], buffer: usize, patience: Duration) -> io::Result<Self> {
        let found = datalink::interfaces().into_iter().find(|found| found.name == name);
        let interface = found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no such interface"))?;
        // Of no protocol, so that nothing arrives before the filter is there and the interface chosen.
        let socket = Socket::new(Domain::PACKET, Type::from(libc::SOCK_RAW), None)?;
        let program: Vec<SockFilter> = frame::filter(ports)
            .iter()
            .map(|line| SockFilter::new(line.code, line.if_true, line.if_false, line.constant))
            .collect();
        socket.attach_filter(&program)?;
        if setsockopt(&socket, sockopt::RcvBufForce, &buffer).is_err() {
            socket.set_recv_buffer_size(buffer)?;
        }
        let config = datalink::Config {
            read_timeout: Some(patience),
            read_buffer_size: LONGEST,
            write_buffer_size: 0,
            promiscuous: true,
            socket_fd: Some(socket.try_clone()?.into_raw_fd()),
            ..datalink::Config::default()
        };
        match datalink::channel(&interface, config)? {
            Channel::Ethernet(_, frames) => Ok(Self { socket, frames, parts: Parts::new() }),
            _ => Err(io::Error::from(io::ErrorKind::Unsupported)),
        }
    }

    /// The next datagram, at `now`; none when there was none in time, or only a fragment.
    ///
    /// # Errors
    /// The interface cannot be listened at.
    pub(crate) fn hear(&mut self, now: impl Fn() -> Instant) -> io::Result<Option<Udp<'_>>> {
        let frame = match self.frames.next() {
            Ok(frame) => frame,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(None),
            Err(error) => return Err(error),
        };
        match frame::read(frame) {
            Ok(Seen::Whole(datagram)) => Ok(Some(datagram)),
            Ok(Seen::Part(part)) => Ok(self.parts.take(part, now())),
            Err(NoUdp::Other | NoUdp::Cut(_)) => Ok(None),
        }
    }

    /// How many frames the kernel dropped since this was last asked.
    pub(crate) fn dropped(&self) -> u64 {
        getsockopt(&self.socket, Statistics).map_or(0, |[_, drops]| drops.into())
    }

    /// Packets in fragments that were not whole in time since this was last asked.
    pub(crate) fn given_up(&mut self, now: Instant) -> GivenUp {
        self.parts.forget(now);
        self.parts.given_up()
    }
}
