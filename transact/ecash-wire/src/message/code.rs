//! What a reply says: whether it worked, and if not, why.

use serde::{Deserialize, Serialize};

use crate::value::Value;

macro_rules! words {
    ($(#[$meta:meta])* $name:ident, $wrong:literal { $($(#[$doc:meta])* $variant:ident = $text:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$doc])* #[serde(rename = $text)] $variant),* }

        impl $name {
            /// Every one.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The text on the wire.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }

        impl Value for $name {
            fn read(text: &str) -> Result<Self, &'static str> {
                match text { $($text => Ok(Self::$variant),)* _ => Err($wrong) }
            }
            fn write(&self) -> String {
                self.text().to_owned()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.text())
            }
        }
    };
}

words! {
    /// `response-code`.
    ResponseCode, "success, failure or more" {
        /// It was done.
        Success = "success",
        /// It was not done.
        Failure = "failure",
        /// BI2: the issuer asks.
        More = "more",
    }
}

words! {
    /// `swseverity`.
    Severity, "warning or fatal" {
        /// A newer version should be used.
        Warning = "warning",
        /// This version is not served.
        Fatal = "fatal",
    }
}

words! {
    /// `problem`: why something was not done.
    Problem, "a code of this protocol" {
        /// ER1: what is sealed does not open, or the server key is not served (any longer).
        Undecryptable = "undecryptable",
        /// ER1: not by the owner of the session.
        Unauthenticated = "unauthenticated",
        /// ER1: the same request is being worked on.
        InProgress = "in-progress",
        /// ER1: too much to do.
        Busy = "busy",
        /// A field is missing or not as it should be.
        Form = "form",
        /// The signature does not match.
        Signature = "signature",
        /// `key` is not that of the persona.
        KeyMismatch = "key-mismatch",
        /// No such persona.
        UnknownPersona = "unknown-persona",
        /// This version of the software is not served.
        SoftwareFatal = "software-fatal",
        /// Made too long ago, or in the future.
        StaleDate = "stale-date",
        /// The number was used for another request.
        TransactionReused = "transaction-reused",
        /// The persona was closed.
        PersonaClosed = "persona-closed",
        /// The operator switched this service off for the persona.
        ServiceDisabled = "service-disabled",
        /// No id that can be given.
        BadId = "bad-id",
        /// Somebody has it.
        IdTaken = "id-taken",
        /// Others could use the key.
        WeakKey = "weak-key",
        /// Another persona has the key.
        KeyInUse = "key-in-use",
        /// A legal text has to be accepted first.
        AgreementRequired = "agreement-required",
        /// No such instrument can be.
        InstrumentInvalid = "instrument-invalid",
        /// The issuer refuses.
        InstrumentRefused = "instrument-refused",
        /// Passphrase, functions or binding do not allow it.
        AutocloseRefused = "autoclose-refused",
        /// No such instrument is bound.
        NoSuchBinding = "no-such-binding",
        /// It is not enabled (yet).
        BindingNotEnabled = "binding-not-enabled",
        /// Not for this.
        FunctionNotEnabled = "function-not-enabled",
        /// Beyond the limit of a window.
        LimitExceeded = "limit-exceeded",
        /// The issuer declined.
        IssuerDeclined = "issuer-declined",
        /// Not so much is there.
        InsufficientFunds = "insufficient-funds",
        /// Another currency is needed.
        CurrencyMismatch = "currency-mismatch",
        /// No such session of this persona.
        NoSuchSession = "no-such-session",
        /// The session had ended before.
        AlreadyClosed = "already-closed",
        /// The session has ended.
        SessionClosed = "session-closed",
        /// No such use of the session.
        IndexOutOfRange = "index-out-of-range",
        /// Zero or less.
        AmountInvalid = "amount-invalid",
        /// Payer and payee do not agree.
        AmountMismatch = "amount-mismatch",
        /// The price exceeds what was authorised, at today's rate.
        RateMoved = "rate-moved",
        /// Not by the owner of the payer's session, or not for this.
        PayerAuth = "payer-auth",
        /// For another payee.
        WrongPayee = "wrong-payee",
        /// Twice in one batch.
        DuplicateInBatch = "duplicate-in-batch",
        /// Another message had this index.
        IndexReused = "index-reused",
        /// The payee's session has another currency.
        PayeeCurrency = "payee-currency",
        /// Not now.
        TryLater = "try-later",
        /// It was collected before.
        AlreadyCollected = "already-collected",
    }
}

impl Problem {
    /// Whether the same request, or payment, may succeed later.
    #[must_use]
    pub const fn is_soft(self) -> bool {
        matches!(self, Self::TryLater)
    }

    /// What a person is told.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::Undecryptable => "the request could not be opened: fetch the server's current key and try again",
            Self::Unauthenticated => "the message is not by the owner of an open session",
            Self::InProgress => "the request is being worked on: ask again with the same message",
            Self::Busy => "too much to do: try again later",
            Self::Form => "a field is missing or not as it should be",
            Self::Signature => "the signature does not match",
            Self::KeyMismatch => "the key is not the one that was registered",
            Self::UnknownPersona => "no such persona",
            Self::SoftwareFatal => "this version of the software is not served any longer",
            Self::StaleDate => "the request is too old, or its date lies in the future",
            Self::TransactionReused => "the transaction number was used for another request",
            Self::PersonaClosed => "the persona was closed",
            Self::ServiceDisabled => "this service is switched off for the persona: ask the operator",
            Self::BadId => "an id has 3 to 30 letters and digits and begins with a letter",
            Self::IdTaken => "the id is taken",
            Self::WeakKey => "the key is weak: make another",
            Self::KeyInUse => "the key belongs to another persona",
            Self::AgreementRequired => "an agreement has to be accepted first",
            Self::InstrumentInvalid => "no such instrument can be bound",
            Self::InstrumentRefused => "the issuer refuses the instrument",
            Self::AutocloseRefused => "passphrase or instrument do not allow it",
            Self::NoSuchBinding => "no such instrument is bound",
            Self::BindingNotEnabled => "the instrument is not enabled yet, or not any longer",
            Self::FunctionNotEnabled => "the instrument is not enabled for this",
            Self::LimitExceeded => "beyond the limit of this instrument",
            Self::IssuerDeclined => "the issuer declined",
            Self::InsufficientFunds => "not enough money is there",
            Self::CurrencyMismatch => "another currency is needed",
            Self::NoSuchSession => "no such session",
            Self::AlreadyClosed => "the session had ended before",
            Self::SessionClosed => "the session has ended",
            Self::IndexOutOfRange => "the session has no such use",
            Self::AmountInvalid => "an amount above zero is needed",
            Self::AmountMismatch => "payer and payee do not agree on the amount",
            Self::RateMoved => "at the current rate the price exceeds what was authorised",
            Self::PayerAuth => "the payment is not by the owner of the payer's session, or was changed",
            Self::WrongPayee => "the payment is for another payee",
            Self::DuplicateInBatch => "the payment stands twice in the batch",
            Self::IndexReused => "another message used this index",
            Self::PayeeCurrency => "the payee's session has another currency",
            Self::TryLater => "not possible now: try again later",
            Self::AlreadyCollected => "the payment was collected before",
        }
    }
}
