//! The decision process (RFC 4271 §9.1.2), with route reflection's tie-breaks (RFC 4456 §9) and long-lived stale routes
//! last (RFC 9494 §4.2). Preference between routes of equal rank of the IGP is not known here: we run none.

use std::cmp::Reverse;
use std::net::IpAddr;

use bgp_wire::Community;

use crate::attributes::Summary;

/// The step of the decision process that a route lost at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Step {
    /// RFC 9494 §4.2.
    #[error("long-lived stale")]
    LlgrStale,
    /// RFC 4271 §9.1.1.
    #[error("lower local preference")]
    LocalPreference,
    /// RFC 4271 §9.1.2.2 (a).
    #[error("longer AS path")]
    PathLength,
    /// RFC 4271 §9.1.2.2 (b).
    #[error("worse origin")]
    Origin,
    /// RFC 4271 §9.1.2.2 (c).
    #[error("higher MED among routes of the same neighbouring AS")]
    Med,
    /// RFC 4271 §9.1.2.2 (d).
    #[error("learnt from an internal peer")]
    Internal,
    /// RFC 4271 §9.1.2.2 (f), RFC 4456 §9.
    #[error("higher router id")]
    RouterId,
    /// RFC 4456 §9.
    #[error("longer cluster list")]
    ClusterList,
    /// RFC 4271 §9.1.2.2 (g).
    #[error("higher peer address")]
    PeerAddress,
    /// Several paths of one peer (RFC 7911).
    #[error("higher path identifier")]
    PathId,
}

/// A usable path with all that decides.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    pub(crate) at: u32,
    pub(crate) summary: Summary,
    pub(crate) llgr_stale: bool,
    pub(crate) internal: bool,
    /// The peer's router id.
    pub(crate) identifier: u32,
    pub(crate) address: IpAddr,
    pub(crate) path_id: u32,
}

type Rank = (bool, Reverse<u32>, u16, u8);
type Tail = (bool, u32, u16, IpAddr, u32);

impl Candidate {
    /// What is compared before MED.
    fn rank(&self) -> Rank {
        let stale = self.llgr_stale || self.summary.marks.has(Community::LLGR_STALE);
        (stale, Reverse(self.summary.local_pref), self.summary.path_length, self.summary.origin)
    }

    /// What is compared after MED.
    fn tail(&self) -> Tail {
        let identifier = if self.summary.originator != 0 { self.summary.originator } else { self.identifier };
        (self.internal, identifier, self.summary.cluster_length, self.address, self.path_id)
    }

    /// Whether `other`, of the same rank, is worse by MED.
    fn outdoes(&self, other: &Self, always: bool) -> bool {
        (always || self.summary.neighbour == other.summary.neighbour) && self.summary.med < other.summary.med
    }
}

/// The best of `candidates`. With `always`, MED is compared between neighbouring ASes as well.
///
/// All candidates are weighed at once, so the outcome does not depend on their order, as RFC 4271 §9.1.2.2 (c) wants
/// it and as comparing them two by two would not give it.
pub(crate) fn best(candidates: &[Candidate], always: bool) -> Option<&Candidate> {
    let rank = candidates.iter().map(Candidate::rank).min()?;
    let tied = || candidates.iter().filter(move |candidate| candidate.rank() == rank);
    let beaten = |candidate: &Candidate| tied().any(|other| other.outdoes(candidate, always));
    tied().filter(|candidate| !beaten(candidate)).min_by_key(|candidate| candidate.tail())
}

/// Those that are as good as the best, which comes first, in all that says where packets should go; the rest of the
/// decision is about who said so.
pub(crate) fn equals(candidates: &[Candidate], always: bool) -> Vec<&Candidate> {
    let Some(best) = best(candidates, always) else { return Vec::new() };
    let beaten = |candidate: &Candidate| {
        let mut tied = candidates.iter().filter(|other| other.rank() == best.rank());
        tied.any(|other| other.outdoes(candidate, always))
    };
    let equal = |candidate: &&Candidate| {
        candidate.rank() == best.rank() && candidate.internal == best.internal && !beaten(candidate)
    };
    let mut equals: Vec<&Candidate> = candidates.iter().filter(equal).collect();
    equals.sort_by_key(|candidate| candidate.tail());
    equals
}

/// Where `loser` lost to `best`.
pub(crate) fn lost_at(loser: &Candidate, best: &Candidate, candidates: &[Candidate], always: bool) -> Step {
    let (rank, wanted) = (loser.rank(), best.rank());
    if rank.0 != wanted.0 {
        return Step::LlgrStale;
    }
    if rank.1 != wanted.1 {
        return Step::LocalPreference;
    }
    if rank.2 != wanted.2 {
        return Step::PathLength;
    }
    if rank.3 != wanted.3 {
        return Step::Origin;
    }
    if candidates.iter().any(|other| other.rank() == rank && other.outdoes(loser, always)) {
        return Step::Med;
    }
    let (tail, wanted) = (loser.tail(), best.tail());
    if tail.0 != wanted.0 {
        Step::Internal
    } else if tail.1 != wanted.1 {
        Step::RouterId
    } else if tail.2 != wanted.2 {
        Step::ClusterList
    } else if tail.3 != wanted.3 {
        Step::PeerAddress
    } else {
        Step::PathId
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(at: u32) -> Candidate {
        let summary = Summary { local_pref: 100, path_length: 2, neighbour: 64501, ..Summary::default() };
        let address = [192, 0, 2, u8::try_from(at).unwrap()].into();
        Candidate { at, summary, llgr_stale: false, internal: false, identifier: 9, address, path_id: 0 }
    }

    /// The second of two loses at `step`, whichever comes first.
    fn loses(step: Step, change: impl Fn(&mut Candidate)) {
        let (good, mut bad) = (candidate(1), candidate(1));
        bad.at = 2;
        change(&mut bad);
        for both in [[good, bad], [bad, good]] {
            let best = best(&both, false).unwrap();
            assert_eq!(best.at, 1, "{step}");
            assert_eq!(lost_at(&bad, best, &both, false), step);
        }
    }

    #[test]
    fn each_step_decides_when_all_before_it_are_equal() {
        loses(Step::LlgrStale, |bad| {
            bad.llgr_stale = true;
            bad.summary.local_pref = 200;
        });
        loses(Step::LocalPreference, |bad| (bad.summary.local_pref, bad.summary.path_length) = (99, 1));
        loses(Step::PathLength, |bad| (bad.summary.path_length, bad.summary.origin) = (3, 0));
        loses(Step::Origin, |bad| (bad.summary.origin, bad.identifier) = (1, 1));
        loses(Step::Med, |bad| (bad.summary.med, bad.identifier) = (1, 1));
        loses(Step::Internal, |bad| (bad.internal, bad.identifier) = (true, 1));
        loses(Step::RouterId, |bad| (bad.identifier, bad.summary.cluster_length) = (10, 0));
        loses(Step::RouterId, |bad| (bad.identifier, bad.summary.originator) = (1, 10));
        loses(Step::ClusterList, |bad| bad.summary.cluster_length = 1);
        loses(Step::PeerAddress, |bad| (bad.address, bad.path_id) = ([192, 0, 2, 2].into(), 0));
        loses(Step::PathId, |bad| bad.path_id = 1);
    }

    #[test]
    fn as_good_are_those_that_differ_in_who_said_so_alone() {
        let mut all = [1, 2, 3, 4, 5].map(candidate);
        (all[0].identifier, all[1].identifier) = (10, 11);
        all[2].summary.path_length = 3;
        all[3].internal = true;
        all[4].summary.med = 1;
        let at = |candidates: &[Candidate]| equals(candidates, false).iter().map(|one| one.at).collect::<Vec<_>>();
        assert_eq!(at(&all), [1, 2], "the best first");
        all.reverse();
        assert_eq!(at(&all), [1, 2]);
        assert_eq!(at(&[]), [0; 0]);
    }

    #[test]
    fn med_is_compared_within_a_neighbouring_as_and_does_not_depend_on_the_order() {
        // The textbook ring: two by two, each beats the next.
        let of = |at: u32, neighbour: u32, med: u32, identifier: u32| {
            let mut one = candidate(at);
            (one.summary.neighbour, one.summary.med, one.identifier) = (neighbour, med, identifier);
            one
        };
        let mut ring = [of(1, 64501, 10, 3), of(2, 64501, 5, 5), of(3, 64502, 0, 4)];
        for _ in 0..3 {
            ring.rotate_left(1);
            assert_eq!(best(&ring, false).unwrap().at, 3);
            assert_eq!(best(&ring, true).unwrap().at, 3);
        }
        let two = [of(1, 64501, 10, 1), of(2, 64502, 5, 2)];
        assert_eq!(best(&two, false).unwrap().at, 1);
        assert_eq!(best(&two, true).unwrap().at, 2);
    }
}
