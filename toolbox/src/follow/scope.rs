//! What of the changes is a caller's business (F9).

use ipnet::IpNet;
use toolbox_wire::follow::Known;

use crate::callers::{Caller, Kind};

/// What a caller may know.
pub(super) struct Scope {
    prefixes: Option<Vec<IpNet>>,
    names: bool,
}

impl Scope {
    pub(super) fn of(caller: &Caller) -> Self {
        let prefixes = caller.prefixes.as_ref().map(|prefixes| prefixes.iter().map(|(prefix, ())| prefix).collect());
        Self { prefixes, names: caller.may.contains(&Kind::Names) }
    }

    /// What is in their prefixes, or around one of them; with names only where they may know those.
    pub(super) fn of_theirs(&self, known: Vec<Known>) -> Vec<Known> {
        known.into_iter().filter(|known| self.has(&known.prefix)).map(|known| self.least(known)).collect()
    }

    fn has(&self, net: &IpNet) -> bool {
        let Some(prefixes) = &self.prefixes else { return true };
        prefixes.iter().any(|own| own.contains(net) || net.contains(own))
    }

    fn least(&self, known: Known) -> Known {
        let behind = known.behind.filter(|address| self.has(&IpNet::from(*address)));
        Known { subscriber: known.subscriber.filter(|_| self.names), behind, ..known }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use toolbox_wire::follow::State;

    #[test]
    fn a_caller_is_told_of_its_prefixes_and_names_only_if_it_may() {
        let known = |prefix: &str, behind: Option<&str>| Known {
            prefix: prefix.parse().unwrap(),
            ports: None,
            state: State::Bound,
            reason: None,
            subscriber: "alice".parse().ok(),
            behind: behind.map(|behind| behind.parse().unwrap()),
            source: None,
            since: None,
            proved_at: None,
            until: None,
        };
        let all = || {
            let inside = known("198.51.100.7/32", Some("10.0.0.1"));
            let around = known("198.51.0.0/16", Some("198.51.100.1"));
            vec![inside, around, known("198.51.101.7/32", None)]
        };
        let told = |scope: &Scope| -> Vec<(String, bool, bool)> {
            let told = scope.of_theirs(all()).into_iter();
            told.map(|of| (of.prefix.to_string(), of.subscriber.is_some(), of.behind.is_some())).collect()
        };
        let theirs = Scope { prefixes: Some(vec!["198.51.100.0/24".parse().unwrap()]), names: false };
        let expected = [("198.51.100.7/32".to_owned(), false, false), ("198.51.0.0/16".to_owned(), false, true)];
        assert_eq!(told(&theirs), expected);
        let whole = Scope { prefixes: None, names: true };
        assert_eq!(told(&whole).iter().map(|(_, name, _)| *name).collect::<Vec<_>>(), [true; 3]);
    }
}
