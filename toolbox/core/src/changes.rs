//! What changed, for those who keep a copy: which places a row is about, and what is known of them now.

use std::collections::BTreeMap;
use std::net::IpAddr;

use cloakway_types::Timestamp;
use ipnet::IpNet;
use toolbox_wire::follow::{Known, State};
use toolbox_wire::record::{FOREVER, Ports, User};

use crate::answer::{Answer, Question, Unknown};
use crate::codec::DecodeError;
use crate::history::Interval;
use crate::rows::{Row, Rows};
use crate::session::{Holding, Session, SessionKey, Span, Standing};
use crate::table::Table;
use crate::translate::Computed;

/// Why a place is unknown here: it is also computed, and has to be asked about.
const COMPUTED: &str = "computed";

/// A prefix, or ports of an address.
pub type Place = (IpNet, Ports);

/// Sessions that claim a place.
type Claimants = BTreeMap<SessionKey, Session>;

impl Row {
    /// The places that it is about: what a session has, or what came to an end.
    ///
    /// # Errors
    /// [`DecodeError`]: something else made it.
    pub fn places(&self) -> Result<Vec<Place>, DecodeError> {
        let Some(value) = &self.value else { return Ok(Vec::new()) };
        let mut places = match self.table {
            Rows::Sessions => {
                let session = Session::decode(&SessionKey::decode(&self.key)?, value)?;
                session.claims().map(|claim| (claim.net, claim.ports)).collect()
            }
            Rows::History => {
                let interval = Interval::decode(value)?;
                vec![(interval.net, interval.ports)]
            }
            Rows::Resets => Vec::new(),
        };
        places.sort_unstable();
        places.dedup();
        Ok(places)
    }
}

impl Table {
    /// What is known now of exactly these places, each once.
    #[must_use]
    pub fn known(&self, places: &[Place], now: Timestamp) -> Vec<Known> {
        self.known_of(self.claimants(places, |place, of| place == of), now)
    }

    /// What is known now of these places and of all that have something in common with one of them: a session that comes
    /// or goes changes what others are worth.
    #[must_use]
    pub fn known_around(&self, places: &[Place], now: Timestamp) -> Vec<Known> {
        self.known_of(self.claimants(places, |place, of| place.1.meets(of.1)), now)
    }

    fn claimants(&self, places: &[Place], counts: impl Fn(Place, Place) -> bool) -> BTreeMap<Place, Claimants> {
        let mut all: BTreeMap<Place, Claimants> = BTreeMap::new();
        for place in places.iter().filter(|(net, _)| self.is_ours(net)) {
            all.entry(*place).or_default();
            for (net, key, session) in self.sessions.touching(place.0, place.1) {
                let holdings = session.holdings(self.settings.max_delay).filter(|of| of.net == net);
                let holdings = holdings.filter(|of| of.standing != Standing::Over && counts(*place, (net, of.ports)));
                for holding in holdings.collect::<Vec<_>>() {
                    all.entry((net, holding.ports)).or_default().insert(key.clone(), session.clone());
                }
            }
        }
        all
    }

    fn known_of(&self, places: BTreeMap<Place, Claimants>, now: Timestamp) -> Vec<Known> {
        places.into_iter().map(|(place, claimants)| self.known_at(place, &claimants, now)).collect()
    }

    fn known_at(&self, place: Place, claimants: &Claimants, now: Timestamp) -> Known {
        let (net, ports) = place;
        let known = |state| Known {
            prefix: net,
            ports: (!ports.is_all()).then_some(ports),
            state,
            reason: None,
            subscriber: None,
            behind: None,
            source: None,
            since: None,
            proved_at: None,
            until: None,
        };
        let unknown = |why: Unknown| Known { reason: Some(why.as_str().to_owned()), ..known(State::Unknown) };
        if claimants.is_empty() {
            return known(State::Gone);
        }
        let port = (!ports.is_all()).then_some(ports.first());
        let question = Question { address: net.addr(), port, protocol: ports.protocol() };
        if !matches!(self.settings.computed(question, now), Computed::Elsewhere) {
            return Known { reason: Some(COMPUTED.to_owned()), ..known(State::Unknown) };
        }
        if let Some((inside, key, session)) = self.one_translation(claimants, now)
            && let Some((span, until)) = self.held(place, session)
        {
            return Known {
                behind: Some(inside),
                source: Some(key.source),
                since: Some(span.since.to_string()),
                proved_at: Some(span.proof.to_string()),
                until: end(until),
                ..known(State::Translated)
            };
        }
        // Who is at an internal address may change without a word about this place: what rests on that is not said.
        if claimants.values().any(|session| matches!(session.user, User::Behind(_))) {
            return unknown(Unknown::Overlap);
        }
        match self.lookup(question, now) {
            Answer::Bound { subscriber, .. } => {
                // By its own sessions: what answers here by way of another place ends with that one.
                let own = claimants.iter().filter(|(_, session)| session.is_of(&subscriber));
                let held = own.filter_map(|(key, session)| Some((key, self.held(place, session)?)));
                let held = held.filter(|(_, (_, until))| *until >= now).max_by_key(|(_, (_, until))| *until);
                let Some((key, (span, until))) = held else { return unknown(Unknown::Stale) };
                Known {
                    subscriber: Some(subscriber),
                    source: Some(key.source),
                    since: Some(span.since.to_string()),
                    proved_at: Some(span.proof.to_string()),
                    until: end(until),
                    ..known(State::Bound)
                }
            }
            // Its sessions are there, and one of them claims it.
            Answer::NotOurs => unknown(Unknown::Astray),
            Answer::Unknown(why) => unknown(why),
        }
    }

    /// From when to when a session proves that it has a place, and until when that is believed.
    fn held(&self, (net, ports): Place, session: &Session) -> Option<(Span, Timestamp)> {
        let here = |of: &Holding| (of.net, of.ports, of.standing) == (net, ports, Standing::Answers);
        let spans = session.holdings(self.settings.max_delay).filter(here).map(|of| of.span);
        let span = spans.max_by_key(|span| span.proof)?;
        Some((span, session.until.unwrap_or(span.proof.min(session.heard) + self.settings.max_age)))
    }

    /// The internal address and one session, if all that claim the place and are heard of lead there.
    fn one_translation<'c>(
        &self,
        claimants: &'c Claimants,
        now: Timestamp,
    ) -> Option<(IpAddr, &'c SessionKey, &'c Session)> {
        let mut rivals = claimants.iter().filter(|(_, session)| !session.is_silent(now, self.settings.max_age));
        let (key, session) = rivals.next()?;
        let User::Behind(inside) = session.user else { return None };
        // In doubt it would object: then it is for the table to say.
        let plain = |session: &Session| session.is_open() && session.doubt.is_none();
        let agree = rivals.all(|(_, other)| other.user == session.user && plain(other));
        (agree && plain(session)).then_some((inside, key, session))
    }
}

fn end(until: Timestamp) -> Option<String> {
    (until < FOREVER).then(|| until.to_string())
}
