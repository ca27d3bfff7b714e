//! Which translations stand while flows come and go.
//!
//! A NAT may give one external port to several flows, also of different internal addresses as long as they go to
//! different destinations. A translation therefore stands as long as one of its flows does, and two internal addresses
//! at one external port are two translations: who asks without the destination gets no answer.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

/// An external port, and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mapping {
    /// The external address.
    pub external: IpAddr,
    /// The external port, or the identifier of an ICMP query.
    pub port: u16,
    /// The protocol's number in the IP header.
    pub protocol: u8,
    /// The internal address.
    pub internal: IpAddr,
}

/// One flow through a translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// The translation.
    pub mapping: Mapping,
    /// The internal port.
    pub internal_port: u16,
    /// Where it goes to.
    pub remote: IpAddr,
    /// The port there.
    pub remote_port: u16,
}

/// What a flow did to its translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It stands from now on.
    Begun(Mapping),
    /// It stands no more.
    Ended(Mapping),
}

/// The flows of one NAT.
#[derive(Debug, Default)]
pub struct Flows {
    flows: HashSet<Flow>,
    mappings: HashMap<Mapping, u32>,
}

impl Flows {
    /// No flows.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A flow is there; one that is known is no news.
    pub fn begin(&mut self, flow: Flow) -> Option<Turn> {
        if !self.flows.insert(flow) {
            return None;
        }
        let count = self.mappings.entry(flow.mapping).or_default();
        *count += 1;
        (*count == 1).then_some(Turn::Begun(flow.mapping))
    }

    /// A flow is gone; one that is not known is no news.
    pub fn end(&mut self, flow: Flow) -> Option<Turn> {
        if !self.flows.remove(&flow) {
            return None;
        }
        let count = self.mappings.get_mut(&flow.mapping)?;
        *count -= 1;
        if *count > 0 {
            return None;
        }
        self.mappings.remove(&flow.mapping);
        Some(Turn::Ended(flow.mapping))
    }

    /// Whether a flow is there.
    #[must_use]
    pub fn has(&self, flow: &Flow) -> bool {
        self.flows.contains(flow)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Forgets the translations of some external addresses, and their flows.
    pub fn forget(&mut self, of: impl Fn(IpAddr) -> bool) {
        self.flows.retain(|flow| !of(flow.mapping.external));
        self.mappings.retain(|mapping, _| !of(mapping.external));
    }

    /// The translations that stand.
    pub fn mappings(&self) -> impl Iterator<Item = Mapping> + '_ {
        self.mappings.keys().copied()
    }

    /// How many flows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn flow(internal: u8, remote: u8) -> Flow {
        let mapping = Mapping {
            external: [203, 0, 113, 1].into(),
            port: 2048,
            protocol: 6,
            internal: [10, 0, 0, internal].into(),
        };
        Flow { mapping, internal_port: 5000, remote: [192, 0, 2, remote].into(), remote_port: 443 }
    }

    #[test]
    fn a_translation_stands_as_long_as_one_of_its_flows() {
        let mut flows = Flows::new();
        assert_eq!(flows.begin(flow(1, 1)), Some(Turn::Begun(flow(1, 1).mapping)));
        assert_eq!(flows.begin(flow(1, 2)), None);
        assert_eq!(flows.begin(flow(1, 2)), None, "twice the same");
        assert_eq!(flows.end(flow(1, 1)), None);
        assert_eq!(flows.end(flow(1, 1)), None, "it was over");
        assert_eq!(flows.end(flow(1, 2)), Some(Turn::Ended(flow(1, 1).mapping)));
        assert!(flows.is_empty());
    }

    #[test]
    fn what_is_forgotten_of_one_address_stays_of_another() {
        let mut flows = Flows::new();
        let mut other = flow(1, 1);
        other.mapping.external = [203, 0, 113, 2].into();
        flows.begin(flow(1, 1));
        flows.begin(other);
        flows.forget(|external| external == IpAddr::from([203, 0, 113, 1]));
        assert_eq!((flows.len(), flows.mappings().collect::<Vec<_>>()), (1, vec![other.mapping]));
        assert_eq!(flows.begin(flow(1, 1)), Some(Turn::Begun(flow(1, 1).mapping)));
    }

    #[test]
    fn two_internal_addresses_at_one_port_are_two_translations() {
        let mut flows = Flows::new();
        flows.begin(flow(1, 1));
        assert_eq!(flows.begin(flow(2, 2)), Some(Turn::Begun(flow(2, 2).mapping)));
        assert_eq!(flows.mappings().count(), 2);
    }

    proptest! {
        #[test]
        fn what_stands_is_what_the_flows_that_are_there_make(
            steps in proptest::collection::vec((any::<bool>(), 0..3_u8, 0..3_u8), 0..60),
        ) {
            let (mut flows, mut there, mut standing) = (Flows::new(), HashSet::new(), HashSet::new());
            for (begin, internal, remote) in steps {
                let flow = flow(internal, remote);
                let turn = if begin { there.insert(flow); flows.begin(flow) } else { there.remove(&flow); flows.end(flow) };
                match turn {
                    Some(Turn::Begun(mapping)) => prop_assert!(standing.insert(mapping)),
                    Some(Turn::Ended(mapping)) => prop_assert!(standing.remove(&mapping)),
                    None => {}
                }
                let expected: HashSet<Mapping> = there.iter().map(|flow| flow.mapping).collect();
                prop_assert_eq!(&standing, &expected);
                prop_assert_eq!(flows.mappings().collect::<HashSet<_>>(), expected);
                prop_assert_eq!(flows.len(), there.len());
            }
        }
    }
}
