//! What happens, told to whoever asks for it: numbered, bounded, and never waited for.
//!
//! Readers come by the admin socket and ask from a number on; a question without an answer yet is held for a while
//! (a long poll). Who asks too late is told how much it has missed.

pub(crate) mod cli;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bgp_core::{Down, Heard, Outcome, Ring};
use bgp_wire::ErrorCode;
use cloakway_runtime::admin::Request;
use cloakway_runtime::clock;
use cloakway_types::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};

/// Events that are kept for late readers.
const KEPT: usize = 16 * 1024;
/// Events in one answer.
const ANSWER: usize = 512;
/// The longest that a question is held: well within the admin socket's patience.
const HELD: Duration = Duration::from_secs(5);
/// Requests to inject that are told one by one within a second: they must not push a leak out of sight.
const INJECTED: u64 = 20;
/// Questions held at a time; further ones are answered at once, so that `show` finds its place.
const HOLDERS: usize = 8;

/// Something that has happened.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum Event {
    /// A session is Established.
    SessionUp { peer: String, router_id: String, families: Vec<String> },
    /// It is no more.
    SessionDown { peer: String, reason: String },
    /// A connection ended before the session was Established.
    ConnectionFailed { peer: String, reason: String },
    /// A peer announces a private prefix of ours.
    PrivateReceived { peer: String, received: String, prefix: String },
    /// A peer passes on what it must keep (RFC 9234).
    RouteLeak { peer: String, prefix: String },
    /// A peer has told nearly as many routes as it may, or more.
    ManyPrefixes { peer: String, family: String, held: usize, limit: usize },
    /// A session ended because its peer told more routes than it may.
    MaxPrefixEnded { peer: String, reason: String },
    /// What a peer told stays although it is gone (RFC 4724).
    RestartBegan { peer: String, family: String },
    /// It stays on, as the least preferred (RFC 9494).
    RestartLongLived { peer: String, family: String },
    /// What of it the peer has not told again is gone.
    RestartEnded { peer: String, family: String },
    /// A path works, by BFD.
    BfdUp { address: String },
    /// A path is lost.
    BfdDown { address: String, reason: String },
    /// A new configuration is carried out.
    Reloaded { changed: Vec<String>, peers: Vec<String> },
    /// A new configuration was refused: nothing has changed.
    ReloadRefused { reason: String },
    /// A peer's UPDATE was damaged and borne with (RFC 7606).
    DamagedUpdate { peer: String, flaw: String },
    /// A private route is announced from now on.
    RouteAnnounced { prefix: String, reason: String },
    /// A private route is withdrawn.
    RouteWithdrawn { prefix: String, reason: String },
    /// A request to change a set was accepted and carried out.
    Injected { set: String, request: Option<String>, added: u64, changed: u64, removed: u64 },
    /// So many more were within a second that they are told together.
    InjectedMore { requests: u64, added: u64, changed: u64, removed: u64 },
    /// A request to change a set was refused.
    InjectionRefused { set: String, request: Option<String>, reason: String },
    /// A check found its set good.
    CheckRose { set: String },
    /// A check found its set bad.
    CheckFell { set: String, reason: String },
    /// A monitored router has connected.
    BmpUp { router: String },
    /// Its connection ended.
    BmpDown { router: String, reason: String },
    /// A private prefix is where it must not be.
    LeakRaised {
        prefix: String,
        finding: String,
        router: String,
        peer: String,
        peer_as: u32,
        view: String,
        as_path: String,
    },
    /// It is there no more.
    LeakEnded { prefix: String, finding: String, router: String, peer: String },
    /// A private prefix is kept back because of a leak.
    LeakWithheld { prefix: String, reason: String },
    /// It is kept back no more.
    LeakReleased { prefix: String },
    /// A router that should be monitored is not.
    WatchBlind { router: String, reason: String },
    /// It is again.
    WatchSighted { router: String },
    /// A cache has told everything.
    RpkiUpdated { cache: String, serial: u32, payloads: usize, added: usize, removed: usize },
    /// The connection to a cache ended.
    RpkiDown { cache: String, reason: String },
    /// What a cache said counts no more.
    RpkiExpired { cache: String },
    /// Another cache counts from now on, or none.
    RpkiChosen { cache: Option<String> },
}

#[derive(Debug, Clone)]
struct Stamped {
    time: Timestamp,
    event: Event,
}

#[derive(Debug)]
struct Inner {
    ring: Mutex<Ring<Stamped>>,
    written: watch::Sender<u64>,
    holders: Semaphore,
    injected: Mutex<Injected>,
    /// When this life of the process began: numbers of another life mean nothing.
    life: Timestamp,
}

/// The requests to inject of one second.
#[derive(Debug, Default)]
struct Injected {
    second: u64,
    told: u64,
    more: u64,
    outcome: Outcome,
}

/// Where everybody tells what has happened.
#[derive(Debug, Clone)]
pub(crate) struct Events(Arc<Inner>);

impl Default for Events {
    fn default() -> Self {
        Self(Arc::new(Inner {
            ring: Mutex::new(Ring::new(KEPT)),
            written: watch::Sender::new(0),
            holders: Semaphore::new(HOLDERS),
            injected: Mutex::default(),
            life: clock::wall(),
        }))
    }
}

impl Events {
    /// Takes note of `event`. Never waits for a reader.
    pub(crate) fn tell(&self, event: Event) {
        let mut ring = self.0.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let number = ring.push(Stamped { time: clock::wall(), event });
        drop(ring);
        self.0.written.send_replace(number);
        metrics::counter!("bgp_speaker_events_total").increment(1);
    }

    /// Takes note of what became of a request to inject.
    pub(crate) fn injected(&self, set: String, request: Option<String>, outcome: &Result<Outcome, String>) {
        self.end_second();
        {
            let mut injected = self.0.injected.lock().unwrap_or_else(PoisonError::into_inner);
            injected.told += 1;
            if injected.told > INJECTED {
                let outcome = outcome.as_ref().copied().unwrap_or_default();
                injected.more += 1;
                injected.outcome.added += outcome.added;
                injected.outcome.changed += outcome.changed;
                injected.outcome.removed += outcome.removed;
                return;
            }
        }
        self.tell(match outcome {
            Ok(Outcome { added, changed, removed }) => {
                Event::Injected { set, request, added: *added, changed: *changed, removed: *removed }
            }
            Err(reason) => Event::InjectionRefused { set, request, reason: reason.clone() },
        });
    }

    /// Tells of the requests of the last second that were not told one by one.
    fn end_second(&self) {
        let second = clock::wall().as_secs();
        let ended = {
            let mut injected = self.0.injected.lock().unwrap_or_else(PoisonError::into_inner);
            if injected.second == second {
                return;
            }
            std::mem::replace(&mut *injected, Injected { second, ..Injected::default() })
        };
        if ended.more > 0 {
            let Outcome { added, changed, removed } = ended.outcome;
            self.tell(Event::InjectedMore { requests: ended.more, added, changed, removed });
        }
    }

    /// Takes note of what stays of a peer that is gone.
    pub(crate) fn restart(&self, peer: &str, heard: &Heard) {
        let peer = || peer.to_owned();
        self.tell(match heard {
            Heard::Stale(family) => Event::RestartBegan { peer: peer(), family: family.to_string() },
            Heard::LongLived(family) => Event::RestartLongLived { peer: peer(), family: family.to_string() },
            Heard::Sweep(family) => Event::RestartEnded { peer: peer(), family: family.to_string() },
            _ => return,
        });
    }

    /// Takes note of what a session says.
    pub(crate) fn session(&self, peer: &str, said: &bgp_core::Event) {
        let count = |name: &'static str| metrics::counter!(name, "peer" => peer.to_owned()).increment(1);
        match said {
            bgp_core::Event::ManyPrefixes { .. } => count("bgp_speaker_max_prefix_warnings_total"),
            bgp_core::Event::Down(reason @ Down::Sent { notification, .. })
                if notification.error == ErrorCode::MAXIMUM_PREFIXES =>
            {
                count("bgp_speaker_max_prefix_ended_total");
                self.tell(Event::MaxPrefixEnded { peer: peer.to_owned(), reason: reason.to_string() });
            }
            _ => {}
        }
        let peer = peer.to_owned();
        self.tell(match said {
            bgp_core::Event::Up(agreed) => Event::SessionUp {
                peer,
                router_id: agreed.router_id.to_string(),
                families: agreed.families.iter().map(ToString::to_string).collect(),
            },
            bgp_core::Event::Down(reason) => Event::SessionDown { peer, reason: reason.to_string() },
            bgp_core::Event::Failed(reason) => Event::ConnectionFailed { peer, reason: reason.to_string() },
            bgp_core::Event::Flaw(flaw) => Event::DamagedUpdate { peer, flaw: flaw.to_string() },
            bgp_core::Event::FamilyDisabled(family) => {
                Event::DamagedUpdate { peer, flaw: format!("{family} is no longer listened to in this session") }
            }
            bgp_core::Event::FlowDisabled(family) => {
                let flaw = format!("flow rules of {family} are no longer listened to in this session");
                Event::DamagedUpdate { peer, flaw }
            }
            bgp_core::Event::MulticastPrefix(prefix) => {
                Event::DamagedUpdate { peer, flaw: format!("{prefix} is multicast: no unicast route") }
            }
            bgp_core::Event::ManyPrefixes { family, held, limit } => {
                Event::ManyPrefixes { peer, family: family.to_string(), held: *held, limit: *limit }
            }
            bgp_core::Event::RouteLeak(prefix) => Event::RouteLeak { peer, prefix: prefix.to_string() },
            bgp_core::Event::PrivatePrefixReceived { received, ours } => {
                Event::PrivateReceived { peer, received: received.to_string(), prefix: ours.to_string() }
            }
        });
    }

    /// Answers `{"topic":"events"}`: from the number `from` on, the oldest there is unless given; `wait-ms` holds the
    /// question while there is nothing to say.
    pub(crate) async fn answer(&self, request: &Request) -> Result<Value, String> {
        let number = |name: &str| {
            let text = request.argument(name);
            text.map(|text| text.parse::<u64>().map_err(|_| format!("{name} {text:?} is no number"))).transpose()
        };
        let (from, wait) = (number("from")?, Duration::from_millis(number("wait-ms")?.unwrap_or(0)).min(HELD));
        self.end_second();
        let mut written = self.0.written.subscribe();
        let excerpt = |from: Option<u64>| {
            let ring = self.0.ring.lock().unwrap_or_else(PoisonError::into_inner);
            ring.read(from.unwrap_or_else(|| ring.next().saturating_sub(KEPT as u64).max(1)), ANSWER)
        };
        let mut read = excerpt(from);
        if read.items.is_empty()
            && !wait.is_zero()
            && let Ok(_place) = self.0.holders.try_acquire()
        {
            // However it ends, what there is then is the answer.
            let _ = tokio::time::timeout(wait, written.wait_for(|last| *last >= read.next())).await;
            read = excerpt(Some(read.next()));
        }
        let next = read.next();
        let line = |(number, stamped): (u64, &Stamped)| -> Result<Value, String> {
            let mut line = serde_json::to_value(&stamped.event).map_err(|error| error.to_string())?;
            if let Some(fields) = line.as_object_mut() {
                fields.insert("seq".to_owned(), json!(number));
                fields.insert("time".to_owned(), json!(stamped.time.to_string()));
            }
            Ok(line)
        };
        let events: Vec<Value> = (read.first..).zip(&read.items).map(line).collect::<Result<_, _>>()?;
        Ok(json!({ "life": self.0.life.as_millis(), "missed": read.missed, "next": next, "events": events }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn ask(arguments: &[(&str, &str)]) -> Request {
        let arguments: BTreeMap<String, String> =
            arguments.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Request { topic: "events".to_owned(), arguments }
    }

    fn rose(set: &str) -> Event {
        Event::CheckRose { set: set.to_owned() }
    }

    #[tokio::test]
    async fn events_are_numbered_and_read_on_from_where_one_was() {
        let events = Events::default();
        events.tell(rose("a"));
        events.tell(rose("b"));
        let answer = events.answer(&ask(&[])).await.unwrap();
        assert_eq!(answer["events"][1]["seq"], 2);
        assert_eq!(answer["events"][1]["event"], "check-rose");
        assert_eq!(answer["events"][1]["set"], "b");
        assert_eq!((&answer["next"], &answer["missed"]), (&json!(3), &json!(0)));
        assert_eq!(events.answer(&ask(&[("from", "3")])).await.unwrap()["events"], json!([]));
        assert!(events.answer(&ask(&[("from", "x")])).await.unwrap_err().contains("no number"));
    }

    #[tokio::test]
    async fn a_question_is_held_until_there_is_something_to_say() {
        let events = Events::default();
        let held = tokio::spawn({
            let events = events.clone();
            async move { events.answer(&ask(&[("from", "1"), ("wait-ms", "5000")])).await }
        });
        tokio::task::yield_now().await;
        events.tell(rose("a"));
        let answer = tokio::time::timeout(Duration::from_secs(2), held).await.unwrap().unwrap().unwrap();
        assert_eq!(answer["events"][0]["set"], "a");
    }

    #[tokio::test]
    async fn a_reader_that_is_too_slow_learns_what_it_missed_and_delays_nobody() {
        let events = Events::default();
        for n in 0..KEPT + 10 {
            events.tell(rose(&n.to_string()));
        }
        let answer = events.answer(&ask(&[("from", "1")])).await.unwrap();
        assert_eq!(answer["missed"], 10);
        assert_eq!(answer["events"][0]["seq"], 11);
        assert_eq!(answer["events"].as_array().unwrap().len(), ANSWER);
    }

    #[tokio::test]
    async fn a_flood_of_requests_is_told_in_few_words_and_none_is_lost() {
        let events = Events::default();
        let outcome = Ok(Outcome { added: 1, changed: 0, removed: 2 });
        for _ in 0..10_000 {
            events.injected("a".to_owned(), None, &outcome);
        }
        let mut from = 1;
        let (mut added, mut removed, mut lines) = (0, 0, 0);
        // What is left is told when its second is over.
        while added < 10_000 {
            let answer = events.answer(&ask(&[("from", &from.to_string())])).await.unwrap();
            for event in answer["events"].as_array().unwrap() {
                added += event["added"].as_u64().unwrap();
                removed += event["removed"].as_u64().unwrap();
                lines += 1;
            }
            from = answer["next"].as_u64().unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!((added, removed), (10_000, 20_000));
        assert!(lines < 1000, "{lines}");
    }

    #[tokio::test]
    async fn more_readers_than_places_are_answered_at_once() {
        let events = Events::default();
        let wait = [("from", "1"), ("wait-ms", "5000")];
        let held: Vec<_> = (0..HOLDERS)
            .map(|_| {
                let events = events.clone();
                tokio::spawn(async move { events.answer(&ask(&wait)).await })
            })
            .collect();
        while events.0.holders.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let answer = tokio::time::timeout(Duration::from_secs(1), events.answer(&ask(&wait))).await;
        assert_eq!(answer.unwrap().unwrap()["events"], json!([]));
        held.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
