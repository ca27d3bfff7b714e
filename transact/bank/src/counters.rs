//! What happened on the link, counted by reason.

cloakway_types::counts! {
    /// A reason to count.
    pub enum Count {
        /// A connection signed on.
        SignedOn = "signed-on",
        /// A connection signed off.
        SignedOff = "signed-off",
        /// A connection ended, for whatever reason.
        Disconnected = "disconnected",
        /// An authorisation or a purchase was asked for.
        Authorisation = "authorisation-sent",
        /// A refund was asked for.
        Refund = "refund-sent",
        /// A request was approved.
        Approved = "approved",
        /// A request was declined.
        Declined = "declined",
        /// A request was refused here, because the link was down or full: nothing was sent.
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
        /// A message without its code of authentication, or with a wrong one.
        Unauthentic = "message-unauthentic",
        /// A message of a type that an institution does not send here.
        Unexpected = "message-unexpected",
    }
}

/// How often each [`Count`] happened since the start.
pub type Counters = cloakway_types::Counters<Count>;
