//! DHCP that passes an interface: at the server, at a relay, or at a port that mirrors it.
//!
//! A tap sees what passes and nothing else: what was leased before it began is unknown until it is renewed, and so is
//! everything once the kernel had to drop a packet or a server said something that cannot be read.

use std::io;
use std::net::IpAddr;
use std::os::fd::IntoRawFd as _;
use std::thread;
use std::time::Duration;

use cloakway_runtime::{Stop, clock};
use nix::sys::socket::getsockopt;
use nix::{getsockopt_impl, libc, sockopt_impl};
use pnet::datalink::{self, Channel, DataLinkReceiver};
use pnet::packet::ethernet::{EtherTypes, EthernetPacket};
use pnet::packet::ipv4::Ipv4Packet;
use pnet::packet::ipv6::Ipv6Packet;
use pnet::packet::udp::UdpPacket;
use socket2::{Domain, SockFilter, Socket, Type};
use tokio::runtime::Handle;
use toolbox_leases::tap::{Datagram, Tap, TapError};
use toolbox_leases::{Book, Record};

use super::leases::LeaseTeller;
use super::settings::DhcpTap;
use super::teller::{Gone, Teller};

/// Octets that may wait in the kernel.
const BUFFER: usize = 8 << 20;
const LARGEST: usize = 65_535 + 14;
/// How long the thread waits for a packet before it looks after other things.
const PATIENCE: Duration = Duration::from_millis(200);

/// `struct tpacket_stats`: since it was asked for the last time.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
#[expect(unreachable_pub, reason = "the macro below makes a public item of it")]
pub struct Statistics {
    packets: libc::c_uint,
    drops: libc::c_uint,
}

sockopt_impl!(
    /// What a packet socket has seen and dropped.
    PacketStatistics, GetOnly, libc::SOL_PACKET, libc::PACKET_STATISTICS, Statistics
);

/// Opens the interface, and starts a thread that listens.
pub(super) fn start(settings: &DhcpTap, teller: Teller, stop: Stop) -> Result<(), String> {
    let (socket, receiver) = open(&settings.interface)
        .map_err(|error| format!("{}: {error}: that needs CAP_NET_RAW", settings.interface))?;
    let mut listener = Listener {
        socket,
        receiver,
        tap: Tap::new(settings.servers.clone()),
        servers: settings.servers.clone(),
        book: Book::new(),
        teller: LeaseTeller::new(teller, settings.naming.clone()),
    };
    let handle = Handle::current();
    listener.teller.teller.status.up();
    let named = thread::Builder::new().name("dhcp-tap".into());
    let spawned = named.spawn(move || {
        while !stop.is_told() {
            if handle.block_on(listener.step()).is_err() {
                return;
            }
        }
    });
    spawned.map(drop).map_err(|error| error.to_string())
}

fn open(name: &str) -> io::Result<(Socket, Box<dyn DataLinkReceiver>)> {
    let interface = datalink::interfaces().into_iter().find(|found| found.name == name);
    let interface = interface.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    // Of no protocol, so that nothing arrives before the filter is there and the interface chosen.
    let socket = Socket::new(Domain::PACKET, Type::from(libc::SOCK_RAW), None)?;
    socket.attach_filter(&filter())?;
    socket.set_recv_buffer_size(BUFFER)?;
    let config = datalink::Config {
        read_timeout: Some(PATIENCE),
        read_buffer_size: LARGEST,
        promiscuous: true,
        socket_fd: Some(socket.try_clone()?.into_raw_fd()),
        ..datalink::Config::default()
    };
    match datalink::channel(&interface, config)? {
        Channel::Ethernet(_, receiver) => Ok((socket, receiver)),
        _ => Err(io::Error::from(io::ErrorKind::Unsupported)),
    }
}

/// Takes UDP to the ports of DHCP: 67 and 68, 546 and 547.
fn filter() -> [SockFilter; 18] {
    const HALF: u16 = 0x28;
    const OCTET: u16 = 0x30;
    const HALF_BEHIND_HEADER: u16 = 0x48;
    const HEADER_LENGTH: u16 = 0xb1;
    const EQUAL: u16 = 0x15;
    const ANY_BIT: u16 = 0x45;
    const RETURN: u16 = 0x06;
    let ask = SockFilter::new;
    [
        ask(HALF, 0, 0, 12),
        ask(EQUAL, 9, 0, 0x86dd),
        ask(EQUAL, 0, 14, 0x0800),
        ask(OCTET, 0, 0, 23),
        ask(EQUAL, 0, 12, 17),
        // Not the first part of a fragmented packet: without ports.
        ask(HALF, 0, 0, 20),
        ask(ANY_BIT, 10, 0, 0x1fff),
        ask(HEADER_LENGTH, 0, 0, 14),
        ask(HALF_BEHIND_HEADER, 0, 0, 16),
        ask(EQUAL, 6, 0, 67),
        ask(EQUAL, 5, 6, 68),
        ask(OCTET, 0, 0, 20),
        ask(EQUAL, 0, 4, 17),
        ask(HALF, 0, 0, 56),
        ask(EQUAL, 1, 0, 546),
        ask(EQUAL, 0, 1, 547),
        ask(RETURN, 0, 0, u32::MAX),
        ask(RETURN, 0, 0, 0),
    ]
}

struct Listener {
    socket: Socket,
    receiver: Box<dyn DataLinkReceiver>,
    tap: Tap,
    servers: Vec<IpAddr>,
    book: Book,
    teller: LeaseTeller,
}

impl Listener {
    async fn step(&mut self) -> Result<(), Gone> {
        self.teller.teller.watch();
        let heard = match self.receiver.next() {
            Ok(frame) => datagram(frame).map(|(from, payload)| (from, payload.to_vec())),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => None,
            Err(error) => {
                self.teller.teller.status.down(&error.to_string());
                self.over("interface", "the interface cannot be listened at").await?;
                tokio::time::sleep(PATIENCE).await;
                return Ok(());
            }
        };
        // Before what came after the loss is believed.
        if getsockopt(&self.socket, PacketStatistics).is_ok_and(|statistics| statistics.drops > 0) {
            self.over("dropped", "packets came faster than we could hear them").await?;
        }
        let Some((from, payload)) = heard else { return Ok(()) };
        self.teller.teller.status.up();
        let datagram = Datagram { from, payload: &payload, at: clock::wall() };
        match self.tap.hear(datagram, &self.book) {
            Ok(leases) => {
                for lease in leases {
                    let changes = self.book.take(&Record::Lease(Box::new(lease)));
                    self.teller.changes(changes, &self.book).await?;
                }
                Ok(())
            }
            Err(TapError::Stranger(who)) => {
                self.teller.teller.status.alarm("stranger", &format!("{who} grants leases and is none of the servers"));
                Ok(())
            }
            // It may have granted an address to somebody else.
            Err(error) if self.servers.contains(&from) => {
                self.teller.teller.status.damaged();
                self.over("malformed", &error.to_string()).await
            }
            Err(_) => {
                self.teller.teller.status.damaged();
                Ok(())
            }
        }
    }

    /// Nothing that was heard is certain any more.
    async fn over(&mut self, reason: &'static str, what: &str) -> Result<(), Gone> {
        self.teller.teller.status.alarm(reason, what);
        self.teller.teller.status.known(0);
        self.book = Book::new();
        self.teller.reset().await
    }
}

/// The UDP datagram of a frame, and who sent it.
fn datagram(frame: &[u8]) -> Option<(IpAddr, &[u8])> {
    let ethernet = EthernetPacket::new(frame)?;
    let packet = frame.get(14..)?;
    let (from, udp) = match ethernet.get_ethertype() {
        EtherTypes::Ipv4 => {
            let ip = Ipv4Packet::new(packet)?;
            let header = usize::from(ip.get_header_length()) * 4;
            (IpAddr::V4(ip.get_source()), packet.get(header..usize::from(ip.get_total_length()))?)
        }
        EtherTypes::Ipv6 => {
            let ip = Ipv6Packet::new(packet)?;
            let end = 40 + usize::from(ip.get_payload_length());
            (IpAddr::V6(ip.get_source()), packet.get(40..end)?)
        }
        _ => return None,
    };
    let length = usize::from(UdpPacket::new(udp)?.get_length());
    Some((from, udp.get(8..length)?))
}
