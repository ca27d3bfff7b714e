//! A subscriber behind a forwarder, in memory and in virtual time: a second smoltcp stack whose frames
//! meet the cloak's.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use cloakway_crypto::Randomness;
use cloakway_types::Instant;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr};
use transact_cloak::{Checksum, Cloak, CloakConfig, ConnectionId, Count, Limits, Peer, Read};

pub(crate) const CLOAK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xc1];
pub(crate) const FORWARDER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xf0];
pub(crate) const PRIVATE_V4: &str = "203.0.113.200";
pub(crate) const PRIVATE_V6: &str = "2001:db8:c10a::200";
pub(crate) const SUBSCRIBER_V4: &str = "198.51.100.70";
pub(crate) const SUBSCRIBER_V6: &str = "2001:db8:5100:64::70";
pub(crate) const STRANGER_V4: &str = "203.0.113.10";
pub(crate) const STRANGER_V6: &str = "2001:db8:a000::10";
pub(crate) const GATEWAY_V4: &str = "192.0.2.249";
pub(crate) const GATEWAY_V6: &str = "2001:db8:0:ff::1";

/// SplitMix64: seeded, so that a failure can be run again.
#[derive(Clone)]
pub(crate) struct Seeded(pub(crate) u64);

impl Seeded {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn percent(&mut self, chance: u64) -> bool {
        self.next() % 100 < chance
    }
}

impl Randomness for Seeded {
    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.iter_mut().for_each(|byte| *byte = self.next() as u8);
    }
}

pub(crate) fn config() -> CloakConfig {
    CloakConfig {
        hardware_address: CLOAK_MAC,
        addresses: vec![PRIVATE_V4.parse().unwrap(), PRIVATE_V6.parse().unwrap()],
        port: 443,
        gateway_v4: Some(GATEWAY_V4.parse().unwrap()),
        gateway_v6: Some(GATEWAY_V6.parse().unwrap()),
        members: vec![
            ("198.51.100.0/24".parse().unwrap(), "example-isp".parse().unwrap()),
            ("2001:db8:5100::/48".parse().unwrap(), "example-isp".parse().unwrap()),
        ],
        mtu: 1500,
        limits: Limits::default(),
    }
}

pub(crate) fn cloak(change: impl FnOnce(&mut CloakConfig)) -> Cloak {
    let mut config = config();
    change(&mut config);
    Cloak::new(config, Box::new(Seeded(7))).unwrap()
}

pub(crate) fn frames(cloak: &mut Cloak) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| cloak.poll_transmit()).collect()
}

/// The other end of the link.
pub(crate) struct Wire {
    pub(crate) received: VecDeque<Vec<u8>>,
    pub(crate) sent: VecDeque<Vec<u8>>,
}

pub(crate) struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

pub(crate) struct Send<'a>(&'a mut VecDeque<Vec<u8>>);

impl TxToken for Send<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut frame = vec![0; length];
        let result = fill(&mut frame);
        self.0.push_back(frame);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Send<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Received, Send<'_>)> {
        let frame = self.received.pop_front()?;
        Some((Received(frame), Send(&mut self.sent)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Send<'_>> {
        Some(Send(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

/// What happens to frames on the link.
#[derive(Clone)]
pub(crate) struct Weather {
    pub(crate) random: Seeded,
    pub(crate) loss_percent: u64,
    pub(crate) duplicate_percent: u64,
    pub(crate) reorder_percent: u64,
}

pub(crate) struct Lab {
    pub(crate) cloak: Cloak,
    pub(crate) now: Instant,
    pub(crate) wire: Wire,
    pub(crate) interface: Interface,
    pub(crate) sockets: SocketSet<'static>,
    pub(crate) weather: Option<Weather>,
    /// Whether something on the subscriber's way cuts packets into pieces of so many octets.
    pub(crate) cut: Option<usize>,
    /// Every frame that the cloak let out.
    pub(crate) out: Vec<Vec<u8>>,
    next_port: u16,
}

impl Lab {
    pub(crate) fn new(cloak: Cloak) -> Self {
        let mut wire = Wire { received: VecDeque::new(), sent: VecDeque::new() };
        let config = Config::new(HardwareAddress::Ethernet(EthernetAddress(FORWARDER_MAC)));
        let mut interface = Interface::new(config, &mut wire, smoltcp::time::Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            // Everything is on the link as this host sees it: it is subscriber and forwarder in one.
            for address in [SUBSCRIBER_V4, SUBSCRIBER_V6, STRANGER_V4, STRANGER_V6, GATEWAY_V4, GATEWAY_V6] {
                addresses.push(IpCidr::new(address.parse::<IpAddr>().unwrap().into(), 0)).unwrap();
            }
        });
        Self {
            cloak,
            now: Instant::ORIGIN,
            wire,
            interface,
            sockets: SocketSet::new(vec![]),
            weather: None,
            cut: None,
            out: vec![],
            next_port: 50_000,
        }
    }

    pub(crate) fn connect(&mut self, from: &str, to: &str) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 8192]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        let remote: SocketAddr = SocketAddr::new(to.parse().unwrap(), 443);
        let local: SocketAddr = SocketAddr::new(from.parse().unwrap(), self.next_port);
        self.next_port += 1;
        socket.connect(self.interface.context(), remote, local).unwrap();
        self.sockets.add(socket)
    }

    pub(crate) fn client(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// One exchange of what both sides have to say; then time goes on by `step`.
    pub(crate) fn step(&mut self, step: Duration) {
        let at = smoltcp::time::Instant::from_micros(self.now.since_origin().as_micros() as i64);
        self.interface.poll(at, &mut self.wire, &mut self.sockets);
        let sent: Vec<_> = self.wire.sent.drain(..).collect();
        let sent = match self.cut {
            Some(octets) => sent.iter().flat_map(|frame| crate::fragments::cut(frame, octets)).collect(),
            None => sent,
        };
        for frame in self.through_weather(sent) {
            self.cloak.handle_frame(&frame, Checksum::OnWire, self.now);
        }
        self.cloak.poll(self.now);
        let out = frames(&mut self.cloak);
        self.out.extend(out.iter().cloned());
        let out = self.through_weather(out);
        self.wire.received.extend(out);
        self.now = self.now + step;
    }

    pub(crate) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step(Duration::from_millis(2));
        }
    }

    /// Runs until `done`, for two virtual minutes at most.
    pub(crate) fn until<T>(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> Option<T>) -> T {
        let end = self.now + Duration::from_secs(120);
        loop {
            if let Some(found) = done(self) {
                return found;
            }
            assert!(self.now < end, "not within two virtual minutes: {what}; {:?}", self.cloak.counters());
            self.step(Duration::from_millis(2));
        }
    }

    pub(crate) fn accept(&mut self) -> (ConnectionId, Peer) {
        self.until("a connection", |lab| lab.cloak.accept())
    }

    /// Everything that the peer sends until it ends.
    pub(crate) fn read_to_end(&mut self, id: ConnectionId) -> Vec<u8> {
        let mut all = vec![];
        self.until("the end of the peer's data", |lab| {
            let mut buffer = [0; 777];
            loop {
                match lab.cloak.read(id, &mut buffer).unwrap() {
                    Read::Data(octets) => all.extend(&buffer[..octets]),
                    Read::Pending => return None,
                    Read::Eof => return Some(()),
                }
            }
        });
        all
    }

    pub(crate) fn count(&self, count: Count) -> u64 {
        self.cloak.counters().get(count)
    }

    fn through_weather(&mut self, frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        let Some(weather) = &mut self.weather else { return frames };
        let mut arriving = vec![];
        for frame in frames {
            if weather.random.percent(weather.loss_percent) {
                continue;
            }
            if weather.random.percent(weather.duplicate_percent) {
                arriving.push(frame.clone());
            }
            let place = if weather.random.percent(weather.reorder_percent) { 0 } else { arriving.len() };
            arriving.insert(place, frame);
        }
        arriving
    }
}
