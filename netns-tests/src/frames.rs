//! Frames made by hand, for what no honest host sends.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, anyhow, bail};
use pnet::datalink::{self, Channel};
use pnet::packet::Packet;
use pnet::packet::ethernet::{EtherTypes, MutableEthernetPacket};
use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::ipv4::{self, MutableIpv4Packet};
use pnet::packet::tcp::{self, MutableTcpPacket, TcpFlags};
use pnet::util::MacAddr;

use crate::netns::Netns;

/// Sends a TCP SYN out of `interface` of `netns`, past its firewall, to the interface with the address `to_mac`.
///
/// # Errors
/// When the interface is not there or takes no frames.
pub fn send_syn(
    netns: &Netns,
    interface: &str,
    to_mac: &str,
    source: (Ipv4Addr, u16),
    destination: (Ipv4Addr, u16),
) -> Result<()> {
    let to: MacAddr = to_mac.parse().map_err(|error| anyhow!("{to_mac}: {error:?}"))?;
    netns.enter(|| {
        let interface = datalink::interfaces().into_iter().find(|found| found.name == interface);
        let interface = interface.with_context(|| format!("no interface in {}", netns.name()))?;
        let Channel::Ethernet(mut sender, _) = datalink::channel(&interface, datalink::Config::default())? else {
            bail!("{} is no Ethernet", interface.name);
        };
        let from = interface.mac.context("no hardware address")?;
        let frame = syn(from, to, source, destination).context("the frame has its length")?;
        sender.send_to(&frame, None).context("no room to send")??;
        Ok(())
    })
}

fn syn(from: MacAddr, to: MacAddr, source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16)) -> Option<Vec<u8>> {
    let mut segment = vec![0; 20];
    let mut tcp = MutableTcpPacket::new(&mut segment)?;
    tcp.set_source(source.1);
    tcp.set_destination(destination.1);
    tcp.set_sequence(1);
    tcp.set_data_offset(5);
    tcp.set_flags(TcpFlags::SYN);
    tcp.set_window(64240);
    tcp.set_checksum(tcp::ipv4_checksum(&tcp.to_immutable(), &source.0, &destination.0));

    let mut datagram = vec![0; 40];
    let mut ip = MutableIpv4Packet::new(&mut datagram)?;
    ip.set_version(4);
    ip.set_header_length(5);
    ip.set_total_length(40);
    ip.set_ttl(64);
    ip.set_next_level_protocol(IpNextHeaderProtocols::Tcp);
    ip.set_source(source.0);
    ip.set_destination(destination.0);
    ip.set_payload(&segment);
    ip.set_checksum(ipv4::checksum(&ip.to_immutable()));

    let mut frame = vec![0; 54];
    let mut ethernet = MutableEthernetPacket::new(&mut frame)?;
    ethernet.set_source(from);
    ethernet.set_destination(to);
    ethernet.set_ethertype(EtherTypes::Ipv4);
    ethernet.set_payload(&datagram);
    Some(ethernet.packet().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture;

    #[test]
    fn the_frame_opens_a_connection_with_right_checksums() {
        let (source, destination) = ((Ipv4Addr::new(203, 0, 113, 10), 40000), (Ipv4Addr::new(203, 0, 113, 200), 443));
        let frame = syn(MacAddr::zero(), MacAddr::broadcast(), source, destination).unwrap();
        let flow = capture::Packet { at_ns: 0, frame: frame.clone() }.flow().unwrap();
        assert!(flow.opens());
        assert_eq!(flow.ports, Some((40000, 443)));
        // RFC 1071: with the checksum in its place, the sum over the header is all ones.
        let sum =
            frame[14..34].chunks(2).fold(0u32, |sum, pair| sum + u32::from(u16::from_be_bytes([pair[0], pair[1]])));
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }
}
