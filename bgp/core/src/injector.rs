//! The private routes that may be announced now.

use std::collections::BTreeMap;
use std::sync::Arc;

use cloakway_types::Instant;
use ipnet::IpNet;

use crate::guard::PrivateRoute;
use crate::health::{Health, HealthInput, HealthTable};

/// Routes by prefix.
pub type Routes = BTreeMap<IpNet, PrivateRoute>;

/// Words of prefixes that are no private routes are kept up to so many.
const STRANGERS: usize = 4096;

/// Something that an operator wants to hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A private route may be announced from now on, or not.
    Changed {
        /// Which.
        prefix: IpNet,
        /// Whether it may.
        announced: bool,
        /// Why.
        reason: String,
    },
    /// The forwarder speaks of a prefix that has no private route here: the two configurations differ.
    UnknownPrefix(IpNet),
}

/// Holds the routes that the operator wants, and lets through those that are healthy (A2).
#[derive(Debug, Clone)]
pub struct Injector {
    routes: Routes,
    health: HealthTable,
    announced: Arc<Routes>,
    silence_at: Option<Instant>,
    /// Kept back whatever their health, and why.
    withheld: BTreeMap<IpNet, String>,
}

impl Injector {
    /// Nothing is healthy at first.
    #[must_use]
    pub fn new(routes: impl IntoIterator<Item = PrivateRoute>) -> Self {
        Self {
            routes: routes.into_iter().map(|route| (route.prefix(), route)).collect(),
            health: HealthTable::default(),
            announced: Arc::default(),
            silence_at: None,
            withheld: BTreeMap::new(),
        }
    }

    /// Other routes are wanted from now on. What the forwarder has said of a prefix that stays is kept; of one that is
    /// new it has yet to say something.
    pub fn configure(&mut self, routes: impl IntoIterator<Item = PrivateRoute>, now: Instant) -> Vec<Notice> {
        self.routes = routes.into_iter().map(|route| (route.prefix(), route)).collect();
        self.elect(now)
    }

    /// Keeps these private prefixes back from now on, and no others (A3); says what changed.
    pub fn withhold(&mut self, withheld: BTreeMap<IpNet, String>, now: Instant) -> Vec<Notice> {
        self.withheld = withheld;
        self.elect(now)
    }

    /// Why `prefix` is kept back, if it is.
    #[must_use]
    pub fn withheld(&self, prefix: &IpNet) -> Option<&str> {
        self.withheld.get(prefix).map(String::as_str)
    }

    /// Takes note of `input` and says what changed.
    pub fn handle(&mut self, input: &HealthInput<'_>, now: Instant) -> Vec<Notice> {
        let mut notices = Vec::new();
        if let HealthInput::Word { prefix, .. } = input
            && !self.routes.contains_key(prefix)
        {
            notices.push(Notice::UnknownPrefix(*prefix));
        }
        // What is said of others counts when they are configured later: the forwarder says it once.
        let room = self.health.said() < STRANGERS;
        self.health.handle(input, |prefix| room || self.routes.contains_key(prefix), now);
        self.silence_at = self.health.silence_at().filter(|at| *at > now);
        notices.extend(self.elect(now));
        notices
    }

    /// Lets through what is healthy now and not kept back.
    fn elect(&mut self, now: Instant) -> Vec<Notice> {
        let mut notices = Vec::new();
        let mut announced = Routes::new();
        for (prefix, route) in &self.routes {
            let health = self.health.of(prefix, now);
            let withheld = self.withheld.get(prefix);
            let goes = health.is_healthy() && withheld.is_none();
            if goes != self.announced.contains_key(prefix) {
                let reason = withheld.filter(|_| health.is_healthy()).cloned().unwrap_or_else(|| health.to_string());
                notices.push(Notice::Changed { prefix: *prefix, announced: goes, reason });
            }
            if goes {
                announced.insert(*prefix, route.clone());
            }
        }
        if announced != *self.announced {
            self.announced = Arc::new(announced);
        }
        notices
    }

    /// The routes to announce, as of the last [`Injector::handle`].
    #[must_use]
    pub fn announced(&self) -> Arc<Routes> {
        self.announced.clone()
    }

    /// All routes that are wanted, with their health now.
    pub fn routes(&self, now: Instant) -> impl Iterator<Item = (&PrivateRoute, Health)> {
        self.routes.iter().map(move |(prefix, route)| (route, self.health.of(prefix, now)))
    }

    /// The forwarder's words.
    #[must_use]
    pub fn health(&self) -> &HealthTable {
        &self.health
    }

    /// When [`HealthInput::Tick`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.silence_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::Guard;
    use std::time::Duration;

    const PREFIX: &str = "203.0.113.200/32";

    fn at(millis: u64) -> Instant {
        Instant::after_origin(Duration::from_millis(millis))
    }

    fn injector() -> Injector {
        let route =
            PrivateRoute::new(PREFIX.parse().unwrap(), "198.51.100.2".parse().unwrap(), Guard::NoExport, Vec::new());
        Injector::new([route.unwrap()])
    }

    fn word(healthy: bool) -> HealthInput<'static> {
        HealthInput::Word { prefix: PREFIX.parse().unwrap(), healthy, reason: "link" }
    }

    fn healthy() -> Injector {
        let mut injector = injector();
        injector.handle(&HealthInput::Connected, at(0));
        injector.handle(&HealthInput::Heartbeat { sequence: 0 }, at(0));
        injector.handle(&word(true), at(0));
        assert_eq!(injector.announced().len(), 1);
        injector
    }

    #[test]
    fn a_route_needs_connection_heartbeat_and_a_good_word() {
        let mut injector = injector();
        assert!(injector.announced().is_empty());
        // Words before a connection do not count.
        injector.handle(&HealthInput::Heartbeat { sequence: 0 }, at(0));
        injector.handle(&word(true), at(0));
        assert!(injector.announced().is_empty());
        injector.handle(&HealthInput::Connected, at(0));
        assert!(injector.announced().is_empty());
        injector.handle(&word(true), at(0));
        assert!(injector.announced().is_empty());
        let notices = injector.handle(&HealthInput::Heartbeat { sequence: 0 }, at(0));
        assert_eq!(injector.announced().len(), 1);
        assert!(matches!(&notices[..], [Notice::Changed { announced: true, .. }]));
    }

    #[test]
    fn a_bad_word_the_end_of_the_stream_and_a_new_stream_withdraw() {
        for input in [word(false), HealthInput::Disconnected("end of stream"), HealthInput::Connected] {
            let mut injector = healthy();
            assert_eq!(injector.handle(&input, at(1)).len(), 1, "{input:?}");
            assert!(injector.announced().is_empty(), "{input:?}");
        }
    }

    #[test]
    fn silence_withdraws_after_one_second_and_not_before() {
        let mut injector = healthy();
        assert_eq!(injector.poll_timeout(), Some(at(1000)));
        injector.handle(&HealthInput::Tick, at(999));
        assert_eq!(injector.announced().len(), 1);
        injector.handle(&HealthInput::Tick, at(1000));
        assert!(injector.announced().is_empty());
        assert_eq!(injector.poll_timeout(), None);
        // The stream still stands: the next heartbeat brings the last word back.
        injector.handle(&HealthInput::Heartbeat { sequence: 1 }, at(1500));
        assert_eq!(injector.announced().len(), 1);
    }

    #[test]
    fn what_is_kept_back_is_not_announced_whatever_its_health() {
        let mut injector = healthy();
        let prefix: IpNet = PREFIX.parse().unwrap();
        let notices = injector.withhold(BTreeMap::from([(prefix, "leak".to_owned())]), at(1));
        assert_eq!(notices, [Notice::Changed { prefix, announced: false, reason: "leak".to_owned() }]);
        assert!(injector.announced().is_empty());
        assert!(injector.handle(&HealthInput::Heartbeat { sequence: 1 }, at(2)).is_empty());
        assert_eq!((injector.announced().len(), injector.withheld(&prefix)), (0, Some("leak")));
        assert_eq!(injector.withhold(BTreeMap::new(), at(3)).len(), 1);
        assert_eq!(injector.announced().len(), 1);
    }

    #[test]
    fn words_are_no_heartbeat_and_a_count_that_stands_still_is_none() {
        let mut injector = healthy();
        injector.handle(&word(true), at(900));
        injector.handle(&HealthInput::Heartbeat { sequence: 0 }, at(900));
        injector.handle(&HealthInput::Tick, at(1000));
        assert!(injector.announced().is_empty());
    }

    #[test]
    fn a_prefix_that_nobody_configured_is_noticed_and_not_kept() {
        let mut injector = healthy();
        let prefix = "192.0.2.0/24".parse().unwrap();
        let notices = injector.handle(&HealthInput::Word { prefix, healthy: true, reason: "" }, at(1));
        assert_eq!(notices, [Notice::UnknownPrefix(prefix)]);
        assert_eq!(injector.announced().len(), 1);
    }
}
