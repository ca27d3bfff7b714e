//! What an Established session says and hears of routes.

use std::collections::BTreeSet;

use bgp_wire::{Asn, Context, Family, Message, Role, RouteRefresh, Update};
use ipnet::IpNet;

use super::Session;
use super::values::{Event, Export, Heard, LinkId, Negotiated, Output};
use crate::export::Exporter;
use crate::flow::FlowRoutes;
use crate::injector::Routes;

/// What was told of this session already, or is no longer listened to in it.
#[derive(Debug, Default)]
pub(super) struct Reported {
    private: BTreeSet<IpNet>,
    flaws: BTreeSet<u8>,
    disabled: BTreeSet<Family>,
    leak: bool,
    multicast: bool,
    /// Families with nearly too many routes, or with too many.
    pub(super) limits: BTreeSet<(Family, bool)>,
}

impl Session {
    pub(super) fn exporter(&self) -> Option<(LinkId, Exporter)> {
        let (id, negotiated) = self.established()?;
        let exporter = Exporter {
            local_as: self.settings.local_as,
            context: negotiated.context,
            families: negotiated.families.clone(),
            role: self.settings.options.role.map(|setting| setting.role),
            keeps: self.settings.options.keep.filter(|_| negotiated.keeps),
        };
        Some((id, exporter))
    }

    /// Sends what differs between the routes to announce and what the peer holds.
    pub(super) fn announce(&mut self) {
        let Some((id, exporter)) = self.exporter() else { return };
        let routes = match self.settings.export {
            Export::Nothing | Export::Injected => Routes::new(),
            Export::Private | Export::All => {
                let mut taken = exporter.taken(&self.routes);
                taken.retain(|prefix, _| self.settings.options.filter.takes(prefix));
                taken
            }
        };
        let flows = match self.settings.export {
            Export::Nothing | Export::Injected => FlowRoutes::new(),
            Export::Private | Export::All => self.flow_wanted(&exporter, &routes),
        };
        let held = (&self.advertised, &self.flow_advertised);
        self.send_updates(id, exporter.difference(held, (&routes, &flows)));
        self.advertised = routes;
        self.flow_advertised = flows;
    }

    pub(super) fn send_updates(&mut self, id: LinkId, updates: Vec<Vec<u8>>) {
        for bytes in updates {
            self.counters.sent.update += 1;
            self.output.push_back(Output::Send(id, bytes));
        }
    }

    /// The peer wants a family again, or marks where its own answer begins and ends (RFC 2918, RFC 7313).
    pub(super) fn refresh(&mut self, id: LinkId, negotiated: &Negotiated, refresh: RouteRefresh) {
        if let Some(family) = Family::from_flow_codes(refresh.afi, refresh.safi) {
            return self.refresh_flow(id, negotiated, family, refresh.subtype);
        }
        // A family that was not negotiated, and a subtype that nobody knows, is ignored (RFC 2918 §4, RFC 7313 §5).
        let Some(family) = Family::from_codes(refresh.afi, refresh.safi) else { return };
        if !negotiated.families.contains(&family) {
            return;
        }
        let marked = negotiated.context.enhanced_refresh;
        match refresh.subtype {
            RouteRefresh::REQUEST => {}
            RouteRefresh::BEGIN if marked => return self.hear(Heard::RefreshBegins(family)),
            RouteRefresh::END if marked => return self.hear(Heard::RefreshEnds(family)),
            _ => return,
        }
        if marked {
            let begin = self.refresh_mark(family, RouteRefresh::BEGIN);
            self.output.push_back(Output::Send(id, begin));
        }
        let passing = self.settings.options.pass_on;
        self.feed.refresh(family, marked, passing);
        self.advertised.retain(|prefix, _| Family::of(prefix) != family);
        self.announce();
        // Where there is a table, or other peers' routes are told, the end comes behind what is read of them.
        let ends = self.ends().into_iter().map(|message| Output::Send(id, message));
        self.output.extend(ends);
        if passing {
            self.output.push_back(Output::Heard(Heard::Wants(family)));
        }
    }

    /// Asks the peer for everything again (RFC 2918); gives the families.
    ///
    /// # Errors
    /// Why it cannot be asked.
    pub fn ask_again(&mut self) -> Result<BTreeSet<Family>, &'static str> {
        let (id, negotiated) = self.established().ok_or("the session is not established")?;
        if !negotiated.route_refresh {
            return Err("the peer does not know ROUTE-REFRESH (RFC 2918)");
        }
        let families = negotiated.families.clone();
        for family in &families {
            let request = self.refresh_mark(*family, RouteRefresh::REQUEST);
            self.output.push_back(Output::Send(id, request));
        }
        Ok(families)
    }

    /// ROUTE-REFRESH, written: a request, or where our answer begins or ends (RFC 7313 §4).
    pub(super) fn refresh_mark(&mut self, family: Family, subtype: u8) -> Vec<u8> {
        self.refresh_mark_of(family.afi(), family.safi(), subtype)
    }

    pub(super) fn refresh_mark_of(&mut self, afi: u16, safi: u8, subtype: u8) -> Vec<u8> {
        let message = Message::RouteRefresh(RouteRefresh { afi, subtype, safi });
        self.counters.sent.count(&message);
        message.encode(Context::default()).expect("ROUTE-REFRESH has one length")
    }

    pub(super) fn update(&mut self, mut update: Update, agreed: &BTreeSet<Family>) {
        for flaw in &update.flaws {
            self.counters.flaws += 1;
            if self.reported.flaws.insert(flaw.code) {
                self.output.push_back(Output::Event(Event::Flaw(flaw.clone())));
            }
        }
        self.counters.flaws += update.left_out.len() as u64;
        if let Some(prefix) = update.left_out.first().filter(|_| !self.reported.multicast) {
            self.reported.multicast = true;
            self.output.push_back(Output::Event(Event::MulticastPrefix(*prefix)));
        }
        for family in update.disables() {
            if self.reported.disabled.insert(family) {
                self.output.push_back(Output::Event(Event::FamilyDisabled(family)));
            }
        }
        self.hear_flow(&update);
        let ends = update.ends_rib_of();
        for family in Family::ALL {
            if !agreed.contains(&family) || self.reported.disabled.contains(&family) {
                update.drop_family(family);
            }
        }
        self.counters.prefixes_withdrawn += update.unreachable().count() as u64;
        let leak = self.leaks(update.attributes.only_to_customer);
        for received in update.reachable() {
            self.counters.prefixes_announced += 1;
            if leak {
                self.counters.leaks += 1;
                if !std::mem::replace(&mut self.reported.leak, true) {
                    self.output.push_back(Output::Event(Event::RouteLeak(received)));
                }
            }
            let Some(ours) = self.settings.private.iter().copied().find(|ours| ours.contains(&received)) else {
                continue;
            };
            self.counters.private_received += 1;
            if self.reported.private.insert(ours) {
                self.output.push_back(Output::Event(Event::PrivatePrefixReceived { received, ours }));
            }
        }
        match ends {
            Some(family) if agreed.contains(&family) => {
                self.hear(Heard::EndOfRib(family));
                self.told_again(family);
            }
            Some(_) => {}
            None if self.settings.options.import => self.hear(Heard::Update(Box::new(update))),
            None => {}
        }
    }

    pub(super) fn hear(&mut self, heard: Heard) {
        if self.settings.options.import {
            self.output.push_back(Output::Heard(heard));
        }
    }

    /// Whether a route with this mark should not have come to us (RFC 9234 §5, ingress).
    fn leaks(&self, only_to_customer: Option<Asn>) -> bool {
        let role = self.settings.options.role.map(|setting| setting.role);
        match (role, only_to_customer) {
            (Some(Role::Provider | Role::RouteServer), Some(_)) => true,
            (Some(Role::Peer), Some(asn)) => self.established().is_some_and(|(_, negotiated)| asn != negotiated.asn),
            _ => false,
        }
    }
}
