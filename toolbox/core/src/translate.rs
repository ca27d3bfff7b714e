//! Translations that are computed and not learnt: deterministic CGNAT (RFC 7422), MAP-E (RFC 7597).

use std::fmt::Debug;
use std::net::IpAddr;

use cloakway_types::Timestamp;

use crate::answer::Question;
use crate::table::Settings;

/// What arithmetic says about an external address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Computed {
    /// It is none of this translator's addresses, or was not at that time.
    Elsewhere,
    /// The address is shared, and the question has no port.
    PortNeeded,
    /// The port is given to nobody.
    Nobody,
    /// The internal address that has the port.
    Behind(IpAddr),
}

/// A rule by which external addresses and ports belong to internal addresses, at no memory per subscriber.
///
/// It is asked for a moment, so that a rule which was changed answers rightly about the past. Learnt
/// translations and sessions of the same address have to agree with it; else the answer is unknown.
pub trait Translator: Debug + Send + Sync {
    /// Who has the port of `question` at `at`.
    fn translate(&self, question: Question, at: Timestamp) -> Computed;
}

impl Settings {
    /// What arithmetic says; rules that contradict each other give a port to nobody.
    pub(crate) fn computed(&self, question: Question, at: Timestamp) -> Computed {
        let rules = self.translators.iter();
        let mut said = rules.map(|rule| rule.translate(question, at)).filter(|said| *said != Computed::Elsewhere);
        let first = said.next().unwrap_or(Computed::Elsewhere);
        if said.all(|other| other == first) { first } else { Computed::Nobody }
    }
}
