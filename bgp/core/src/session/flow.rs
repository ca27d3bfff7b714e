//! Flow specifications in a session: what is sent, and what is heard and only shown.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use bgp_wire::{Actions, AsPath, Asn, Attributes, Family, FlowRule, RouteRefresh, Update};

use super::Session;
use super::values::{Event, Export, LinkId, Negotiated, Options, Output};
use crate::export::Exporter;
use crate::flow::FlowRoutes;
use crate::injector::Routes;
use crate::prefix_list::Filter;

/// Received rules that are kept to be shown: so many, of so many octets on the wire.
const KEPT: (usize, usize) = (4096, 256 * 1024);

/// What a peer said of a rule, as far as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowHeard {
    /// What is to be done with its packets.
    pub actions: Actions,
    /// The AS that it came from, by its path.
    pub neighbour: Option<Asn>,
    /// It started in the peer's own AS or confederation: its path is empty otherwise (RFC 9117 §4.1).
    pub local: bool,
    /// Who brought it into the AS (RFC 4456).
    pub originator: Option<Ipv4Addr>,
}

impl FlowHeard {
    fn of(attributes: &Attributes) -> Self {
        let path = attributes.as_path.as_ref();
        Self {
            actions: Actions::of(attributes),
            neighbour: path.and_then(AsPath::first),
            local: path.is_none_or(|path| path.length() == 0),
            originator: attributes.originator_id,
        }
    }
}

/// Rules that the peer announced.
#[derive(Debug, Default)]
pub(super) struct Heard {
    rules: BTreeMap<FlowRule, FlowHeard>,
    octets: usize,
    /// Families that are no longer listened to in this session.
    disabled: BTreeSet<Family>,
}

impl Heard {
    fn remove(&mut self, rule: &FlowRule) {
        if self.rules.remove(rule).is_some() {
            self.octets -= rule.encoded_length();
        }
    }

    fn insert(&mut self, rule: &FlowRule, heard: &FlowHeard) {
        let octets = self.octets + rule.encoded_length();
        if let Some(known) = self.rules.get_mut(rule) {
            known.clone_from(heard);
        } else if self.rules.len() < KEPT.0 && octets <= KEPT.1 {
            self.octets = octets;
            self.rules.insert(rule.clone(), heard.clone());
        }
    }
}

impl Session {
    /// The rules that the peer was told and not told otherwise; empty unless Established.
    #[must_use]
    pub fn flow_advertised(&self) -> &FlowRoutes {
        &self.flow_advertised
    }

    /// The rules that the peer announced, up to a bound; nothing is done with them.
    #[must_use]
    pub fn flow_heard(&self) -> &BTreeMap<FlowRule, FlowHeard> {
        &self.flow_heard.rules
    }

    /// The rules that the peer is to have beside `routes`, which are the private ones that it is told.
    pub(super) fn flow_wanted(&self, exporter: &Exporter, routes: &Routes) -> FlowRoutes {
        let private = routes.values().flat_map(|route| route.flow_routes());
        let mut wanted = FlowRoutes::new();
        if self.settings.export == Export::All {
            let filter = &self.settings.options.filter;
            // A rule for packets to anywhere is in no list.
            let passes = |rule: &FlowRule| match rule.destination() {
                Some(prefix) => filter.takes(&prefix),
                None => *filter == Filter::All,
            };
            let Options { address, sets, .. } = &self.settings.options;
            let allowed = self.flows.allowed(*address, |set| sets.as_ref().is_none_or(|sets| sets.has(set)));
            let injected =
                allowed.into_iter().filter(|(rule, _)| exporter.context.flow.has(rule.family()) && passes(rule));
            wanted.extend(injected.map(|(rule, route)| (rule.clone(), route.clone())));
        }
        // What keeps a private prefix is no set's to change.
        wanted.extend(private);
        wanted
    }

    /// Everything was told: the End-of-RIB of each family of rules (RFC 4724 §2).
    pub(super) fn end_flow(&mut self) {
        let Some((id, exporter)) = self.exporter() else { return };
        let ends = exporter.context.flow.iter().map(|family| exporter.encode(&Update::end_of_flow(family)));
        self.send_updates(id, ends.collect());
    }

    /// The peer wants the rules of a family again (RFC 2918, RFC 7313).
    pub(super) fn refresh_flow(&mut self, id: LinkId, negotiated: &Negotiated, family: Family, subtype: u8) {
        if subtype != RouteRefresh::REQUEST || !negotiated.context.flow.has(family) {
            return;
        }
        let mark = |session: &mut Self, subtype| {
            if negotiated.context.enhanced_refresh {
                let mark = session.refresh_mark_of(family.afi(), bgp_wire::FLOW_SAFI, subtype);
                session.output.push_back(Output::Send(id, mark));
            }
        };
        mark(self, RouteRefresh::BEGIN);
        self.flow_advertised.retain(|rule, _| rule.family() != family);
        self.announce();
        mark(self, RouteRefresh::END);
    }

    pub(super) fn hear_flow(&mut self, update: &Update) {
        for family in update.disables_flow() {
            if self.flow_heard.disabled.insert(family) {
                self.flow_heard.rules.retain(|rule, _| rule.family() != family);
                self.flow_heard.octets = self.flow_heard.rules.keys().map(FlowRule::encoded_length).sum();
                self.output.push_back(Output::Event(Event::FlowDisabled(family)));
            }
        }
        let heard = &mut self.flow_heard;
        for rule in update.flow_unreachable() {
            self.counters.flow_withdrawn += 1;
            heard.remove(rule);
        }
        let said = FlowHeard::of(&update.attributes);
        for rule in update.flow_reachable() {
            if !heard.disabled.contains(&rule.family()) {
                self.counters.flow_announced += 1;
                heard.insert(rule, &said);
            }
        }
    }
}
