//! ICMP and ICMPv6 echo (RFC 792, RFC 4443): one question, and whether its answer comes back.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

/// The longest answer that is read: an IPv4 header with all options, the ICMP header and our own sixteen octets.
const LONGEST: usize = 60 + HEADER + 16;
const HEADER: usize = 8;

/// Asks `address` once, and returns when the answer to just this question has come. Unprivileged where
/// `net.ipv4.ping_group_range` lets us; else it takes CAP_NET_RAW.
///
/// # Errors
/// No socket, or no way to there.
pub(super) async fn ping(address: IpAddr) -> io::Result<()> {
    let (socket, raw) = open(address)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SocketAddr::new(address, 0).into())?;
    // Sent to and read from like any other datagram socket.
    let socket = UdpSocket::from_std(socket.into())?;
    let token = [RandomState::new().build_hasher().finish(), RandomState::new().build_hasher().finish()];
    let question = request(address.is_ipv4(), token.map(u64::to_be_bytes).concat().as_slice());
    socket.send(&question).await?;
    loop {
        let mut answer = [0; LONGEST];
        let length = socket.recv(&mut answer).await?;
        if answers(answer.get(..length).unwrap_or_default(), &question, address.is_ipv4(), raw) {
            return Ok(());
        }
    }
}

/// A ping socket, and whether it is a raw one.
fn open(address: IpAddr) -> io::Result<(Socket, bool)> {
    let (domain, protocol) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    match Socket::new(domain, Type::DGRAM, Some(protocol)) {
        Ok(socket) => Ok((socket, false)),
        Err(_) => Socket::new(domain, Type::RAW, Some(protocol)).map(|socket| (socket, true)),
    }
}

fn request(v4: bool, token: &[u8]) -> Vec<u8> {
    let mut message = vec![if v4 { 8 } else { 128 }, 0, 0, 0];
    // Identifier (a ping socket puts its own there) and sequence number.
    message.extend(token.get(..2).unwrap_or_default());
    message.extend([0, 1]);
    message.extend(token);
    if v4 {
        let sum = checksum(&message).to_be_bytes();
        message.splice(2..4, sum);
    }
    message
}

/// Whether `packet` is the echo reply to `question`.
fn answers(packet: &[u8], question: &[u8], v4: bool, raw: bool) -> bool {
    // A raw IPv4 socket is given the IP header as well.
    let header = if v4 && raw { packet.first().map_or(0, |first| usize::from(first & 15) * 4) } else { 0 };
    let reply = if v4 { 0 } else { 129 };
    let Some(message) = packet.get(header..) else { return false };
    message.first() == Some(&reply) && message.get(1) == Some(&0) && message.get(HEADER..) == question.get(HEADER..)
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let (pairs, odd) = bytes.as_chunks::<2>();
    let last = odd.first().map_or(0, |last| u32::from(*last) << 8);
    let words = pairs.iter().map(|pair| u32::from(u16::from_be_bytes(*pair))).chain([last]);
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;

    #[test]
    fn a_question_is_answered_by_its_own_reply_alone() {
        for v4 in [true, false] {
            let question = request(v4, &[7; 16]);
            let mut reply = question.clone();
            assert!(!answers(&question, &question, v4, false), "the question itself, as a host hears it on loopback");
            reply[0] = if v4 { 0 } else { 129 };
            reply[4] = 99;
            assert!(answers(&reply, &question, v4, false), "whatever identifier the kernel chose");
            let with_header = [&[0x45; 1][..], &[0; 19], &reply].concat();
            assert_eq!(answers(&with_header, &question, v4, true), v4);
            reply[12] ^= 1;
            assert!(!answers(&reply, &question, v4, false), "another's token");
            assert!(!answers(&[], &question, v4, true));
        }
    }

    #[test]
    fn the_checksum_sums_up_to_nothing() {
        let question = request(true, &[0xab; 16]);
        assert_eq!(checksum(&question), 0);
    }

    #[tokio::test]
    async fn this_host_answers() {
        for address in ["127.0.0.1", "::1"] {
            let asked = ping(address.parse().unwrap()).await;
            match asked {
                Err(error) if error.kind() == ErrorKind::PermissionDenied => eprintln!("skipped: {error}"),
                // A host without IPv6.
                Err(error) if address == "::1" => eprintln!("skipped: {error}"),
                asked => asked.unwrap(),
            }
        }
    }
}
