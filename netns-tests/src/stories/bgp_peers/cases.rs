//! The kinds of session, and what each is to settle and to carry.

use super::matrix::Feature;
use super::routers::Router;

/// A kind of session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Case {
    /// iBGP over IPv4; we connect, and BFD watches.
    Plain,
    /// iBGP over IPv6; the router connects, both ends sign, paths have identifiers, IPv4 goes by IPv6.
    Guarded,
    /// eBGP over IPv4 from a four-octet AS, with TTL security and a role.
    External,
    /// eBGP; both ends connect, and our router id is the higher one.
    Higher,
    /// The same with the lower one.
    Lower,
    /// iBGP over IPv4; each end keeps the other's routes when that restarts.
    Restarting,
}

impl Case {
    pub(super) const ALL: [Self; 6] =
        [Self::Plain, Self::Guarded, Self::External, Self::Higher, Self::Lower, Self::Restarting];
    /// Where both ends connect.
    pub(super) const CROSSING: [Self; 2] = [Self::Higher, Self::Lower];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Guarded => "guarded",
            Self::External => "external",
            Self::Higher => "higher",
            Self::Lower => "lower",
            Self::Restarting => "restarting",
        }
    }

    pub(super) fn about(self, router: Router) -> String {
        let transport = match self {
            Self::Plain => "iBGP, IPv4, we connect",
            Self::Guarded => "iBGP, IPv6, it connects, MD5",
            Self::External if Feature::Role.lacking(router).is_none() => "eBGP, GTSM, roles",
            Self::External => "eBGP, GTSM",
            Self::Higher => "eBGP, both connect, our router id the higher",
            Self::Lower => "eBGP, both connect, our router id the lower",
            Self::Restarting => "iBGP, routes stay over restarts",
        };
        format!("{transport}, AS {}: {}", self.local_as(router), self.wants(router).join(", "))
    }

    /// What of the matrix it shows when both ends have settled what they are to, and hold what the other told.
    pub(super) fn shows(self, router: Router) -> Vec<Feature> {
        let octets = if self.is_two_octet(router) { Feature::TwoOctetAs } else { Feature::FourOctetAs };
        let mut shows = match self {
            Self::Plain => vec![Feature::Ipv4, Feature::Ipv6, Feature::WeConnect, Feature::ExtendedMessages],
            Self::Guarded => vec![
                Feature::ItConnects,
                Feature::Md5,
                Feature::Ipv4ByIpv6ToIt,
                Feature::Ipv4ByIpv6FromIt,
                Feature::PathsToIt,
                Feature::PathsFromIt,
                Feature::Ipv6,
            ],
            Self::External => vec![octets, Feature::Gtsm, Feature::Role],
            Self::Higher | Self::Lower => vec![octets],
            Self::Restarting => Vec::new(),
        };
        shows.retain(|feature| feature.lacking(router).is_none());
        shows
    }

    /// What the session must settle, in the words of `show sessions`.
    pub(super) fn wants(self, router: Router) -> Vec<&'static str> {
        let mut wants = vec!["route-refresh"];
        let has_marks = Feature::MarksToIt.lacking(router).is_none();
        // OpenBGPD offers it where its file says so.
        if has_marks && (router != Router::OpenBgpd || self.carries_ipv6()) {
            wants.push("enhanced-refresh");
        }
        if !self.is_two_octet(router) {
            wants.push("four-octet-as");
        }
        if self == Self::Guarded {
            wants.extend(["add-path-send", "add-path-receive"]);
            if Feature::Ipv4ByIpv6ToIt.lacking(router).is_none() {
                wants.push("ipv4-by-ipv6");
            }
        }
        if self == Self::Plain && Feature::ExtendedMessages.lacking(router).is_none() {
            wants.push("extended-messages");
        }
        wants
    }

    /// Whether the router is a speaker of two octets of AS number there.
    pub(super) const fn is_two_octet(self, router: Router) -> bool {
        matches!((self, router), (Self::External, Router::Bird) | (Self::Higher, Router::OpenBgpd))
    }

    /// BIRD as a two-octet speaker takes no neighbour whose number has four.
    pub(super) const fn local_as(self, router: Router) -> u32 {
        match (self, router) {
            (Self::External, Router::Bird) => 64501,
            (Self::External, _) => 4_200_000_001,
            (Self::Higher | Self::Lower, _) => 4_200_000_002,
            (Self::Plain | Self::Guarded | Self::Restarting, _) => 64500,
        }
    }

    pub(super) const fn is_internal(self) -> bool {
        matches!(self, Self::Plain | Self::Guarded | Self::Restarting)
    }

    const fn letter(self) -> char {
        match self {
            Self::Guarded => 'b',
            Self::External => 'c',
            _ => 'a',
        }
    }

    pub(super) const fn index(self) -> u8 {
        self as u8 + 1
    }

    const fn number(self, router: Router) -> u8 {
        10 * router.number() + self.index()
    }

    /// Our address in the session.
    pub(super) fn local(self, router: Router) -> String {
        if self == Self::Guarded { self.local_v6(router) } else { router.v4(self.index()) }
    }

    fn local_v6(self, router: Router) -> String {
        router.v6(self.letter())
    }

    /// Whether IPv6 goes over it, too.
    pub(super) const fn carries_ipv6(self) -> bool {
        matches!(self, Self::Plain | Self::Guarded | Self::External)
    }

    /// The IPv4 and the IPv6 private prefix that the session is to carry.
    pub(super) fn private(self, router: Router) -> Vec<String> {
        if self == Self::Restarting {
            return Vec::new();
        }
        let has_ipv4 = self != Self::Guarded || Feature::Ipv4ByIpv6ToIt.lacking(router).is_none();
        let v4 = has_ipv4.then(|| format!("203.0.113.{}/32", self.number(router)));
        let v6 = self.carries_ipv6().then(|| format!("2001:db8:c10a:{}::{}/128", router.number(), self.index()));
        v4.into_iter().chain(v6).collect()
    }

    /// Whether NO_ADVERTISE guards its private routes, and not NO_EXPORT.
    pub(super) const fn is_advertised_to_nobody(self) -> bool {
        matches!(self, Self::Guarded)
    }

    /// What is injected and may go further; of `restarting`, what stays when we are gone.
    pub(super) fn public(self, router: Router) -> Vec<String> {
        let v4 = format!("198.18.{}.0/24", self.number(router));
        match self {
            Self::Guarded if Feature::Ipv4ByIpv6ToIt.lacking(router).is_none() => vec![v4, self.by_self(router)],
            Self::Plain | Self::External => vec![v4, format!("2001:db8:b{:03}::/48", self.number(router))],
            Self::Restarting => vec![v4],
            Self::Guarded | Self::Higher | Self::Lower => Vec::new(),
        }
    }

    /// What is injected with the next hop `self`: for IPv4, our IPv6 end of the session.
    pub(super) fn by_self(self, router: Router) -> String {
        format!("198.18.{}.0/24", 100 + self.number(router))
    }

    /// What is injected and goes with the session.
    pub(super) fn passing(self, router: Router) -> Option<String> {
        (self == Self::Restarting).then(|| format!("198.19.{}.0/24", self.number(router)))
    }

    pub(super) fn next_hop(self, router: Router, prefix: &str) -> String {
        if prefix.contains(':') || self == Self::Guarded { self.local_v6(router) } else { router.v4(self.index()) }
    }

    /// What the router tells us in the session.
    pub(super) fn heard(self, router: Router) -> Vec<String> {
        let v4 =
            (self != Self::Guarded || Feature::Ipv4ByIpv6FromIt.lacking(router).is_none()).then(|| router.own_prefix());
        // OpenBGPD tells external neighbours IPv6 over IPv4 with the next hop ::1.
        let has_ipv6 = self.carries_ipv6() && (self, router) != (Self::External, Router::OpenBgpd);
        v4.into_iter().chain(has_ipv6.then(|| router.own_prefix_v6())).collect()
    }

    /// Where the router says that packets to its `prefix` go.
    pub(super) fn heard_next_hop(self, router: Router, prefix: &str) -> String {
        if prefix.contains(':') || self == Self::Guarded { router.v6('e') } else { router.v4(14) }
    }

    /// The process in the laboratory.
    pub(super) fn process(self, router: Router) -> String {
        format!("speaker-{}-{}", router.name(), self.name())
    }
}

/// All sessions.
pub(super) fn cells() -> impl Iterator<Item = (Router, Case)> {
    Router::ALL.into_iter().flat_map(|router| Case::ALL.map(|case| (router, case)))
}
