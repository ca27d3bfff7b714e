//! Who gets a connection: within the bounds of a source, of an ISP and of all, and by a cookie where half-open ones are too
//! many.

use std::net::IpAddr;
use std::time::Duration;

use cloakway_types::Instant;
use smoltcp::socket::tcp::State;

use super::{Cloak, ConnectionId, source_key};
use crate::connection::{Connection, World};
use crate::cookies::Link;
use crate::counters::Count;
use crate::frame::Segment;
use crate::neighbour::Gateway;

/// A half-open connection this old has had its round trip, and gives way to a new SYN when there is no room.
/// So a flood of SYNs from made-up sources cannot lock honest ones out for the whole handshake time.
const HALF_OPEN_GRACE: Duration = Duration::from_secs(1);

impl Cloak {
    /// A segment of no connection: one may be made for it, within the bounds; whether by a cookie. Or a SYN is answered
    /// with one.
    pub(super) fn stranger(&mut self, segment: Segment, now: Instant) -> Result<Option<(ConnectionId, bool)>, Count> {
        if segment.opens {
            return match self.admit(&segment, now) {
                Ok(id) => Ok(Some((id, false))),
                Err(full @ (Count::HalfOpenFull | Count::IspHalfOpenFull)) => {
                    let link = self.link(segment.flow.local, now).ok_or(full)?;
                    let (flow, sequence) = (segment.flow, segment.sequence);
                    let answer = self.cookies.answer(flow, &segment.isp, sequence, &self.limits, link).ok_or(full)?;
                    self.counters.add(Count::CookieSent);
                    self.transmit.push(answer, &mut self.counters);
                    Ok(None)
                }
                Err(reason) => Err(reason),
            };
        }
        let acknowledged = segment.acknowledges.ok_or(Count::NoConnection)?;
        let link = self.link(segment.flow.local, now).ok_or(Count::NoConnection)?;
        let numbers = (segment.sequence, acknowledged);
        let made = self.cookies.redeem(segment.flow, &segment.isp, numbers, &self.limits, link);
        let made = made.ok_or(Count::NoConnection)?;
        self.has_room(&segment)?;
        self.counters.add(Count::CookieRedeemed);
        Ok(Some((self.insert(made, now), true)))
    }

    /// What a cookie is made with; none while the gateway is not known.
    fn link(&self, local: IpAddr, now: Instant) -> Option<Link> {
        let gateway = if local.is_ipv4() { &self.gateway_v4 } else { &self.gateway_v6 };
        let gateway = gateway.as_ref().and_then(Gateway::mac)?;
        Some(Link { now, own_mac: self.rules.hardware_address, gateway, port: self.rules.port, mtu: self.mtu })
    }

    /// Whether there is room for one more connection, of this source, of its ISP, and of all.
    fn has_room(&mut self, segment: &Segment) -> Result<(), Count> {
        let source = source_key(segment.flow.remote.ip());
        let from_source = self.per_source.get(&source).copied().unwrap_or(0);
        if from_source >= self.limits.max_per_source
            && !self.reclaim(|connection| source_key(connection.flow.remote.ip()) == source)
        {
            return Err(Count::SourceFull);
        }
        let of_isp = self.per_isp.get(&segment.isp).map_or(0, |of_isp| of_isp.connections);
        if of_isp >= self.limits.max_per_isp && !self.reclaim(|connection| connection.isp == segment.isp) {
            return Err(Count::IspFull);
        }
        if self.connections.len() >= self.limits.max_connections && !self.reclaim(|_| true) {
            return Err(Count::ConnectionsFull);
        }
        Ok(())
    }

    /// Makes a connection for a SYN, within the bounds.
    fn admit(&mut self, segment: &Segment, now: Instant) -> Result<ConnectionId, Count> {
        if segment.has_data {
            return Err(Count::SynData);
        }
        self.has_room(segment)?;
        let half_open = self.per_isp.get(&segment.isp).map(|of_isp| &of_isp.half_open);
        if half_open.is_some_and(|half_open| half_open.len() >= self.limits.max_half_open_per_isp) {
            let oldest = half_open.and_then(|half_open| half_open.first().copied());
            self.evict(oldest, now).then_some(()).ok_or(Count::IspHalfOpenFull)?;
        }
        if self.half_open.len() >= self.limits.max_half_open {
            self.evict(self.half_open.first().copied(), now).then_some(()).ok_or(Count::HalfOpenFull)?;
        }
        let mut seed = [0; 8];
        self.randomness.fill(&mut seed);
        let mut world = World {
            now,
            own_mac: self.rules.hardware_address,
            port: self.rules.port,
            mtu: self.mtu,
            gateway: None,
            transmit: &mut self.transmit,
            counters: &mut self.counters,
        };
        let (flow, isp) = (segment.flow, segment.isp.clone());
        let connection = Connection::new(flow, isp, u64::from_le_bytes(seed), &self.limits, &mut world);
        let id = self.insert(connection, now);
        self.counters.add(Count::SynAdmitted);
        self.ask_gateways(now);
        Ok(id)
    }

    /// Takes a half-open connection in.
    fn insert(&mut self, connection: Connection, now: Instant) -> ConnectionId {
        let id = ConnectionId(self.next_id);
        self.next_id = self.next_id.wrapping_add(1);
        let flow = connection.flow;
        let of_isp = self.per_isp.entry(connection.isp.clone()).or_default();
        of_isp.connections += 1;
        of_isp.half_open.insert((now, id));
        self.timers.insert((connection.due, id));
        self.connections.insert(id, connection);
        self.flows.insert(flow, id);
        self.half_open.insert((now, id));
        *self.per_source.entry(source_key(flow.remote.ip())).or_default() += 1;
        if let Some(gateway) = self.gateway_mut(flow.local) {
            gateway.add_user();
        }
        id
    }

    /// Forgets a half-open connection that had its second, to make room for a new one.
    fn evict(&mut self, oldest: Option<(Instant, ConnectionId)>, now: Instant) -> bool {
        let Some((_, id)) = oldest.filter(|(since, _)| now.since(*since) >= HALF_OPEN_GRACE) else { return false };
        self.counters.add(Count::HalfOpenEvicted);
        self.remove(id);
        true
    }

    /// Forgets one connection that both sides have closed and that only waits for old segments to die.
    fn reclaim(&mut self, eligible: impl Fn(&Connection) -> bool) -> bool {
        let over = |id: &&ConnectionId| {
            let connection = self.connections.get(id);
            connection.is_some_and(|connection| connection.state() == State::TimeWait && eligible(connection))
        };
        let found = self.closing.iter().find(over).copied();
        if let Some(id) = found {
            self.remove(id);
        }
        found.is_some()
    }
}
