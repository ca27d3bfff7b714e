//! What of BGP is shown beside which router, and what a router does not have.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::routers::Router;

/// A row of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Feature {
    Ipv4,
    Ipv6,
    Ipv4ByIpv6ToIt,
    Ipv4ByIpv6FromIt,
    TwoOctetAs,
    FourOctetAs,
    Md5,
    Gtsm,
    WeConnect,
    ItConnects,
    Crossing,
    ItAsks,
    WeAsk,
    MarksToIt,
    MarksFromIt,
    ItRestarts,
    WeRestart,
    PathsToIt,
    PathsFromIt,
    Bfd,
    Role,
    ExtendedMessages,
}

impl Feature {
    pub(super) const ALL: [Self; 22] = [
        Self::Ipv4,
        Self::Ipv6,
        Self::Ipv4ByIpv6ToIt,
        Self::Ipv4ByIpv6FromIt,
        Self::TwoOctetAs,
        Self::FourOctetAs,
        Self::Md5,
        Self::Gtsm,
        Self::WeConnect,
        Self::ItConnects,
        Self::Crossing,
        Self::ItAsks,
        Self::WeAsk,
        Self::MarksToIt,
        Self::MarksFromIt,
        Self::ItRestarts,
        Self::WeRestart,
        Self::PathsToIt,
        Self::PathsFromIt,
        Self::Bfd,
        Self::Role,
        Self::ExtendedMessages,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "IPv4, both ways",
            Self::Ipv6 => "IPv6, both ways",
            Self::Ipv4ByIpv6ToIt => "IPv4 by IPv6 (8950), to it",
            Self::Ipv4ByIpv6FromIt => "IPv4 by IPv6 (8950), from it",
            Self::TwoOctetAs => "a router of two octets (6793)",
            Self::FourOctetAs => "four-octet AS",
            Self::Md5 => "MD5",
            Self::Gtsm => "GTSM",
            Self::WeConnect => "we connect",
            Self::ItConnects => "it connects",
            Self::Crossing => "crossing connections, by router id",
            Self::ItAsks => "route refresh: it asks",
            Self::WeAsk => "route refresh: we ask",
            Self::MarksToIt => "marks of enhanced refresh (7313), to it",
            Self::MarksFromIt => "marks of enhanced refresh, from it",
            Self::ItRestarts => "it restarts, its routes stay (4724)",
            Self::WeRestart => "we restart, ours stay (9494)",
            Self::PathsToIt => "path identifiers to it",
            Self::PathsFromIt => "path identifiers from it",
            Self::Bfd => "BFD",
            Self::Role => "roles (9234)",
            Self::ExtendedMessages => "extended messages",
        }
    }

    /// Why it cannot be shown beside `router`, if it cannot.
    pub(super) const fn lacking(self, router: Router) -> Option<&'static str> {
        match (self, router) {
            (Self::Ipv4ByIpv6ToIt | Self::Ipv4ByIpv6FromIt, Router::OpenBgpd) => Some("none"),
            (Self::TwoOctetAs, Router::Frr | Router::GoBgp | Router::Ourselves) => Some("cannot be one"),
            (Self::Crossing, Router::GoBgp | Router::OpenBgpd) => Some("hangs up on a second connection"),
            (Self::ItAsks, Router::GoBgp) => Some("asks nobody"),
            (Self::WeAsk | Self::MarksFromIt, Router::OpenBgpd) => Some("refuses every request"),
            (Self::MarksToIt | Self::MarksFromIt | Self::Role | Self::Bfd, Router::GoBgp) => Some("none"),
            (Self::ItRestarts, Router::OpenBgpd) => Some("End-of-RIB alone"),
            (Self::WeRestart, Router::OpenBgpd) => Some("no RFC 9494"),
            (Self::Bfd, Router::OpenBgpd) => Some("none"),
            (Self::ExtendedMessages, Router::GoBgp | Router::OpenBgpd) => Some("none"),
            _ => None,
        }
    }
}

/// What was shown in this run.
#[derive(Debug, Default)]
pub(super) struct Matrix(BTreeMap<(Feature, Router), bool>);

impl Matrix {
    /// A check of `features` beside `router` held, or did not.
    pub(super) fn record(&mut self, router: Router, features: impl IntoIterator<Item = Feature>, held: bool) {
        for feature in features {
            *self.0.entry((feature, router)).or_insert(true) &= held;
        }
    }

    /// Cells that are neither shown nor stated as lacking, and those that are stated and were shown all the same.
    pub(super) fn wrong(&self) -> Vec<String> {
        let wrong = |(feature, router): (Feature, Router)| {
            let shown = self.0.get(&(feature, router)).copied();
            let expected = feature.lacking(router).is_none().then_some(true);
            (shown != expected).then(|| format!("{}, {}: {shown:?}", router.name(), feature.name()))
        };
        cells().filter_map(wrong).collect()
    }
}

fn cells() -> impl Iterator<Item = (Feature, Router)> {
    Feature::ALL.into_iter().flat_map(|feature| Router::ALL.map(|router| (feature, router)))
}

/// The matrix as `docs/bgp.md` has it.
pub(super) fn table() -> String {
    let mut table = String::from("| |");
    for router in Router::ALL {
        let _ = write!(table, " {} |", router.title());
    }
    table.push_str("\n|");
    table.push_str(&" --- |".repeat(Router::ALL.len() + 1));
    for feature in Feature::ALL {
        let _ = write!(table, "\n| {} |", feature.name());
        for router in Router::ALL {
            let _ = write!(table, " {} |", feature.lacking(router).unwrap_or("✓"));
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stories::root;

    #[test]
    fn the_docs_have_the_matrix_as_it_is() {
        let docs = std::fs::read_to_string(root().join("docs/bgp.md")).unwrap();
        assert!(docs.contains(&table()), "docs/bgp.md lacks this table:\n{}", table());
    }

    #[test]
    fn a_cell_counts_as_shown_only_if_all_its_checks_held() {
        let mut matrix = Matrix::default();
        for (feature, router) in cells() {
            matrix.record(router, feature.lacking(router).is_none().then_some(feature), true);
        }
        assert_eq!(matrix.wrong(), Vec::<String>::new());
        matrix.record(Router::Bird, [Feature::Md5], false);
        matrix.record(Router::Bird, [Feature::Md5], true);
        matrix.record(Router::OpenBgpd, [Feature::Bfd], true);
        assert_eq!(matrix.wrong().len(), 2, "{:?}", matrix.wrong());
    }
}
