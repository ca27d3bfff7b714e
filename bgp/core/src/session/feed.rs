//! What a session sends of the table that all sessions share: as much as its socket takes, when it takes it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use bgp_wire::{
    AsPath, Asn, Attributes, Bulk, Community, Context, EncodeError, ExtendedCommunity, Family, Role, RouteRefresh,
};

use super::Session;
use super::values::{Export, LinkId, Options, SetNames};
use crate::export::{Exporter, LOCAL_PREF};
use crate::prefix_list::Filter;
use crate::rib::{Batch, Encode, ReaderId, Rib};
use crate::route::{NextHop, RouteAttributes};

/// A session's place in the table.
#[derive(Debug, Default)]
pub(super) struct Feed {
    /// Whether there is a table at all.
    pub(super) on: bool,
    reader: Option<ReaderId>,
    /// The session ended: the reader has to go.
    lost: bool,
    /// Families to tell again, and whether the peer wants the end marked (RFC 7313).
    refresh: BTreeSet<(Family, bool)>,
    /// What the peer may be told has changed.
    refiltered: bool,
    /// Nothing but what is to be kept may stay, and whether that is done.
    leaving: Option<bool>,
    /// Families whose End-of-RIB (RFC 4724 §2) is due.
    ends_due: BTreeSet<Family>,
    /// Families whose EoRR (RFC 7313) is due.
    marks_due: BTreeSet<Family>,
    /// Other peers' routes have yet to be told: ends and marks wait for that too.
    passing: bool,
    /// They are no longer to be told, and what the peer was told has yet to be withdrawn.
    taking_back: bool,
    /// The table has told all it has.
    table_ended: bool,
}

impl Feed {
    /// Established: everything is to be told, then the End-of-RIB of each family.
    pub(super) fn start(&mut self, families: &BTreeSet<Family>, passing: bool) {
        *self = Self { on: self.on, reader: self.reader, lost: self.lost, ..Self::default() };
        self.ends_due = families.clone();
        self.passing = passing;
        self.table_ended = !self.on;
    }

    /// Established no more.
    pub(super) fn stop(&mut self) {
        self.lost = true;
    }

    /// What the peer may be told may have changed.
    pub(super) fn refilter(&mut self) {
        self.refiltered = true;
    }

    /// Other peers' routes are to be told from now on, or no longer.
    pub(super) fn pass_on(&mut self, wanted: bool) {
        (self.passing, self.taking_back) = (true, !wanted);
    }

    /// What is not to be kept has to be withdrawn.
    pub(super) fn leave(&mut self) {
        self.leaving = Some(false);
        self.refiltered = true;
    }

    pub(super) fn has_left(&self) -> bool {
        self.leaving == Some(true)
    }

    /// The peer wants `family` again.
    pub(super) fn refresh(&mut self, family: Family, enhanced: bool, passing: bool) {
        self.passing |= passing;
        if self.on {
            self.table_ended = false;
            self.refresh.insert((family, enhanced));
        } else if enhanced {
            self.marks_due.insert(family);
        }
    }
}

/// How a peer is told other peers' routes.
#[derive(Debug, Clone)]
pub struct Teller {
    /// The connection.
    pub link: LinkId,
    /// How UPDATEs are written.
    pub context: Context,
    /// What both take; none when what the peer was told is to be withdrawn.
    pub families: BTreeSet<Family>,
    /// What we are to the peer.
    pub role: Option<Role>,
    /// It knows what long-lived stale means (RFC 9494).
    pub long_lived: bool,
    /// Without that it is told of stale routes all the same, if it is internal (RFC 9494 §4.6).
    pub stale_inside: bool,
    /// It keeps routes when we are gone, but for those marked NO_LLGR.
    pub keeps: bool,
}

impl Session {
    /// With a table beside the private routes: [`Session::pull`] has to be called when the session is up, when it
    /// is down again, when the table changed, and when the socket takes more.
    #[must_use]
    pub fn with_table(mut self) -> Self {
        self.feed.on = true;
        self
    }

    /// Whether [`Session::pull`] has something to do, whatever the table holds.
    #[must_use]
    pub fn wants_pull(&self) -> bool {
        let feed = &self.feed;
        feed.on && (self.lost_table() || !feed.refresh.is_empty() || !feed.table_ended || feed.refiltered)
    }

    /// Whether the session that read the table has ended, and [`Session::pull`] has not been told yet.
    #[must_use]
    pub fn lost_table(&self) -> bool {
        self.feed.lost && self.feed.reader.is_some()
    }

    /// About `octets` of UPDATEs from the table for the peer, and the connection to send them on. Everything else
    /// that the session sends goes before.
    pub fn pull(
        &mut self,
        rib: &mut Rib,
        octets: usize,
        ends: impl Fn(LinkId) -> Option<Ends>,
    ) -> Option<(LinkId, Batch)> {
        if std::mem::take(&mut self.feed.lost)
            && let Some(reader) = self.feed.reader.take()
        {
            rib.detach(reader);
        }
        let (link, exporter) = self.exporter().filter(|_| self.feed.on)?;
        let mouth = Mouth { exporter: &exporter, ends: ends(link)?, sets: self.settings.options.sets.as_ref() };
        let reader = match self.feed.reader {
            Some(reader) => reader,
            None => {
                if self.settings.options.sets.is_some() {
                    rib.split();
                }
                rib.attach(exporter.families.clone(), self.filter())?
            }
        };
        self.feed.reader = Some(reader);
        if std::mem::take(&mut self.feed.refiltered) {
            rib.refilter(reader, self.filter());
        }
        for (family, enhanced) in std::mem::take(&mut self.feed.refresh) {
            rib.refresh(reader, family);
            if enhanced {
                self.feed.marks_due.insert(family);
            }
        }
        let mut batch = rib.read(reader, octets, &mouth);
        self.counters.sent.update += batch.updates;
        if batch.end {
            self.feed.leaving = self.feed.leaving.map(|_| true);
            self.feed.table_ended = true;
            batch.bytes.extend(self.ends().concat());
        }
        Some((link, batch))
    }

    /// How the peer is told other peers' routes; `None` unless it is, and the session is up.
    #[must_use]
    pub fn teller(&self) -> Option<Teller> {
        let Options { pass_on, pass_on_stale, .. } = self.settings.options;
        let (link, exporter) = self.exporter().filter(|_| pass_on || self.feed.taking_back)?;
        let Exporter { context, families, role, keeps, .. } = exporter;
        let families = if self.feed.taking_back { BTreeSet::new() } else { families };
        let long_lived = self.established().is_some_and(|(_, negotiated)| negotiated.long_lived);
        Some(Teller { link, context, families, role, long_lived, stale_inside: pass_on_stale, keeps: keeps.is_some() })
    }

    /// The peer has been sent `updates` messages with other peers' routes. With `end`, it knows all that are there, and
    /// what is given back goes behind them.
    pub fn passed_on(&mut self, updates: u64, end: bool) -> Vec<u8> {
        self.counters.sent.update += updates;
        if !end {
            return Vec::new();
        }
        (self.feed.passing, self.feed.taking_back) = (false, false);
        self.ends().concat()
    }

    /// What marks the end of all that was to be told, once it has come.
    pub(super) fn ends(&mut self) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        let Some((_, exporter)) = self.exporter().filter(|_| self.feed.table_ended && !self.feed.passing) else {
            return messages;
        };
        for family in std::mem::take(&mut self.feed.ends_due) {
            messages.push(exporter.end_of_rib(family));
            self.counters.sent.update += 1;
        }
        for family in std::mem::take(&mut self.feed.marks_due) {
            messages.push(self.refresh_mark(family, RouteRefresh::END));
        }
        messages
    }

    /// What of the table the peer is told.
    fn filter(&self) -> Filter {
        let filter = match self.settings.export {
            Export::All => self.settings.options.filter.clone(),
            Export::Injected => Filter::Public(Arc::new(self.settings.options.filter.clone())),
            Export::Private | Export::Nothing => Filter::Nothing,
        };
        match self.settings.options.keep.filter(|_| self.feed.leaving.is_some()) {
            Some(keep_s) => Filter::Kept(keep_s, Arc::new(filter)),
            None => filter,
        }
    }
}

/// The addresses of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Ours.
    pub local: IpAddr,
    /// The peer's.
    pub remote: IpAddr,
}

/// An exporter that knows where it speaks.
struct Mouth<'a> {
    exporter: &'a Exporter,
    ends: Ends,
    /// The sets that the peer is told, unless it is told all.
    sets: Option<&'a SetNames>,
}

impl Mouth<'_> {
    fn next_hop(&self, route: &RouteAttributes) -> IpAddr {
        match route.next_hop {
            NextHop::Address(address) => address,
            NextHop::Own => self.ends.local,
        }
    }

    /// RFC 4360 §6: what is not transitive stays inside the AS.
    fn extended_communities(&self, route: &RouteAttributes) -> Vec<ExtendedCommunity> {
        let all = route.extended_communities.iter().copied();
        all.filter(|community| !self.exporter.context.external || community.is_transitive()).collect()
    }
}

impl Encode for Mouth<'_> {
    fn tells(&self, set: &str, route: &RouteAttributes, family: Family) -> bool {
        let next_hop = self.next_hop(route);
        let leads = NextHop::Address(next_hop).fits(family)
            && (family == Family::Ipv6 || next_hop.is_ipv4() || self.exporter.context.ipv4_by_ipv6);
        leads && route.is_for(self.ends.remote) && self.sets.is_none_or(|sets| sets.has(set))
    }

    /// RFC 4271 §5.1: to an external peer with our AS on the path; to an internal one with LOCAL_PREF.
    /// What is not to be kept when we are gone says so to a peer that keeps the rest (RFC 9494 §4.1).
    fn announcement(&self, route: &RouteAttributes, family: Family, keep_s: Option<u32>) -> Result<Bulk, EncodeError> {
        let Exporter { local_as, context, keeps, .. } = *self.exporter;
        // What is to be kept for less time than the session keeps goes at once: longer than asked is never right.
        let goes = keeps.is_some_and(|least| keep_s.is_none_or(|keep_s| keep_s < least));
        let mut path: Vec<Asn> = Vec::new();
        if context.external {
            path.extend(std::iter::repeat_n(local_as, 1 + usize::from(route.prepend)));
        }
        path.extend(&route.as_path);
        let attributes = Attributes {
            origin: Some(route.origin),
            as_path: Some(AsPath::sequence(path)),
            multi_exit_disc: route.med,
            local_pref: (!context.external).then(|| route.local_pref.unwrap_or(LOCAL_PREF)),
            communities: match goes && !route.communities.contains(&Community::NO_LLGR) {
                true => route.communities.iter().copied().chain([Community::NO_LLGR]).collect(),
                false => route.communities.clone(),
            },
            extended_communities: self.extended_communities(route),
            large_communities: route.large_communities.clone(),
            only_to_customer: self.exporter.only_to_customer(),
            ..Attributes::default()
        };
        let attributes = match route.guard {
            Some(guard) => guard.attach(attributes),
            None => attributes,
        };
        match (family, self.next_hop(route)) {
            (_, IpAddr::V4(next_hop)) => Bulk::announce_v4(&attributes, next_hop, context),
            (Family::Ipv4, IpAddr::V6(next_hop)) => Bulk::announce_v4_by_v6(&attributes, next_hop, context),
            (Family::Ipv6, IpAddr::V6(next_hop)) => Bulk::announce_v6(&attributes, next_hop, context),
        }
    }

    fn withdrawal(&self, family: Family) -> Bulk {
        Bulk::withdraw(family, self.exporter.context)
    }
}
