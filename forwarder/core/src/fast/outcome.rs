//! What may come of a packet at the fast path.

use crate::meter::Over;

/// What came of a packet at the fast path. The order is that of the program's counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// Forwarded out by a private link.
    ToPrivate,
    /// Forwarded from a private link to a subscriber.
    FromPrivate,
    /// From a subscriber's side to no private prefix.
    Bystander,
    /// The program is not the one of the present policy.
    StandsAside,
    /// Neither IPv4 nor IPv6.
    NotIp,
    /// Tagged, or not to this host's link-layer address.
    LinkLayer,
    /// With options or extension headers, cut off, or with a wrong length or checksum.
    IpHeader,
    /// A fragment.
    Fragment,
    /// With a TTL or hop limit that ends here.
    HopsLeft,
    /// From a source that the policy does not allow there.
    Source,
    /// From a private link to no subscriber.
    Destination,
    /// To or from none of the services of its prefix, or an ICMP error of a prefix that has services.
    Service,
    /// With a transport checksum that a device was to complete.
    PartialChecksum,
    /// Without a known next hop by the right interface.
    NoHop,
    /// Larger than the MTU of the way.
    TooBig,
    /// Dropped: faster than its source may be.
    SourceRate,
    /// Dropped: the quota of its source is used up.
    SourceQuota,
    /// Dropped: a new source, and no room to count for it.
    SourcesFull,
    /// Dropped: faster than its private prefix may be.
    PrefixRate,
    /// Dropped: the quota of its private prefix is used up.
    PrefixQuota,
    /// Begins a TCP connection, whose MSS the kernel is to change.
    Synchronises,
}

impl From<Over> for Outcome {
    fn from(over: Over) -> Self {
        match over {
            Over::SourceRate => Self::SourceRate,
            Over::SourceQuota => Self::SourceQuota,
            Over::SourcesFull => Self::SourcesFull,
            Over::PrefixRate => Self::PrefixRate,
            Over::PrefixQuota => Self::PrefixQuota,
        }
    }
}

impl Outcome {
    /// Every outcome, in the order of the counters.
    pub const ALL: [Self; 21] = [
        Self::ToPrivate,
        Self::FromPrivate,
        Self::Bystander,
        Self::StandsAside,
        Self::NotIp,
        Self::LinkLayer,
        Self::IpHeader,
        Self::Fragment,
        Self::HopsLeft,
        Self::Source,
        Self::Destination,
        Self::Service,
        Self::PartialChecksum,
        Self::NoHop,
        Self::TooBig,
        Self::SourceRate,
        Self::SourceQuota,
        Self::SourcesFull,
        Self::PrefixRate,
        Self::PrefixQuota,
        Self::Synchronises,
    ];

    /// Its name in counters.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ToPrivate => "to-private",
            Self::FromPrivate => "from-private",
            Self::Bystander => "bystander",
            Self::StandsAside => "stands-aside",
            Self::NotIp => "not-ip",
            Self::LinkLayer => "link-layer",
            Self::IpHeader => "ip-header",
            Self::Fragment => "fragment",
            Self::HopsLeft => "hops-left",
            Self::Source => "source",
            Self::Destination => "destination",
            Self::Service => "service",
            Self::PartialChecksum => "partial-checksum",
            Self::NoHop => "no-hop",
            Self::TooBig => "too-big",
            Self::SourceRate => Over::SourceRate.name(),
            Self::SourceQuota => Over::SourceQuota.name(),
            Self::SourcesFull => Over::SourcesFull.name(),
            Self::PrefixRate => Over::PrefixRate.name(),
            Self::PrefixQuota => Over::PrefixQuota.name(),
            Self::Synchronises => "synchronises",
        }
    }

    /// What it means, for people.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::ToPrivate => "forwarded to a private link",
            Self::FromPrivate => "forwarded from a private link to a subscriber",
            Self::Bystander => "handed to the kernel: to no private prefix",
            Self::StandsAside => "handed to the kernel: the policy is being changed",
            Self::NotIp => "handed to the kernel: not IP",
            Self::LinkLayer => "handed to the kernel: tagged, or for another link-layer address",
            Self::IpHeader => "handed to the kernel: an IP header that is not plain",
            Self::Fragment => "handed to the kernel: a fragment",
            Self::HopsLeft => "handed to the kernel: the TTL or hop limit ends here",
            Self::Source => "handed to the kernel: a source that is not allowed there",
            Self::Destination => "handed to the kernel: from a private link to no subscriber",
            Self::Service => "handed to the kernel: none of the services of its prefix",
            Self::PartialChecksum => "handed to the kernel: its checksum was left to a device",
            Self::NoHop => "handed to the kernel: no known neighbour by the right interface",
            Self::TooBig => "handed to the kernel: larger than the MTU",
            Self::SourceRate => "dropped: faster than its source may be",
            Self::SourceQuota => "dropped: the quota of its source is used up",
            Self::SourcesFull => "dropped: a new source, and no room to count for it",
            Self::PrefixRate => "dropped: faster than its private prefix may be",
            Self::PrefixQuota => "dropped: the quota of its private prefix is used up",
            Self::Synchronises => "handed to the kernel: it begins a connection, whose MSS is changed",
        }
    }
}
