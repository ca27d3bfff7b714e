//! The leases of one server, and what a record changes.

use std::collections::{BTreeMap, BTreeSet};

use cloakway_types::Timestamp;
use ipnet::IpNet;

use crate::holder::Holder;
use crate::lease::{Lease, Record, State};

/// What is so of an address or a prefix from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Of which.
    pub net: IpNet,
    /// What.
    pub now: Now,
}

/// What is so.
#[expect(clippy::large_enum_variant, reason = "nearly everything in a book is held")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Now {
    /// It is leased.
    Held {
        /// To whom.
        holder: Holder,
        /// Since when at least, without a break.
        since: Timestamp,
        /// The client's last transaction.
        last: Timestamp,
        /// Until when unless it is renewed.
        until: Option<Timestamp>,
    },
    /// It is nobody's.
    Over {
        /// Since when; where the server does not say, since some moment after `after`.
        at: Option<Timestamp>,
        /// The last moment that the server said it was somebody's.
        after: Timestamp,
    },
    /// Somebody uses it to whom it was not given.
    Declined,
    /// A record that cannot be read may have been about it.
    Doubtful,
}

/// The leases of one server. What is nobody's is not kept.
#[derive(Debug, Default)]
pub struct Book {
    entries: BTreeMap<IpNet, Now>,
    associations: BTreeMap<Vec<u8>, BTreeSet<IpNet>>,
    /// A record that cannot be read may have been about any address.
    doubtful: bool,
}

impl Book {
    /// A book of nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a record; gives what it changes. A renewal is a change: it is a proof.
    pub fn take(&mut self, record: &Record) -> Vec<Change> {
        match record {
            Record::Lease(lease) => self.lease(lease).into_iter().collect(),
            Record::Association { key, last, leases } => {
                let nets: BTreeSet<IpNet> = leases.iter().map(|lease| lease.net).collect();
                let before = self.associations.remove(key).unwrap_or_default();
                let mut changes: Vec<Change> = Vec::new();
                for net in before.difference(&nets) {
                    changes.extend(self.end(*net, Some(*last), *last));
                }
                changes.extend(leases.iter().filter_map(|lease| self.lease(lease)));
                // What another association has got since is not ours to end later.
                for other in self.associations.values_mut() {
                    other.retain(|net| !nets.contains(net));
                }
                self.associations.insert(key.clone(), nets);
                changes
            }
            Record::Damaged(damage) => {
                self.doubtful |= damage.about.is_empty();
                damage.about.iter().filter_map(|net| self.doubt(*net)).collect()
            }
        }
    }

    /// Goes over to what a new reading of everything gave; tells the difference.
    pub fn become_as(&mut self, fresh: Self) -> Vec<Change> {
        let mut changes = Vec::new();
        let gone = self.entries.iter().filter(|(net, _)| !fresh.entries.contains_key(net));
        for (net, now) in gone {
            let after = match now {
                Now::Held { last, .. } => *last,
                Now::Over { after, .. } => *after,
                Now::Declined | Now::Doubtful => Timestamp::from_millis(0),
            };
            changes.push(Change { net: *net, now: Now::Over { at: None, after } });
        }
        let Self { entries, associations, doubtful } = fresh;
        let before = std::mem::take(&mut self.entries);
        for (net, mut now) in entries {
            let known = before.get(&net);
            if let Some(known) = known {
                keep_since(known, &mut now);
            }
            if known != Some(&now) {
                changes.push(Change { net, now: now.clone() });
            }
            self.entries.insert(net, now);
        }
        self.associations = associations;
        self.doubtful = doubtful;
        changes
    }

    /// Whether a record that cannot be read may have been about any address. Reading everything anew mends it, once the
    /// record is gone.
    #[must_use]
    pub const fn is_doubtful(&self) -> bool {
        self.doubtful
    }

    /// What is known of `net`.
    #[must_use]
    pub fn get(&self, net: IpNet) -> Option<&Now> {
        self.entries.get(&net)
    }

    /// Everything that is known.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, &Now)> {
        self.entries.iter().map(|(net, now)| (*net, now))
    }

    /// How many addresses and prefixes are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn lease(&mut self, lease: &Lease) -> Option<Change> {
        let net = lease.net;
        let mut now = match lease.state {
            State::Held { until } => {
                Now::Held { holder: lease.holder.clone(), since: lease.last, last: lease.last, until }
            }
            State::Declined => Now::Declined,
            State::Over { at } => return self.end(net, at, lease.last),
        };
        if let Some(known) = self.entries.get(&net) {
            keep_since(known, &mut now);
            if *known == now {
                return None;
            }
        }
        self.entries.insert(net, now.clone());
        Some(Change { net, now })
    }

    fn end(&mut self, net: IpNet, at: Option<Timestamp>, after: Timestamp) -> Option<Change> {
        let known = self.entries.remove(&net)?;
        let after = match known {
            Now::Held { last, .. } => last.max(after),
            Now::Over { .. } | Now::Declined | Now::Doubtful => after,
        };
        Some(Change { net, now: Now::Over { at, after } })
    }

    /// What is said of `net` is not certain any more, until it is said again.
    pub fn doubt(&mut self, net: IpNet) -> Option<Change> {
        let known = self.entries.insert(net, Now::Doubtful);
        (known != Some(Now::Doubtful)).then_some(Change { net, now: Now::Doubtful })
    }
}

/// A renewal in time goes on with what was.
fn keep_since(known: &Now, now: &mut Now) {
    if let Now::Held { holder: before, since: begun, until: end, .. } = known
        && let Now::Held { holder, since, last, .. } = now
        && before.is_same_client(holder)
        && end.is_none_or(|end| *last <= end)
    {
        *since = (*begun).min(*since);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::Damage;

    fn at(s: u64) -> Timestamp {
        Timestamp::from_secs(s)
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn holder(octet: u8) -> Holder {
        Holder { hardware: Some(vec![2, 0, 0, 0, 0, octet]), ..Holder::default() }
    }

    fn held(of: &str, client: u8, last: u64, until: u64) -> Record {
        let state = State::Held { until: Some(at(until)) };
        Record::Lease(Box::new(Lease { net: net(of), holder: holder(client), last: at(last), state }))
    }

    fn over(of: &str, last: u64) -> Record {
        let state = State::Over { at: None };
        Record::Lease(Box::new(Lease { net: net(of), holder: holder(0), last: at(last), state }))
    }

    fn since(book: &Book, of: &str) -> u64 {
        match book.get(net(of)) {
            Some(Now::Held { since, .. }) => since.as_secs(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_renewal_in_time_keeps_its_beginning_and_another_client_does_not() {
        let mut book = Book::new();
        assert_eq!(book.take(&held("192.0.2.1/32", 1, 100, 160)).len(), 1);
        assert_eq!(book.take(&held("192.0.2.1/32", 1, 160, 220)).len(), 1);
        assert_eq!(since(&book, "192.0.2.1/32"), 100);
        assert!(book.take(&held("192.0.2.1/32", 1, 160, 220)).is_empty(), "the same again");
        book.take(&held("192.0.2.1/32", 1, 221, 300));
        assert_eq!(since(&book, "192.0.2.1/32"), 221, "it had expired in between");
        book.take(&held("192.0.2.1/32", 2, 230, 300));
        assert_eq!(since(&book, "192.0.2.1/32"), 230);
    }

    #[test]
    fn an_end_without_a_time_is_after_the_last_word() {
        let mut book = Book::new();
        book.take(&held("192.0.2.1/32", 1, 100, 160));
        let changes = book.take(&over("192.0.2.1/32", 100));
        assert_eq!(changes, [Change { net: net("192.0.2.1/32"), now: Now::Over { at: None, after: at(100) } }]);
        assert!(book.take(&over("192.0.2.1/32", 100)).is_empty() && book.is_empty());
    }

    #[test]
    fn reading_everything_anew_tells_only_what_is_new() {
        let mut book = Book::new();
        for record in
            [held("192.0.2.1/32", 1, 100, 160), held("192.0.2.2/32", 2, 100, 160), held("192.0.2.3/32", 3, 1, 2)]
        {
            book.take(&record);
        }
        book.take(&held("192.0.2.1/32", 1, 150, 210));
        let mut fresh = Book::new();
        for record in [held("192.0.2.1/32", 1, 150, 210), held("192.0.2.2/32", 9, 150, 210)] {
            fresh.take(&record);
        }
        let changes = book.become_as(fresh);
        let nets: Vec<_> = changes.iter().map(|change| change.net).collect();
        assert_eq!(nets, [net("192.0.2.3/32"), net("192.0.2.2/32")], "{changes:?}");
        assert_eq!(since(&book, "192.0.2.1/32"), 100, "its beginning was known");
    }

    #[test]
    fn an_association_that_is_said_anew_ends_what_it_had() {
        let association = |key: u8, nets: &[&str], last: u64| Record::Association {
            key: vec![key],
            last: at(last),
            leases: nets
                .iter()
                .map(|of| Lease {
                    net: net(of),
                    holder: holder(key),
                    last: at(last),
                    state: State::Held { until: Some(at(last + 60)) },
                })
                .collect(),
        };
        let mut book = Book::new();
        book.take(&association(1, &["2001:db8::1/128", "2001:db8::2/128"], 100));
        let changes = book.take(&association(1, &["2001:db8::2/128"], 130));
        let ended = Change { net: net("2001:db8::1/128"), now: Now::Over { at: Some(at(130)), after: at(130) } };
        assert!(changes.contains(&ended), "{changes:?}");
        book.take(&association(2, &["2001:db8::2/128"], 140));
        book.take(&association(1, &[], 150));
        assert_eq!(book.get(net("2001:db8::2/128")).map(|now| matches!(now, Now::Held { .. })), Some(true));
    }

    #[test]
    fn damage_makes_doubtful_what_it_may_have_been_about() {
        let mut book = Book::new();
        book.take(&held("192.0.2.1/32", 1, 100, 160));
        let damage = |about: &[&str]| {
            Record::Damaged(Damage { line: 3, reason: "torn".into(), about: about.iter().map(|of| net(of)).collect() })
        };
        assert_eq!(book.take(&damage(&["192.0.2.1/32"])).len(), 1);
        assert!(!book.is_doubtful());
        book.take(&held("192.0.2.1/32", 1, 150, 210));
        assert_eq!(since(&book, "192.0.2.1/32"), 150, "what was before is not known any more");
        book.take(&damage(&[]));
        assert!(book.is_doubtful());
        book.become_as(Book::new());
        assert!(!book.is_doubtful());
    }
}
