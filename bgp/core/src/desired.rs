//! Changes to the sets of routes that an operator wants: checked whole, then applied in slices.
//!
//! A change that passed [`SetChange::check`], and so is [`crate::Checked`], can't fail any more, so it may be written down first and applied
//! after. Changes to one set have to be applied one after the other, in the order in which they were written down;
//! changes to different sets may overlap.

use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;

use ipnet::IpNet;

use crate::policy::Refusal;
use crate::rib::{Change, Rib, SetId, Walk};
use crate::route::{AttributesError, Prefixes, RouteAttributes};

/// The longest name of a set, and of a request.
pub const MAX_NAME: usize = 128;

/// Prefixes that share their attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// What is said of them.
    pub attributes: RouteAttributes,
    /// Which.
    pub prefixes: Prefixes,
}

/// What becomes of the routes of a set that a change does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// They stay.
    Stay,
    /// They go: the change is the whole set.
    Go,
}

/// A change to one set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetChange {
    /// The set's name.
    pub set: String,
    /// What becomes of the rest of the set.
    pub others: Others,
    /// Prefixes that go, before any come.
    pub remove: Prefixes,
    /// Prefixes that come, or come with other attributes.
    pub add: Vec<Group>,
}

/// Why a change is refused; nothing of it happened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// A set or a request without a name, or with a long one.
    #[error("the {what} has a name of {length} octets: 1 to {MAX_NAME} are allowed")]
    Name {
        /// Set or request.
        what: &'static str,
        /// Its length.
        length: usize,
    },
    /// Attributes that can't be.
    #[error("routes[{at}]: {error}")]
    Attributes {
        /// Which group, from 0.
        at: usize,
        /// What is wrong.
        error: AttributesError,
    },
    /// Prefixes before any attributes.
    #[error("a prefix before any attributes: give a line such as {{\"next-hop\":\"192.0.2.1\"}}")]
    NoAttributes,
    /// IPv6 by way of IPv4; the reverse is RFC 8950.
    #[error("routes[{at}]: next hop {} is not of the family of {prefix}", .attributes.next_hop)]
    Family {
        /// Which group, from 0.
        at: usize,
        /// The prefix.
        prefix: IpNet,
        /// The group's attributes.
        attributes: Box<RouteAttributes>,
    },
    /// A prefix that may not be injected so.
    #[error("routes[{at}]: {refusal}")]
    Refused {
        /// Which group, from 0.
        at: usize,
        /// Why.
        refusal: Refusal,
    },
    /// The table would hold more than it may.
    #[error("{would} routes in all: at most {limit} are allowed by inject.max-routes")]
    TooMany {
        /// How many there would be.
        would: usize,
        /// How many there may be.
        limit: usize,
    },
}

impl SetChange {
    /// Prefixes that come.
    #[must_use]
    pub fn adds(&self) -> usize {
        self.add.iter().map(|group| group.prefixes.len()).sum()
    }

    /// Prefixes that come or go by name.
    #[must_use]
    pub fn size(&self) -> usize {
        self.adds() + self.remove.len()
    }
}

/// Holds the name of a set or of a request to its length.
///
/// # Errors
/// [`ChangeError::Name`].
pub fn check_name(what: &'static str, name: &str) -> Result<(), ChangeError> {
    match name.len() {
        1..=MAX_NAME => Ok(()),
        length => Err(ChangeError::Name { what, length }),
    }
}

/// What a change did to its set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Prefixes that are new.
    pub added: u64,
    /// Prefixes with other attributes than before.
    pub changed: u64,
    /// Prefixes that are gone.
    pub removed: u64,
}

/// A change on its way into the table.
#[derive(Debug)]
pub struct Applying<'a> {
    change: &'a SetChange,
    set: SetId,
    outcome: Outcome,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Remove(usize),
    Add { group: usize, at: usize, attributes: Option<u32> },
    Sweep(Walk),
}

impl<'a> Applying<'a> {
    /// Nothing applied yet.
    #[must_use]
    pub fn new(change: &'a SetChange, rib: &mut Rib) -> Self {
        let set = rib.set(&change.set);
        // Room for what replaces a set of the same size is there already.
        if rib.routes_of(set) == 0 {
            let (v4, v6) =
                (change.add.iter().map(|g| g.prefixes.v4.len()), change.add.iter().map(|g| g.prefixes.v6.len()));
            rib.reserve(v4.sum(), v6.sum());
        }
        Self { change, set, outcome: Outcome::default(), stage: Stage::Remove(0) }
    }

    /// Applies the next `slice` prefixes or so; `Break` with what the change did when it is whole.
    pub fn step(&mut self, rib: &mut Rib, slice: usize) -> ControlFlow<Outcome> {
        let mark = self.change.others == Others::Go;
        let mut left = slice;
        while left > 0 {
            match &mut self.stage {
                Stage::Remove(at) => match self.change.remove.get(*at) {
                    Some(prefix) => {
                        *at += 1;
                        left -= 1;
                        self.outcome.removed += u64::from(rib.remove(prefix, self.set));
                    }
                    None => self.stage = Stage::Add { group: 0, at: 0, attributes: None },
                },
                Stage::Add { group, at, attributes } => match self.change.add.get(*group) {
                    Some(routes) => match routes.prefixes.get(*at) {
                        Some(prefix) => {
                            *at += 1;
                            left -= 1;
                            let set = self.set;
                            let attributes = *attributes.get_or_insert_with(|| rib.intern(set, &routes.attributes));
                            match rib.add(prefix, attributes, mark) {
                                Change::Added => self.outcome.added += 1,
                                Change::Changed => self.outcome.changed += 1,
                                Change::None => {}
                            }
                        }
                        None => (*group, *at, *attributes) = (*group + 1, 0, None),
                    },
                    None if mark => self.stage = Stage::Sweep(Walk::default()),
                    None => return ControlFlow::Break(self.outcome),
                },
                Stage::Sweep(walk) => {
                    let mut removed = 0;
                    let slots = u32::try_from(left).unwrap_or(u32::MAX);
                    let flow = rib.sweep(self.set, walk, slots, &mut removed);
                    self.outcome.removed += removed as u64;
                    return match flow {
                        ControlFlow::Break(()) => ControlFlow::Break(self.outcome),
                        ControlFlow::Continue(()) => ControlFlow::Continue(()),
                    };
                }
            }
        }
        ControlFlow::Continue(())
    }
}

/// Applies all of `change` at once.
pub fn apply(change: &SetChange, rib: &mut Rib) -> Outcome {
    let mut applying = Applying::new(change, rib);
    loop {
        if let ControlFlow::Break(outcome) = applying.step(rib, usize::MAX) {
            return outcome;
        }
    }
}

/// A digest of what a request asks.
pub type Digest = [u8; 32];

/// A request was made before, and asked for something else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("request {0} was made before with another body: give a new request an id of its own")]
pub struct Conflict(pub String);

/// The last requests and what became of them: the same request again gets the same answer.
#[derive(Debug, Clone, Default)]
pub struct Requests {
    known: HashMap<String, (Digest, Outcome)>,
    order: VecDeque<String>,
}

impl Requests {
    /// How many are remembered.
    pub const KEPT: usize = 10_000;

    /// What became of the request called `id`; `None` when it is new.
    ///
    /// # Errors
    /// [`Conflict`] when it asked for something else.
    pub fn find(&self, id: &str, digest: &Digest) -> Result<Option<Outcome>, Conflict> {
        match self.known.get(id) {
            None => Ok(None),
            Some((known, outcome)) if known == digest => Ok(Some(*outcome)),
            Some(_) => Err(Conflict(id.to_owned())),
        }
    }

    /// Whether there was a request called `id`.
    #[must_use]
    pub fn contains(&self, id: &str) -> bool {
        self.known.contains_key(id)
    }

    /// Remembers a request, and forgets the oldest.
    pub fn remember(&mut self, id: &str, digest: Digest, outcome: Outcome) {
        if self.known.insert(id.to_owned(), (digest, outcome)).is_none() {
            self.order.push_back(id.to_owned());
        }
        if self.order.len() > Self::KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    /// All that are remembered, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Digest, &Outcome)> {
        self.order.iter().filter_map(|id| self.known.get(id).map(|(digest, outcome)| (id.as_str(), digest, outcome)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;
    use std::sync::Arc;

    fn change(others: Others, prefixes: &[&str], remove: &[&str]) -> SetChange {
        let all = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<Prefixes>();
        let attributes = RouteAttributes::new("192.0.2.1".parse::<std::net::IpAddr>().unwrap());
        SetChange {
            set: "s".to_owned(),
            others,
            remove: all(remove),
            add: vec![Group { attributes, prefixes: all(prefixes) }],
        }
    }

    fn outcome(added: u64, changed: u64, removed: u64) -> Outcome {
        Outcome { added, changed, removed }
    }

    #[test]
    fn a_replacement_tells_only_what_differs() {
        let mut rib = Rib::default();
        let first = change(Others::Go, &["10.0.0.0/24", "10.0.1.0/24"], &[]);
        assert_eq!(apply(&first, &mut rib), outcome(2, 0, 0));
        assert_eq!(apply(&first, &mut rib), outcome(0, 0, 0));
        assert_eq!(apply(&change(Others::Go, &["10.0.1.0/24", "10.0.2.0/24"], &[]), &mut rib), outcome(1, 0, 1));
        assert_eq!(
            apply(&change(Others::Stay, &["10.0.3.0/24"], &["10.0.1.0/24", "10.9.0.0/24"]), &mut rib),
            outcome(1, 0, 1)
        );
        let mut other = change(Others::Stay, &["10.0.3.0/24"], &[]);
        other.add[0].attributes.med = Some(7);
        assert_eq!(apply(&other, &mut rib), outcome(0, 1, 0));
        assert_eq!(apply(&change(Others::Go, &[], &[]), &mut rib), outcome(0, 0, 2));
        assert_eq!(rib.routes(), 0);
    }

    #[test]
    fn slices_of_one_do_as_much_as_one_slice() {
        let (mut whole, mut sliced) = (Rib::default(), Rib::default());
        for change in [
            change(Others::Go, &["10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24"], &[]),
            change(Others::Go, &["10.0.1.0/24", "10.0.7.0/24"], &["10.0.0.0/24"]),
        ] {
            let expected = apply(&change, &mut whole);
            let mut applying = Applying::new(&change, &mut sliced);
            let outcome = loop {
                if let ControlFlow::Break(outcome) = applying.step(&mut sliced, 1) {
                    break outcome;
                }
            };
            assert_eq!(outcome, expected);
        }
        assert_eq!(whole.routes(), sliced.routes());
    }

    #[test]
    fn a_change_is_refused_whole_with_the_place_of_the_fault() {
        let policy = Arc::new(Policy::new(&["10.0.0.0/8".parse().unwrap()], &[]));
        let fault = |change: SetChange| change.check(policy.clone()).unwrap_err().to_string();
        assert!(
            fault(change(Others::Stay, &["10.0.0.0/24", "11.0.0.0/24"], &[]))
                .starts_with("routes[0]: 11.0.0.0/24 is outside")
        );
        assert!(fault(change(Others::Stay, &["2001:db8::/32"], &[])).contains("192.0.2.1 is not of the family"));
        assert!(fault(SetChange { set: String::new(), ..change(Others::Stay, &[], &[]) }).contains("1 to 128"));
        let mut loopback = change(Others::Stay, &[], &[]);
        loopback.add[0].attributes.next_hop = "127.0.0.1".parse::<std::net::IpAddr>().unwrap().into();
        assert!(fault(loopback).contains("next hop 127.0.0.1 can't be one"));
    }

    #[test]
    fn the_same_request_gets_the_same_answer_and_another_body_is_a_conflict() {
        let mut requests = Requests::default();
        requests.remember("a", [1; 32], outcome(1, 0, 0));
        assert_eq!(requests.find("a", &[1; 32]), Ok(Some(outcome(1, 0, 0))));
        assert_eq!(requests.find("a", &[2; 32]), Err(Conflict("a".to_owned())));
        for n in 0..Requests::KEPT {
            requests.remember(&n.to_string(), [0; 32], Outcome::default());
        }
        assert_eq!(requests.find("a", &[2; 32]), Ok(None));
        assert_eq!(requests.iter().count(), Requests::KEPT);
    }
}
