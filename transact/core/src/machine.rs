//! Which step of an order may follow which. `docs/transactions.md` has the same table, and a test holds them together.

use transact_wire::after::Phase;

/// Why an order goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Id, password and address are handed out.
    Issue,
    /// A card came, with the right password.
    Card,
    /// The bank is asked.
    Ask,
    /// It was not asked after all: nothing left.
    NotSent,
    /// The bank says yes.
    Approval,
    /// The bank says no.
    Refusal,
    /// It does not answer in time, or not clearly, or the server ended meanwhile.
    NoAnswer,
    /// The bank confirms that nothing is held.
    Confirmed,
    /// The time to pay is over.
    TimeOver,
    /// The last wrong password.
    WrongPasswords,
    /// The vendor cancels.
    Cancel,
    /// The vendor gives money back.
    RefundAsked,
    /// A part of the amount is back.
    RefundGivenInPart,
    /// The whole amount is back.
    RefundGivenWhole,
    /// The bank refused the refund, or it was taken back; none was given before.
    RefundNotGiven,
    /// The same, and one was given before.
    RefundNotGivenAgain,
}

impl Cause {
    /// A few words, for the table in the manual.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Issue => "page handed out",
            Self::Card => "card with the right password",
            Self::Ask => "bank asked",
            Self::NotSent => "bank not reachable",
            Self::Approval => "bank approves",
            Self::Refusal => "bank refuses",
            Self::NoAnswer => "no clear answer in time, or restart",
            Self::Confirmed => "bank confirms the reversal",
            Self::TimeOver => "time over",
            Self::WrongPasswords => "too many wrong passwords",
            Self::Cancel => "vendor cancels",
            Self::RefundAsked => "vendor refunds",
            Self::RefundGivenInPart => "bank gives a part back",
            Self::RefundGivenWhole => "bank gives the rest back",
            Self::RefundNotGiven => "refund refused or undone, none before",
            Self::RefundNotGivenAgain => "refund refused or undone, some before",
        }
    }
}

/// Every transition there is.
pub const TRANSITIONS: &[(Phase, Cause, Phase)] = &[
    (Phase::Created, Cause::Issue, Phase::PageIssued),
    (Phase::PageIssued, Cause::Card, Phase::CardReceived),
    (Phase::PageIssued, Cause::TimeOver, Phase::Expired),
    (Phase::PageIssued, Cause::WrongPasswords, Phase::Locked),
    (Phase::PageIssued, Cause::Cancel, Phase::Cancelled),
    (Phase::CardReceived, Cause::Ask, Phase::Authorising),
    (Phase::Authorising, Cause::NotSent, Phase::PageIssued),
    (Phase::Authorising, Cause::Approval, Phase::Approved),
    (Phase::Authorising, Cause::Refusal, Phase::Declined),
    (Phase::Authorising, Cause::NoAnswer, Phase::Reversing),
    (Phase::Reversing, Cause::Confirmed, Phase::Reversed),
    (Phase::Approved, Cause::RefundAsked, Phase::Refunding),
    (Phase::PartlyRefunded, Cause::RefundAsked, Phase::Refunding),
    (Phase::Refunding, Cause::RefundGivenInPart, Phase::PartlyRefunded),
    (Phase::Refunding, Cause::RefundGivenWhole, Phase::Refunded),
    (Phase::Refunding, Cause::RefundNotGiven, Phase::Approved),
    (Phase::Refunding, Cause::RefundNotGivenAgain, Phase::PartlyRefunded),
];

/// Where `cause` leads from `phase`, if anywhere.
#[must_use]
pub fn next(phase: Phase, cause: Cause) -> Option<Phase> {
    TRANSITIONS.iter().find(|(from, why, _)| (*from, *why) == (phase, cause)).map(|(.., to)| *to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_cause_leads_to_two_phases_and_every_phase_is_reached() {
        let pairs: BTreeSet<_> = TRANSITIONS.iter().map(|(from, why, _)| (*from, *why)).collect();
        assert_eq!(pairs.len(), TRANSITIONS.len());
        let reached: BTreeSet<_> = TRANSITIONS.iter().map(|(.., to)| *to).chain([Phase::Created]).collect();
        assert_eq!(reached, Phase::ALL.into_iter().collect());
    }

    #[test]
    fn what_is_over_stays_so() {
        let over = [Phase::Declined, Phase::Reversed, Phase::Expired, Phase::Locked, Phase::Cancelled, Phase::Refunded];
        assert!(TRANSITIONS.iter().all(|(from, ..)| !over.contains(from)));
    }

    #[test]
    fn the_manual_has_the_same_table() {
        let manual = include_str!("../../../docs/transactions.md");
        let rows: BTreeSet<String> = TRANSITIONS
            .iter()
            .map(|(from, why, to)| format!("| {} | {} | {} |", from.name(), why.name(), to.name()))
            .collect();
        let begin = manual.find("| from | what happens | to |").expect("there is a table of transitions");
        let written: BTreeSet<String> =
            manual[begin..].lines().skip(2).take_while(|line| line.starts_with('|')).map(str::to_owned).collect();
        assert_eq!(written, rows);
    }
}
