//! A raw socket at an interface: frames as the kernel has them, super-packets whole and checksums left to a device marked.

use std::io;
use std::os::fd::IntoRawFd as _;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use nix::{libc, setsockopt_impl, sockopt_impl};
use pnet::datalink::{self, Channel, DataLinkReceiver, DataLinkSender, NetworkInterface};
use socket2::{Domain, SockFilter, Socket, Type};

/// The largest super-packet, its Ethernet header and [`Offload`].
const LARGEST: usize = 65_535 + 14 + Offload::LENGTH;

/// What may wait in the socket before it is read.
const BUFFER: usize = 8 << 20;

sockopt_impl!(
    /// Each frame begins with an [`Offload`].
    WithOffload, SetOnly, libc::SOL_PACKET, libc::PACKET_VNET_HDR, bool
);

/// How long a reader waits before it looks after other things.
pub(super) const PATIENCE: Duration = Duration::from_millis(10);

pub(super) type Sender = Box<dyn DataLinkSender>;
pub(super) type Receiver = Box<dyn DataLinkReceiver>;

/// Opens a socket at the interface with this index.
pub(super) fn open(index: u32) -> io::Result<(Sender, Receiver)> {
    let interface = datalink::interfaces().into_iter().find(|found| found.index == index);
    let interface: NetworkInterface = interface.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    // Of no protocol, so that nothing arrives before the filter is there and the interface chosen.
    let socket = Socket::new(Domain::PACKET, Type::from(libc::SOCK_RAW), None)?;
    socket.attach_filter(&filter())?;
    setsockopt(&socket, WithOffload, &true)?;
    // Without the right to it, as much as the host allows.
    if setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).is_err() {
        socket.set_recv_buffer_size(BUFFER)?;
    }
    let config = datalink::Config {
        read_timeout: Some(PATIENCE),
        read_buffer_size: LARGEST,
        write_buffer_size: 0,
        promiscuous: false,
        socket_fd: Some(socket.into_raw_fd()),
        ..datalink::Config::default()
    };
    match datalink::channel(&interface, config)? {
        Channel::Ethernet(sender, receiver) => Ok((sender, receiver)),
        _ => Err(io::Error::from(io::ErrorKind::Unsupported)),
    }
}

/// Takes IP that came in for this host or for everybody, untagged or with a priority alone. What was sent, by whomever,
/// passes a tap as well, and a tag that was taken off is not in the frame any more.
fn filter() -> [SockFilter; 12] {
    const LOAD: u16 = 0x20;
    const AND: u16 = 0x54;
    const EQUAL: u16 = 0x15;
    const GREATER: u16 = 0x25;
    const RETURN: u16 = 0x06;
    // linux/filter.h: what is beside the frame, at places that no frame has.
    const PROTOCOL: u32 = 0xffff_f000;
    const PACKET_TYPE: u32 = 0xffff_f004;
    const TAG: u32 = 0xffff_f02c;
    const TAG_PRESENT: u32 = 0xffff_f030;
    const MULTICAST: u32 = 2;
    let ask = SockFilter::new;
    [
        ask(LOAD, 0, 0, PACKET_TYPE),
        ask(GREATER, 9, 0, MULTICAST),
        ask(LOAD, 0, 0, TAG_PRESENT),
        ask(EQUAL, 2, 0, 0),
        ask(LOAD, 0, 0, TAG),
        ask(AND, 0, 0, 0x0fff),
        ask(EQUAL, 0, 4, 0),
        ask(LOAD, 0, 0, PROTOCOL),
        ask(EQUAL, 1, 0, 0x0800),
        ask(EQUAL, 0, 1, 0x86dd),
        ask(RETURN, 0, 0, u32::MAX),
        ask(RETURN, 0, 0, 0),
    ]
}

/// What is left to a device of a frame (`struct virtio_net_hdr`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Offload([u8; Self::LENGTH]);

impl Offload {
    pub(super) const LENGTH: usize = 10;

    /// The frame behind it.
    pub(super) fn split(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (head, frame) = bytes.split_first_chunk()?;
        Some((Self(*head), frame))
    }

    pub(super) const fn octets(&self) -> &[u8] {
        &self.0
    }

    /// For a super-packet, how much payload each of its packets has.
    pub(super) fn segment(&self) -> Option<usize> {
        let [_, kind, _, _, size @ ..] = self.0;
        let [low, high, ..] = size;
        // The top bit says that the sender obeys ECN.
        (kind & 0x7f != 0).then(|| usize::from(u16::from_ne_bytes([low, high])))
    }

    /// Gives a frame that is one packet the checksum that was left to a device.
    pub(super) fn complete(&self, frame: &mut [u8]) -> Option<()> {
        const NEEDS_CHECKSUM: u8 = 1;
        let [flags, _, _, _, _, _, s0, s1, o0, o1] = self.0;
        if flags & NEEDS_CHECKSUM == 0 {
            return Some(());
        }
        let start = usize::from(u16::from_ne_bytes([s0, s1]));
        let at = start + usize::from(u16::from_ne_bytes([o0, o1]));
        // The sum of the pseudo header stands where the checksum will; a frame is not padded before it is on a wire.
        let right = forwarder_core::user::checksum(frame.get(start..)?);
        let right = if right == 0 { u16::MAX } else { right };
        frame.get_mut(at..at + 2)?.copy_from_slice(&right.to_be_bytes());
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_that_was_left_to_a_device_is_completed() {
        // Behind fourteen octets, a sum of 0x0007 at its place 6, and two words.
        let mut frame = [vec![0xee; 14], vec![0, 1, 0, 2, 0, 3, 0, 7, 0, 4]].concat();
        let mut head = [0; 10];
        head[0] = 1;
        head[6..8].copy_from_slice(&14_u16.to_ne_bytes());
        head[8..10].copy_from_slice(&6_u16.to_ne_bytes());
        Offload(head).complete(&mut frame).unwrap();
        assert_eq!(frame[20..22], (!(1 + 2 + 3 + 7 + 4_u16)).to_be_bytes());
        let before = frame.clone();
        Offload::default().complete(&mut frame).unwrap();
        assert_eq!(frame, before);
        assert_eq!(Offload(head).complete(&mut [0; 15]), None, "cut off");
    }

    #[test]
    fn a_super_packet_says_how_much_each_packet_has() {
        let mut head = [0; 10];
        assert_eq!(Offload(head).segment(), None);
        head[1] = 0x81;
        head[4..6].copy_from_slice(&1448_u16.to_ne_bytes());
        assert_eq!(Offload(head).segment(), Some(1448));
    }
}
