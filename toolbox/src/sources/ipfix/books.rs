//! Which translations stand, by which observation domain of which exporter.
//!
//! Messages of a domain are numbered: when one is missing, a translation of that domain may have gone to somebody else unheard.
//! All that it said is over from the moment of the last message before, and so is what other domains said of the same
//! external addresses; nothing else is. A block that was doubted comes back when it is said again, or when a session of its
//! subscriber begins within it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use cloakway_runtime::clock;
use cloakway_types::Timestamp;
use toolbox_nat::ipfix::{Event, Happening, Which};
use toolbox_nat::{Flow, Flows, Mapping, Turn};
use toolbox_wire::record::{Address, AddressKind, Ports, User};

use super::moment::Moment;
use crate::sources::teller::{Gone, Teller};

/// Domains of all exporters.
const DOMAINS: usize = 1024;

/// An observation domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Domain {
    pub(super) exporter: IpAddr,
    pub(super) id: u32,
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "domain {} of {}", self.id, self.exporter)
    }
}

/// What one domain said.
#[derive(Default)]
struct Said {
    flows: Flows,
    externals: HashSet<IpAddr>,
    /// Until when nothing of it can be missing.
    whole: Option<Timestamp>,
    /// Whether it was said that its clock is off.
    apart: bool,
}

/// An external address, or ports of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Place {
    external: IpAddr,
    ports: Ports,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ports.is_all() { self.external.fmt(f) } else { write!(f, "{}:{}", self.external, self.ports) }
    }
}

/// From when to when something can have happened.
type Window = (Timestamp, Timestamp);

/// All translations of one source.
pub(super) struct Books {
    pub(super) teller: Teller,
    holds: Option<Duration>,
    max_delay: Duration,
    domains: HashMap<Domain, Said>,
    /// Whose a place is.
    held: HashMap<Place, IpAddr>,
    /// What may be somebody else's since something was missed, by address and first port.
    doubted: BTreeMap<(IpAddr, u16), (Place, IpAddr)>,
}

impl Books {
    pub(super) fn new(teller: Teller, holds: Option<Duration>) -> Self {
        let max_delay = teller.max_delay();
        let (domains, held, doubted) = (HashMap::new(), HashMap::new(), BTreeMap::new());
        Self { teller, holds, max_delay, domains, held, doubted }
    }

    /// Whether the domain has said something that stands.
    pub(super) fn has_said(&self, domain: Domain) -> bool {
        self.domains.get(&domain).is_some_and(|said| !said.externals.is_empty())
    }

    /// Nothing that any domain of the exporter said is certain any more.
    pub(super) async fn all_over(&mut self, exporter: IpAddr, reason: &'static str, what: &str) -> Result<(), Gone> {
        let exporter = exporter.to_canonical();
        let mut domains: Vec<Domain> = self.domains.keys().filter(|of| of.exporter == exporter).copied().collect();
        domains.sort_unstable();
        if domains.is_empty() {
            self.teller.status.alarm(reason, what);
        }
        for domain in domains {
            self.over(domain, reason, what).await?;
        }
        Ok(())
    }

    /// Nothing that the domain said is certain any more, nor what others said of the same external addresses.
    pub(super) async fn over(&mut self, domain: Domain, reason: &'static str, what: &str) -> Result<(), Gone> {
        let (externals, whole) = match self.domains.get(&domain) {
            Some(said) => (said.externals.clone(), said.whole),
            None => (HashSet::new(), None),
        };
        let now = clock::wall();
        // It was so until then; when it changed, if it did, nobody knows.
        let window = (whole.unwrap_or(now).min(now), now);
        let mut count = 0;
        for other in self.domains.values_mut() {
            let lost: Vec<Mapping> = other.flows.mappings().filter(|of| externals.contains(&of.external)).collect();
            if lost.is_empty() {
                continue;
            }
            count += lost.len();
            other.flows.forget(|external| externals.contains(&external));
            for mapping in lost {
                self.teller.stopped(flow_name(mapping), window).await?;
            }
        }
        let affected = self.held.iter().filter(|(place, _)| externals.contains(&place.external));
        let lost: Vec<(Place, IpAddr)> = affected.map(|(place, internal)| (*place, *internal)).collect();
        count += lost.len();
        for (place, internal) in lost {
            self.held.remove(&place);
            self.doubted.insert((place.external, place.ports.first()), (place, internal));
            self.teller.stopped(place.to_string(), window).await?;
        }
        if let Some(said) = self.domains.get_mut(&domain) {
            said.externals.clear();
        }
        let what = format!("{what}: {count} translations are not known any more");
        self.teller.status.alarm(reason, &what);
        Ok(())
    }

    /// A message of the domain arrived in its turn: but for what waits there still, or is under way, all was said.
    pub(super) fn heard(&mut self, domain: Domain, arrival: Timestamp) {
        let whole = Moment::of(None, 0, arrival, self.max_delay).earliest - self.max_delay;
        if let Some(said) = self.domains.get_mut(&domain) {
            said.whole = Some(whole);
        }
    }

    /// Writes down what is there, and waits until it is durable.
    pub(super) async fn settle(&mut self) -> Result<(), Gone> {
        let flows: usize = self.domains.values().map(|said| said.flows.len()).sum();
        self.teller.status.known(self.held.len() + flows);
        self.teller.settle().await
    }

    /// What `domain` said in a message that it sent at `exported_s`.
    pub(super) async fn event(
        &mut self,
        domain: Domain,
        event: Event,
        exported_s: u32,
        arrival: Timestamp,
    ) -> Result<(), Gone> {
        if self.domains.len() >= DOMAINS && !self.domains.contains_key(&domain) {
            let what = format!("{domain} is not followed: there are {DOMAINS} others");
            return self.all_over(domain.exporter, "domains", &what).await;
        }
        let moment = Moment::of(event.at_ms, exported_s, arrival, self.max_delay);
        let window = (moment.earliest, moment.latest);
        let said = self.domains.entry(domain).or_default();
        if moment.apart && !std::mem::replace(&mut said.apart, true) {
            self.teller.status.alarm("clock", &format!("the clock of {domain} is more than five minutes from ours"));
        }
        match event.happening {
            Happening::Session(flow) => {
                said.externals.insert(flow.mapping.external);
                self.flow(domain, event.which, flow, window).await
            }
            Happening::Binding(mapping) => {
                let Some(ports) = Ports::new(mapping.port, mapping.port) else { return Ok(()) };
                said.externals.insert(mapping.external);
                if event.which == Which::Begun {
                    self.prove(mapping, window).await?;
                }
                let place = Place { external: mapping.external, ports: ports.of(mapping.protocol) };
                self.place(event.which, place, mapping.internal, window).await
            }
            Happening::Block { external, first, last, internal } => {
                let Some(ports) = Ports::new(first, last) else { return Ok(()) };
                said.externals.insert(external);
                self.place(event.which, Place { external, ports }, internal, window).await
            }
            Happening::Address { external, internal } => {
                said.externals.insert(external);
                let place = Place { external, ports: Ports::ALL };
                self.place(event.which, place, internal, window).await
            }
        }
    }

    /// One port may be several internal addresses'. A flow is where it was said the last time; another domain may say its end.
    async fn flow(&mut self, domain: Domain, which: Which, flow: Flow, window: Window) -> Result<(), Gone> {
        let elsewhere: Vec<Mapping> = self
            .domains
            .iter_mut()
            .filter(|(of, _)| which == Which::Ended || **of != domain)
            .filter_map(|(_, said)| match said.flows.end(flow) {
                Some(Turn::Ended(mapping)) => Some(mapping),
                Some(Turn::Begun(_)) | None => None,
            })
            .collect();
        for mapping in elsewhere {
            self.teller.stopped(flow_name(mapping), window).await?;
        }
        if which == Which::Ended {
            return Ok(());
        }
        self.prove(flow.mapping, window).await?;
        let begun = self.domains.entry(domain).or_default().flows.begin(flow);
        let Some(Turn::Begun(mapping)) = begun else { return Ok(()) };
        let Some(ports) = Ports::new(mapping.port, mapping.port) else { return Ok(()) };
        let address = Address::ports(AddressKind::PortBlock, mapping.external, ports.of(mapping.protocol));
        self.start(flow_name(mapping), mapping.internal, address, window).await
    }

    /// A place is one internal address's: who said it last has replaced who said it before.
    async fn place(&mut self, which: Which, place: Place, internal: IpAddr, window: Window) -> Result<(), Gone> {
        let key = (place.external, place.ports.first());
        if self.doubted.get(&key).is_some_and(|(doubted, _)| *doubted == place) {
            self.doubted.remove(&key);
        }
        match which {
            Which::Begun => {
                self.held.insert(place, internal);
                let address = Address::ports(AddressKind::PortBlock, place.external, place.ports);
                self.start(place.to_string(), internal, address, window).await
            }
            Which::Ended if self.held.remove(&place).is_some() => self.teller.stopped(place.to_string(), window).await,
            Which::Ended => Ok(()),
        }
    }

    /// What begins in a block that is doubted says whose the block is.
    async fn prove(&mut self, mapping: Mapping, window: Window) -> Result<(), Gone> {
        let below = self.doubted.range((mapping.external, 0)..=(mapping.external, mapping.port)).next_back();
        let Some((key, (place, internal))) = below.map(|(key, of)| (*key, *of)) else { return Ok(()) };
        if !place.ports.holds(mapping.port, None) || place.ports.protocol().is_some() {
            return Ok(());
        }
        self.doubted.remove(&key);
        if internal != mapping.internal {
            return Ok(());
        }
        self.place(Which::Begun, place, internal, window).await
    }

    async fn start(&mut self, name: String, internal: IpAddr, address: Address, window: Window) -> Result<(), Gone> {
        let until = self.holds.map(|holds| clock::wall() + holds);
        self.teller.started(name, User::Behind(internal), address, until, window).await
    }
}

fn flow_name(Mapping { external, port, protocol, internal }: Mapping) -> String {
    format!("{external}:{port}-{port}/{protocol} {internal}")
}
