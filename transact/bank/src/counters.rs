//! What happened on the link, counted by reason.

use std::collections::BTreeMap;

macro_rules! counts {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)+) => {
        /// A reason to count.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Count {
            $($(#[$doc])* $variant,)+
        }

        impl Count {
            /// Every reason, in a fixed order.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// A name for metrics and for people: lower case, words joined by `-`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

counts! {
    /// A connection signed on.
    SignedOn = "signed-on",
    /// A connection ended, for whatever reason.
    Disconnected = "disconnected",
    /// An authorisation was asked for.
    Authorisation = "authorisation-sent",
    /// An authorisation was approved.
    Approved = "approved",
    /// An authorisation was declined.
    Declined = "declined",
    /// An authorisation was refused here, because the link was down or full: nothing was sent.
    NotSent = "not-sent",
    /// No answer in time.
    TimedOut = "timed-out",
    /// The connection ended before the answer came.
    ConnectionLost = "connection-lost",
    /// An answer that is neither a plain approval of what was asked nor a refusal.
    Unclear = "answer-unclear",
    /// A reversal was sent, first or repeated.
    Reversal = "reversal-sent",
    /// A reversal was confirmed.
    Reversed = "reversed",
    /// A reversal was answered with a code that asks to try again.
    ReversalRefused = "reversal-refused",
    /// An echo was sent.
    Echo = "echo-sent",
    /// An answer came after its time; its reversal is under way.
    Late = "answer-late",
    /// An answer came again.
    Duplicate = "answer-duplicate",
    /// An answer to nothing that was asked.
    Unmatched = "answer-unmatched",
    /// A message that could not be read, or lacked a field.
    Undecodable = "message-undecodable",
    /// A message of a type that an institution does not send here.
    Unexpected = "message-unexpected",
}

/// How often each [`Count`] happened since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters(BTreeMap<Count, u64>);

impl Counters {
    /// How often `count` happened.
    #[must_use]
    pub fn get(&self, count: Count) -> u64 {
        self.0.get(&count).copied().unwrap_or(0)
    }

    /// Every name with its number, zeros included.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Count::ALL.iter().map(|&count| (count.name(), self.get(count)))
    }

    pub(crate) fn add(&mut self, count: Count) {
        let number = self.0.entry(count).or_default();
        *number = number.saturating_add(1);
    }
}
