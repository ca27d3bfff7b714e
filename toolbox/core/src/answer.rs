//! The answers: what the sessions that claim an address say about it together.

use std::collections::BTreeMap;
use std::net::IpAddr;

use cloakway_types::{SubscriberId, Timestamp};
use ipnet::IpNet;
use serde::Serialize;
use toolbox_wire::http::{Reason, Source};
use toolbox_wire::record::{Ports, User};

use crate::session::{Holding, Session, SessionKey, Span, Standing};
use crate::table::Table;
use crate::translate::Computed;

/// What is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Question {
    /// The address, as the other side of a connection sees it.
    pub address: IpAddr,
    /// The port, where it is known.
    pub port: Option<u16>,
    /// The protocol's number in the IP header, where it is known.
    pub protocol: Option<u8>,
}

impl Question {
    /// An IPv4-mapped IPv6 address is the IPv4 address that it stands for.
    #[must_use]
    pub const fn new(address: IpAddr, port: Option<u16>) -> Self {
        Self { address: address.to_canonical(), port, protocol: None }
    }

    fn concerns(self, ports: Ports) -> bool {
        self.port.is_none_or(|port| ports.holds(port, self.protocol))
    }
}

impl From<IpAddr> for Question {
    fn from(address: IpAddr) -> Self {
        Self::new(address, None)
    }
}

impl From<(IpAddr, u16)> for Question {
    fn from((address, port): (IpAddr, u16)) -> Self {
        Self::new(address, Some(port))
    }
}

/// Why an address has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unknown {
    /// No open session has it.
    NoSession,
    /// Its session was not heard of for too long.
    Stale,
    /// Sessions of different subscribers claim it.
    Overlap,
    /// Its session's records contradict each other, or cannot be put in order.
    Contradiction,
    /// Its session has no usable name.
    Unnamed,
    /// It is shared by ports, and the question has none.
    PortsNeeded,
    /// A translation leads to what is no subscriber's address.
    Astray,
    /// At that moment somebody may have had it, which no record proves.
    Unproved,
    /// That moment is longer ago than history is kept.
    Forgotten,
    /// That moment is not yet.
    Future,
}

impl Unknown {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoSession => "no-session",
            Self::Stale => "stale",
            Self::Overlap => "overlap",
            Self::Contradiction => "contradiction",
            Self::Unnamed => "unnamed",
            Self::PortsNeeded => "ports-needed",
            Self::Astray => "astray",
            Self::Unproved => "unproved",
            Self::Forgotten => "forgotten",
            Self::Future => "future",
        }
    }
}

/// Who is at an address now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// This subscriber.
    Bound {
        /// Who.
        subscriber: SubscriberId,
        /// By which session.
        session: SessionKey,
        /// From when to when it is proved.
        span: Span,
        /// The internal address, where a translation leads there.
        through: Option<IpAddr>,
    },
    /// The address is not in our subscriber prefixes.
    NotOurs,
    /// No answer.
    Unknown(Unknown),
}

/// The evidence behind a yes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Live {
    /// Learnt from.
    pub source: Source,
    /// From when to when it is proved.
    pub span: Span,
}

/// One line of the table, for an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Binding {
    /// The address or prefix.
    pub prefix: IpNet,
    /// Which ports of it; none: all.
    pub ports: Option<Ports>,
    /// The subscriber; none when the session names nobody usable.
    pub subscriber: Option<SubscriberId>,
    /// Of a translation, the internal address.
    pub behind: Option<IpAddr>,
    /// `bound`, or why the address is unknown.
    pub state: String,
    /// The session's name at its NAS.
    pub session: String,
    /// The NAS by the best name it gives.
    pub nas: Option<String>,
    /// The client that reported it.
    pub client: String,
    /// The kind of source.
    pub source: Source,
    /// First proof, RFC 3339.
    pub since: String,
    /// Last proof, RFC 3339.
    pub proved_at: String,
}

/// A session at the address that is asked about, and its claim that counts.
#[derive(Debug, Clone)]
struct Holder {
    key: SessionKey,
    session: Session,
    holding: Holding,
}

/// Somebody, and by which session.
struct Found {
    name: SubscriberId,
    key: SessionKey,
    span: Span,
    through: Option<IpAddr>,
}

impl Found {
    fn answer(self) -> Answer {
        Answer::Bound { subscriber: self.name, session: self.key, span: self.span, through: self.through }
    }
}

impl Table {
    /// Who is there now?
    #[must_use]
    pub fn lookup(&self, question: impl Into<Question>, now: Timestamp) -> Answer {
        let question = question.into();
        let question = Question { address: question.address.to_canonical(), ..question };
        if self.settings.prefixes.lookup(question.address).is_none() {
            return Answer::NotOurs;
        }
        self.find(question, now).map_or_else(Answer::Unknown, Found::answer)
    }

    fn find(&self, question: Question, now: Timestamp) -> Result<Found, Unknown> {
        let learnt = self.learnt(question, now, true);
        let computed = self.settings.computed(question, now);
        match (computed, learnt) {
            (Computed::Elsewhere, learnt) => learnt,
            (Computed::PortNeeded, _) => Err(Unknown::PortsNeeded),
            (Computed::Nobody, Err(Unknown::NoSession)) => Err(Unknown::NoSession),
            (Computed::Behind(inside), Err(Unknown::NoSession)) => {
                self.inside(inside, now).map(|found| Found { through: Some(inside), ..found })
            }
            (Computed::Nobody, Ok(_)) => Err(Unknown::Overlap),
            (Computed::Behind(inside), Ok(learnt)) => match self.inside(inside, now) {
                Ok(found) if found.name == learnt.name => Ok(learnt),
                Ok(_) | Err(_) => Err(Unknown::Overlap),
            },
            (Computed::Nobody | Computed::Behind(_), Err(why)) => Err(why),
        }
    }

    /// Who is at an internal address, whole.
    fn inside(&self, address: IpAddr, now: Timestamp) -> Result<Found, Unknown> {
        let question = Question::new(address, None);
        if self.settings.prefixes.lookup(question.address).is_none() {
            return Err(Unknown::Astray);
        }
        self.learnt(question, now, false)
    }

    /// What sessions say. Of an address that is shared by ports one of them is enough to know that nothing is said without a port.
    fn learnt(&self, question: Question, now: Timestamp, outer: bool) -> Result<Found, Unknown> {
        let here = |net: IpNet, of: &Holding| of.net == net && of.standing != Standing::Over && !of.ports.is_all();
        let shares = |net: IpNet, session: &Session| {
            let here = session.holdings(self.settings.max_delay).any(|of| here(net, &of));
            here && !session.is_silent(now, self.settings.max_age)
        };
        if question.port.is_none() && self.sessions.is_shared(question.address, shares) {
            return Err(Unknown::PortsNeeded);
        }
        self.judge(&self.holders(question), question, now, outer)
    }

    /// The subscriber that a session's records or its translation lead to.
    pub(crate) fn name_of(&self, user: &User, now: Timestamp) -> Option<SubscriberId> {
        match user {
            User::Named(name) => Some(name.clone()),
            User::Behind(address) => self.inside(*address, now).ok().map(|found| found.name),
            User::Unstated | User::Unusable => None,
        }
    }

    /// `outer`: a translation may lead further. Only one may: a second one is a loop, or a mistake.
    fn judge(&self, holders: &[Holder], question: Question, now: Timestamp, outer: bool) -> Result<Found, Unknown> {
        let mut claimants = holders.iter().filter(|of| of.holding.standing != Standing::Over).peekable();
        if claimants.peek().is_none() {
            return Err(Unknown::NoSession);
        }
        // By arrival, not by proof: a session whose clock is slow still contradicts another one.
        let rivals: Vec<_> = claimants.filter(|of| !of.session.is_silent(now, self.settings.max_age)).collect();
        let Some(Holder { key, session, holding }) = rivals.iter().max_by_key(|of| of.holding.span.proof) else {
            return Err(Unknown::Stale);
        };
        if question.port.is_none() && rivals.iter().any(|of| !of.holding.ports.is_all()) {
            return Err(Unknown::PortsNeeded);
        }
        let mut others = rivals.iter().filter(|rival| rival.session.user != session.user).peekable();
        if others.peek().is_some() {
            // One subscriber by two roads, such as a session with its port block and the NAT's translation.
            // Inside, nothing leads further: translations that lead to each other would never end.
            let name = if outer { self.name_of(&session.user, now) } else { None };
            if name.is_none() || others.any(|rival| self.name_of(&rival.session.user, now) != name) {
                return Err(Unknown::Overlap);
            }
        }
        if rivals.iter().any(|of| of.holding.standing == Standing::Objects) {
            return Err(Unknown::Contradiction);
        }
        let span = holding.span;
        match &session.user {
            User::Unstated | User::Unusable if rivals.len() > 1 => Err(Unknown::Overlap),
            User::Unstated | User::Unusable => Err(Unknown::Unnamed),
            _ if session.is_stale(span.proof, now, self.settings.max_age) => Err(Unknown::Stale),
            User::Named(name) => Ok(Found { name: name.clone(), key: key.clone(), span, through: None }),
            User::Behind(_) if !outer => Err(Unknown::Astray),
            User::Behind(inside) => self.inside(*inside, now).map(|found| {
                let span = Span { since: found.span.since.max(span.since), proof: found.span.proof.min(span.proof) };
                Found { span, through: Some(*inside), ..found }
            }),
        }
    }

    /// Is `subscriber` live there now?
    ///
    /// # Errors
    /// The [`Reason`] for a no; it depends on what is known of this subscriber, and of others only in
    /// that they claim or share the same address.
    pub fn verify(
        &self,
        subscriber: &SubscriberId,
        question: impl Into<Question>,
        now: Timestamp,
    ) -> Result<Live, Reason> {
        let question = question.into();
        let question = Question { address: question.address.to_canonical(), ..question };
        match self.lookup(question, now) {
            Answer::NotOurs => Err(Reason::NotOurs),
            Answer::Bound { subscriber: bound, session, span, .. } if bound == *subscriber => {
                Ok(Live { source: session.source, span })
            }
            Answer::Unknown(Unknown::PortsNeeded) => Err(Reason::PortNeeded),
            answer => {
                let own = self.standings(subscriber, question, now);
                Err(match answer {
                    _ if own.is_empty() => Reason::NoSession,
                    _ if own.iter().all(|standing| *standing == Standing::Over) => Reason::Ended,
                    Answer::Unknown(Unknown::Overlap | Unknown::Contradiction) => Reason::Ambiguous,
                    _ => Reason::Stale,
                })
            }
        }
    }

    /// What the subscriber's own claims are worth, direct ones and those through a translation.
    fn standings(&self, subscriber: &SubscriberId, question: Question, now: Timestamp) -> Vec<Standing> {
        let holders = self.holders(question);
        let own = |holders: &[Holder]| -> Vec<Standing> {
            let of = holders.iter().filter(|holder| holder.session.is_of(subscriber));
            of.map(|holder| holder.holding.standing).collect()
        };
        let inside = |address: IpAddr, outer: Standing| {
            let standings = own(&self.holders(Question::new(address, None)));
            // What led there and leads there no more is over.
            standings.into_iter().map(move |standing| if outer == Standing::Over { outer } else { standing })
        };
        let mut standings = own(&holders);
        for holder in &holders {
            if let User::Behind(address) = holder.session.user {
                standings.extend(inside(address, holder.holding.standing));
            }
        }
        if let Computed::Behind(address) = self.settings.computed(question, now) {
            standings.extend(inside(address, Standing::Answers));
        }
        standings
    }

    /// Every address of every session that claims it, in the order of addresses.
    pub fn bindings(&self, now: Timestamp) -> impl Iterator<Item = Binding> + '_ {
        self.sessions.by_net().into_iter().flat_map(move |(net, key, session)| {
            let mut holdings: Vec<Holding> = session.holdings(self.settings.max_delay).collect();
            holdings.retain(|holding| holding.net == net && holding.standing != Standing::Over);
            holdings.sort_by_key(|holding| holding.ports);
            // An address that two attributes name is one line.
            holdings.dedup_by_key(|holding| holding.ports);
            holdings.into_iter().map(move |holding| self.binding(&key, &session, holding, now)).collect::<Vec<_>>()
        })
    }

    /// Those of them that claim what is asked about.
    #[must_use]
    pub fn claims(&self, question: Question, now: Timestamp) -> Vec<Binding> {
        let holders = self.holders(Question { address: question.address.to_canonical(), ..question });
        let live = holders.into_iter().filter(|holder| holder.holding.standing != Standing::Over);
        live.map(|Holder { key, session, holding }| self.binding(&key, &session, holding, now)).collect()
    }

    fn binding(&self, key: &SessionKey, session: &Session, holding: Holding, now: Timestamp) -> Binding {
        let Holding { net, ports, span, .. } = holding;
        let port = (!ports.is_all()).then_some(ports.first());
        let question = Question { address: net.addr(), port, protocol: ports.protocol() };
        let state = match self.lookup(question, now) {
            _ if session.is_silent(now, self.settings.max_age) => "stale",
            Answer::Bound { .. } => "bound",
            Answer::NotOurs => Reason::NotOurs.as_str(),
            Answer::Unknown(why) => why.as_str(),
        };
        let nas = &key.nas;
        let best = nas.identifier.clone().or(nas.v4.map(|a| a.to_string())).or(nas.v6.map(|a| a.to_string()));
        Binding {
            prefix: net,
            ports: (!ports.is_all()).then_some(ports),
            subscriber: match &session.user {
                User::Named(name) => Some(name.clone()),
                User::Unstated | User::Unusable | User::Behind(_) => None,
            },
            behind: match session.user {
                User::Behind(address) => Some(address),
                User::Named(_) | User::Unstated | User::Unusable => None,
            },
            state: state.to_owned(),
            session: key.session.clone(),
            nas: best,
            client: key.client.clone(),
            source: key.source,
            since: span.since.to_string(),
            proved_at: span.proof.to_string(),
        }
    }

    /// How many sessions there are, open or not.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// How many sessions are open.
    #[must_use]
    pub fn open_sessions(&self) -> usize {
        self.sessions.open()
    }

    /// Sessions at what is asked about, over or not, each with the claim that counts, in the order of their keys.
    fn holders(&self, question: Question) -> Vec<Holder> {
        let mut found: BTreeMap<SessionKey, Holder> = BTreeMap::new();
        for (net, key, session) in self.sessions.around(question.address, question.port) {
            let here = |of: &Holding| of.net == net && question.concerns(of.ports);
            for holding in session.holdings(self.settings.max_delay).filter(here) {
                let new = || Holder { key: key.clone(), session: session.clone(), holding };
                let counts = &mut found.entry(key.clone()).or_insert_with(new).holding;
                // Ports are told of before a whole address is: without a port there is no answer then.
                let weight = |of: &Holding| (of.standing, !of.ports.is_all(), of.span.proof);
                if weight(&holding) > weight(counts) {
                    *counts = holding;
                }
            }
        }
        found.into_values().collect()
    }
}
