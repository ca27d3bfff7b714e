//! What a session says of the past: from when to when it had its addresses.

use cloakway_types::Timestamp;
use toolbox_wire::record::{Address, Basis, EventTime, SessionRecord, User};

use crate::history::{Interval, Settled};
use crate::session::{Claim, Session, SessionKey, Standing};

/// What ended what a session had.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ending<'r> {
    /// Its Stop.
    Stop(&'r SessionRecord),
    /// Another record of it, which does not name the address.
    Moved(EventTime),
    /// The device restarted.
    Reset(EventTime),
    /// Nothing more was heard.
    Silence,
}

impl Session {
    /// What it says of addresses that it has or speaks against.
    pub(crate) fn intervals(&self, key: &SessionKey, now: Timestamp, settled: Settled) -> Vec<Interval> {
        let silent = self.is_silent(now, settled.max_age);
        let of = |claim: &Claim| {
            let standing = self.standing(claim, settled.max_delay);
            let end = match self.until {
                Some(until) => until,
                None if silent => claim.sure,
                None => claim.span.proof + settled.max_age,
            };
            (standing != Standing::Over).then(|| Interval {
                to: end,
                gone: self.until.unwrap_or(self.heard + settled.max_age),
                ..self.interval(key, claim, settled)
            })
        };
        self.claims().filter_map(of).collect()
    }

    /// What came to an end when this session became `after`.
    pub(crate) fn closed(
        &self,
        key: &SessionKey,
        after: Option<&Self>,
        ending: Ending<'_>,
        settled: Settled,
    ) -> Vec<Interval> {
        let goes_on = |claim: &Claim| {
            let Some(after) = after else { return false };
            let same = |of: &&Claim| (of.net, of.ports, of.span.since) == (claim.net, claim.ports, claim.span.since);
            let standing = after.claims().filter(same).map(|of| after.standing(of, settled.max_delay)).max();
            let named = self.user == after.user || self.user == User::Unstated;
            named && standing.is_some_and(|standing| standing != Standing::Over)
        };
        let of = |claim: &Claim| {
            if self.standing(claim, settled.max_delay) == Standing::Over || goes_on(claim) {
                return None;
            }
            let interval = self.interval(key, claim, settled);
            let (to, gone) = self.ends(claim, ending, settled);
            Some(Interval { to, gone: gone.max(interval.begun), ..interval })
        };
        self.claims().filter_map(of).collect()
    }

    fn interval(&self, key: &SessionKey, claim: &Claim, settled: Settled) -> Interval {
        let begun = match claim.named.basis {
            Basis::Ordered => claim.span.since,
            Basis::Stated | Basis::Derived => claim.span.since.min(claim.from - settled.max_delay),
        };
        Interval {
            net: claim.net,
            ports: claim.ports,
            user: self.user.clone(),
            session: key.clone(),
            begun,
            from: claim.from,
            to: claim.sure,
            gone: claim.from,
            doubtful: self.standing(claim, settled.max_delay) == Standing::Objects,
        }
    }

    /// Until when the address was certainly the session's, and until when it may have been.
    fn ends(&self, claim: &Claim, ending: Ending<'_>, settled: Settled) -> (Timestamp, Timestamp) {
        let earliest = |time: EventTime| time.earliest(settled.max_delay);
        match ending {
            Ending::Stop(record) => {
                let names = |of: &Address| (of.net, of.ports) == (claim.net, claim.ports);
                let certain = record.time.basis == Basis::Ordered || record.addresses.iter().any(names);
                let to = if certain { earliest(record.time).max(claim.sure) } else { claim.sure };
                (to, record.time.sent)
            }
            // What is seen in order was so until then.
            Ending::Moved(time) if time.basis == Basis::Ordered => (earliest(time).max(claim.sure), time.sent),
            // So is what is told later by one who knows until when it was so.
            Ending::Reset(time) if time.basis == Basis::Ordered && time.proof < time.at => {
                (time.proof.max(claim.sure), time.sent)
            }
            Ending::Moved(time) | Ending::Reset(time) => (claim.sure, time.sent),
            Ending::Silence => match self.until {
                Some(until) => (until, until),
                None => (claim.sure, self.heard + settled.max_age),
            },
        }
    }
}
