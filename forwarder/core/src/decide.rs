//! The reference model: what happens to a packet, and why.

use std::net::IpAddr;

use crate::policy::{LinkId, Policy, PrivatePrefix};

/// What the decision depends on. The data plane has parsed the packet and asked its routing table.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    /// Where it came from.
    pub ingress: Ingress<'a>,
    /// Where routing would send it.
    pub egress: Egress<'a>,
    /// The source address.
    pub source: IpAddr,
    /// The destination address.
    pub destination: IpAddr,
    /// What it is, as far as that matters.
    pub kind: Kind,
    /// The IP protocol, behind any extension headers.
    pub protocol: u8,
    /// Source and destination port, where the protocol has them and the packet has all of them.
    pub ports: Option<(u16, u16)>,
    /// Whether it is part of a larger one: IPv4 with more to come or an offset, IPv6 with a fragment header.
    pub is_fragment: bool,
    /// Whether it has IPv4 options or a routing header of type 0 (RFC 5095).
    pub has_options: bool,
    /// Whether the source is this host's own address, or a broadcast, multicast or anycast one.
    pub source_is_own: bool,
}

/// Where a packet came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ingress<'a> {
    /// In by this interface.
    Interface(&'a str),
    /// A process or the kernel of this host.
    Host,
}

/// Where routing would send a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Egress<'a> {
    /// Out by this interface.
    Interface(&'a str),
    /// To this host itself.
    Host,
    /// Nowhere: it meets a blackhole.
    Nowhere,
}

/// What a packet is, as far as the host's own traffic on a private link is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A neighbour solicitation or advertisement with hop limit 255 (RFC 4861 §7.1).
    Neighbour,
    /// An MLD report, by which a switch learns who wants neighbour solicitations (RFC 3810).
    MulticastReport,
    /// An ICMP or ICMPv6 error message.
    IcmpError,
    /// Anything else.
    Other,
}

/// What happens to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Out by this private link.
    ToLink(LinkId),
    /// Back to a subscriber.
    ToSubscriber,
    /// Between this host and a private link, needed to keep the link working.
    LinkUpkeep,
    /// Nothing to do with the private side.
    Untouched,
    /// Dropped and counted.
    Drop(Reason),
}

/// Why a packet was dropped. Each has a counter of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// To a private prefix whose link is down, or not up yet: it meets the blackhole.
    NoRoute,
    /// From a private link to a private prefix.
    Hairpin,
    /// Routed out by a private link, to no private prefix.
    NotPrivate,
    /// Routed out by another interface than the policy's.
    WrongInterface,
    /// To a private prefix from an interface that faces no subscribers.
    ToPrivateByPublic,
    /// With IPv4 options, among them source routes, or a routing header of type 0 (RFC 7126, RFC 5095).
    Options,
    /// To a private prefix from an address of this host, or from a broadcast or multicast one.
    OwnSource,
    /// To a private prefix from an address outside the subscribers' prefixes.
    SpoofedSource,
    /// A fragment to or from a private prefix that has services: no part of it shows whose it is but the first.
    Fragment,
    /// To or from something of a private prefix that is none of its services.
    NotAService,
    /// In by a private link from an address that is not behind it.
    FromPrivateForeignSource,
    /// From a private prefix to something else than a subscriber.
    FromPrivateOther,
    /// With a private source, in by something else than its link.
    ForgedPrivate,
    /// In by a private link for this host itself.
    ToHostFromPrivate,
    /// From this host to a private link or prefix.
    HostOutput,
    /// Not charged by the program that charges: it is gone, or does not know the packet's interface or prefix.
    Unmetered,
    /// No forwarder is running, and nothing is to pass then.
    Unattended,
}

impl Reason {
    /// Every reason, in the order of the counters.
    pub const ALL: [Self; 17] = [
        Self::NoRoute,
        Self::Hairpin,
        Self::NotPrivate,
        Self::WrongInterface,
        Self::ToPrivateByPublic,
        Self::Options,
        Self::OwnSource,
        Self::SpoofedSource,
        Self::Fragment,
        Self::NotAService,
        Self::FromPrivateForeignSource,
        Self::FromPrivateOther,
        Self::ForgedPrivate,
        Self::ToHostFromPrivate,
        Self::HostOutput,
        Self::Unmetered,
        Self::Unattended,
    ];

    /// The name of its counter.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoRoute => "no-route",
            Self::Hairpin => "hairpin",
            Self::NotPrivate => "not-private",
            Self::WrongInterface => "wrong-interface",
            Self::ToPrivateByPublic => "to-private-by-public",
            Self::Options => "ip-options",
            Self::OwnSource => "own-source",
            Self::SpoofedSource => "spoofed-source",
            Self::Fragment => "fragment",
            Self::NotAService => "not-a-service",
            Self::FromPrivateForeignSource => "from-private-foreign-source",
            Self::FromPrivateOther => "from-private-other",
            Self::ForgedPrivate => "forged-private",
            Self::ToHostFromPrivate => "to-host-from-private",
            Self::HostOutput => "host-output",
            Self::Unmetered => "unmetered",
            Self::Unattended => "unattended",
        }
    }

    /// Whether it is seen before routing, so that nothing is answered to what it drops.
    #[must_use]
    pub const fn is_of_arrival(self) -> bool {
        match self {
            Self::NoRoute
            | Self::Hairpin
            | Self::ToPrivateByPublic
            | Self::Options
            | Self::OwnSource
            | Self::SpoofedSource
            | Self::FromPrivateForeignSource
            | Self::ForgedPrivate => true,
            Self::NotPrivate
            | Self::WrongInterface
            | Self::Fragment
            | Self::NotAService
            | Self::FromPrivateOther
            | Self::ToHostFromPrivate
            | Self::HostOutput
            | Self::Unmetered
            | Self::Unattended => false,
        }
    }

    /// What it means, in a line.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::NoRoute => "to a private prefix whose link is down",
            Self::Hairpin => "from a private link to a private prefix",
            Self::NotPrivate => "routed to a private link, but to no private prefix",
            Self::WrongInterface => "routed out by another interface than the policy's",
            Self::ToPrivateByPublic => "to a private prefix from an interface that faces no subscribers",
            Self::Options => "with IPv4 options or a routing header of type 0",
            Self::OwnSource => "to a private prefix from this host's own or a multicast address",
            Self::SpoofedSource => "to a private prefix from outside the subscribers' prefixes",
            Self::Fragment => "a fragment to or from a private prefix that has services",
            Self::NotAService => "to or from none of the services of a private prefix",
            Self::FromPrivateForeignSource => "in by a private link from an address that is not behind it",
            Self::FromPrivateOther => "from a private prefix to something else than a subscriber",
            Self::ForgedPrivate => "with a private source, in by something else than its link",
            Self::ToHostFromPrivate => "in by a private link for this host itself",
            Self::HostOutput => "from this host to a private link or prefix",
            Self::Unmetered => "not charged by the program that charges",
            Self::Unattended => "no forwarder is running, and nothing is to pass then (on-crash)",
        }
    }
}

impl Policy {
    /// What happens to `packet`. The ruleset of [`crate::ruleset`] asks the same questions in the same order.
    #[must_use]
    pub fn decide(&self, packet: &Packet<'_>) -> Verdict {
        if let Ingress::Interface(from) = packet.ingress
            && let Some(reason) = self.arrival(packet, from)
        {
            return Verdict::Drop(reason);
        }
        match (packet.ingress, packet.egress) {
            (Ingress::Interface(from), Egress::Interface(to)) => self.forward(packet, from, to),
            (Ingress::Interface(from), Egress::Host) => self.input(packet, from),
            (Ingress::Host, Egress::Interface(to)) => self.output(packet, Some(to)),
            (Ingress::Interface(_), Egress::Nowhere) => Verdict::Untouched,
            (Ingress::Host, Egress::Host | Egress::Nowhere) => self.output(packet, None),
        }
    }

    /// What is asked first, of where a packet comes from: before routing, so that what is dropped here is answered by
    /// nothing, not even by an ICMP error.
    fn arrival(&self, packet: &Packet<'_>, from: &str) -> Option<Reason> {
        let private = self.private_prefix(packet.destination).is_some();
        if let Some(link) = self.link_of(from) {
            return match self.private_prefix(packet.source) {
                _ if packet.kind == Kind::Neighbour && !private && !self.is_subscriber(packet.destination) => None,
                _ if packet.has_options => Some(Reason::Options),
                source if !source.is_some_and(|entry| entry.is_behind(link)) => Some(Reason::FromPrivateForeignSource),
                _ => private.then_some(Reason::Hairpin),
            };
        }
        match self.private_prefix(packet.source) {
            _ if private && !self.faces_subscribers(from) => Some(Reason::ToPrivateByPublic),
            _ if private && packet.has_options => Some(Reason::Options),
            _ if private && packet.source_is_own => Some(Reason::OwnSource),
            _ if private && !self.is_subscriber(packet.source) => Some(Reason::SpoofedSource),
            _ if private => (packet.egress == Egress::Nowhere).then_some(Reason::NoRoute),
            source => source.map(|_| Reason::ForgedPrivate),
        }
    }

    fn forward(&self, packet: &Packet<'_>, from: &str, to: &str) -> Verdict {
        let destination = self.private_prefix(packet.destination);
        match (self.link_of(from), self.link_of(to)) {
            (Some(_), Some(_)) => Verdict::Drop(Reason::Hairpin),
            (None, Some(link)) => self.going_out(packet, link, destination),
            (Some(_), None) => self.coming_back(packet, to),
            (None, None) if destination.is_some() => Verdict::Drop(Reason::WrongInterface),
            (None, None) => Verdict::Untouched,
        }
    }

    fn going_out(&self, packet: &Packet<'_>, link: LinkId, to: Option<&PrivatePrefix>) -> Verdict {
        Verdict::Drop(match to {
            None => Reason::NotPrivate,
            Some(entry) if !entry.is_behind(link) => Reason::WrongInterface,
            Some(_) => match self.serves(packet, packet.destination, |(_, to)| to) {
                Ok(()) => return Verdict::ToLink(link),
                Err(reason) => reason,
            },
        })
    }

    /// Whether `packet` is part of a service of the private prefix that `private` is in; `port` gives the port at
    /// that end. ICMP errors are part of every service: without them no path MTU is found.
    fn serves(&self, packet: &Packet<'_>, private: IpAddr, port: fn((u16, u16)) -> u16) -> Result<(), Reason> {
        let services = self.private_prefix(private).map_or(&[][..], |entry| &entry.services);
        if services.is_empty() {
            return Ok(());
        }
        if packet.is_fragment {
            return Err(Reason::Fragment);
        }
        let port = packet.ports.map(port);
        if packet.kind == Kind::IcmpError || services.iter().any(|service| service.has(packet.protocol, port)) {
            return Ok(());
        }
        Err(Reason::NotAService)
    }

    fn coming_back(&self, packet: &Packet<'_>, to: &str) -> Verdict {
        Verdict::Drop(if !self.is_subscriber(packet.destination) {
            Reason::FromPrivateOther
        } else if !self.faces_subscribers(to) {
            Reason::WrongInterface
        } else {
            match self.serves(packet, packet.source, |(from, _)| from) {
                Ok(()) => return Verdict::ToSubscriber,
                Err(reason) => reason,
            }
        })
    }

    fn input(&self, packet: &Packet<'_>, from: &str) -> Verdict {
        match self.link_of(from) {
            Some(_) if packet.kind == Kind::Neighbour => Verdict::LinkUpkeep,
            Some(_) => Verdict::Drop(Reason::ToHostFromPrivate),
            None if self.private_prefix(packet.destination).is_some() => Verdict::Drop(Reason::WrongInterface),
            None => Verdict::Untouched,
        }
    }

    fn output(&self, packet: &Packet<'_>, to: Option<&str>) -> Verdict {
        let private = self.private_prefix(packet.destination).is_some();
        match to.and_then(|to| self.link_of(to)) {
            Some(_) => match packet.kind {
                Kind::Neighbour | Kind::MulticastReport => Verdict::LinkUpkeep,
                Kind::IcmpError if private => Verdict::LinkUpkeep,
                Kind::IcmpError | Kind::Other => Verdict::Drop(Reason::HostOutput),
            },
            None if private => Verdict::Drop(Reason::HostOutput),
            None if to.is_some_and(|to| self.strays(packet, to)) => Verdict::Drop(Reason::WrongInterface),
            None => Verdict::Untouched,
        }
    }

    /// Whether it is of a tunnel and leaves by another interface than the tunnel's underlay.
    fn strays(&self, packet: &Packet<'_>, to: &str) -> bool {
        let port = packet.ports.map(|(_, port)| port);
        self.tunnels().iter().any(|tunnel| {
            let its = tunnel.remote == packet.destination && tunnel.protocol == packet.protocol;
            its && (tunnel.port.is_none() || tunnel.port == port) && tunnel.underlay != to
        })
    }
}

#[cfg(test)]
mod tests;
