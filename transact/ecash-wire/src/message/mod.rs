//! Every message, as the fields that it has.

/// A struct for each part of a message: the template by which it is read, checked and written.
macro_rules! parts {
    ($($(#[$meta:meta])* $name:ident { $($field:ident: $type:ty = $label:literal),* $(,)? })*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name { $(#[doc = concat!("`", $label, "`.")] pub $field: $type),* }

        impl $name {
            /// Its labels, and whether they have to be there.
            pub const LABELS: &'static [(&'static str, bool)] =
                &[$(($label, <$type as $crate::message::Slot>::REQUIRED)),*];

            /// Reads it from the fields with the suffix `n`, 0 for none.
            ///
            /// # Errors
            /// [`FormError`](crate::frame::FormError).
            pub fn read(pairs: &$crate::frame::Pairs<'_>, n: u8) -> Result<Self, $crate::frame::FormError> {
                Ok(Self { $($field: $crate::message::Slot::take(pairs, $label, n)?),* })
            }

            /// Writes it, with the suffix `n`.
            pub fn write(&self, draft: &mut $crate::frame::Draft, n: u8) {
                $($crate::message::Slot::give(&self.$field, draft, $label, n);)*
            }
        }
    )*};
}

mod cash;
mod code;
mod request;

pub use cash::{
    BatchItem, BatchReceipt, BatchReceiptItem, CollectionHead, Notice, Offer, PaymentClear, PaymentSealed, Receipt,
    ReceiptHead, RelayHead,
};
pub use code::{Problem, ResponseCode, Severity};
pub use request::{
    Answer, Autoclose, AutocloseResult, Bind, BindResult, Close, CloseResult, Diagnostic, LoadUnload, LoadUnloadResult,
    OpenSession, OpenSessionResult, Outcome, Question, Register, RegisterResult, ReplyHead, RequestHead, Update,
};

use crate::frame::{Draft, FormError, Pairs};
use crate::value::Value;

macro_rules! kinds {
    ($($kind:ident $text:literal $what:literal),* $(,)?) => {
        /// The kinds of message, by the names that the formulas use.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub enum Kind { $(#[doc = $what] $kind),* }

        impl Kind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// The name in contexts.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => stringify!($kind)),* }
            }

            /// The value of `type`.
            #[must_use]
            pub const fn type_text(self) -> &'static str {
                match self { $(Self::$kind => $text),* }
            }
        }
    };
}

kinds! {
    R1 "registration" "A client registers.",
    R2 "registration-response" "It is told its id.",
    BI1 "bind-instrument" "A client binds an instrument.",
    BI2 "bind-instrument-question" "It is asked what the issuer wants to know.",
    BI3 "bind-instrument-answer" "It answers.",
    BI4 "bind-instrument-response" "It is told what it may use the instrument for.",
    LU1 "load-unload-funds" "A client moves money between instrument and container.",
    LU2 "load-unload-response" "It is told what was moved.",
    OS1 "open-session" "A client opens a session.",
    OS2 "open-session-response" "It is told the session's secrets.",
    CS1 "close-session" "A client closes a session.",
    CS2 "close-session-response" "It is told what came back.",
    AC1 "autoclose" "A holder closes the persona by its passphrase.",
    AC2 "autoclose-response" "It is told what went to the instrument.",
    PR1 "payment-request" "A payee offers.",
    CA1 "cash-payment" "A payer pays.",
    CA2 "to-server" "A payee collects.",
    CA3 "from-server" "It is told what was collected.",
    CA4 "cash-payer-receipt" "The payer is told what was paid.",
    DG1 "diagnostic" "A client tells of a reply that it could not read.",
    ER1 "error-notice" "Something is wrong; nobody vouches for it.",
}

impl Kind {
    /// The kinds that are wrapped to the server's key.
    pub const REQUESTS: &[Self] =
        &[Self::R1, Self::BI1, Self::BI3, Self::LU1, Self::OS1, Self::CS1, Self::AC1, Self::DG1];

    /// T of F8; 0 for kinds outside sessions.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::CA1 => 1,
            Self::CA2 => 2,
            Self::CA3 => 3,
            Self::CA4 => 4,
            _ => 0,
        }
    }

    /// The kind of a request by the text of its `type`; `persona-update` is a kind of R1.
    #[must_use]
    pub fn of_request(text: &str) -> Option<Self> {
        match text {
            PERSONA_UPDATE => Some(Self::R1),
            _ => Self::REQUESTS.iter().copied().find(|kind| kind.type_text() == text),
        }
    }

    /// Whether a request of this kind is signed.
    #[must_use]
    pub const fn is_signed(self) -> bool {
        matches!(self, Self::R1 | Self::BI1 | Self::BI3 | Self::LU1 | Self::OS1 | Self::CS1)
    }

    /// The value of `service-category`.
    #[must_use]
    pub const fn category(self) -> &'static str {
        match self {
            Self::R1 | Self::R2 | Self::BI1 | Self::BI2 | Self::BI3 | Self::BI4 => "admin",
            _ => "cash",
        }
    }
}

/// The `type` of an R1 that changes a persona.
pub const PERSONA_UPDATE: &str = "persona-update";

/// The type inside CA2.
pub const COLLECTION: &str = "cash-collection";

/// The type inside CA3.
pub const BATCH_RECEIPT: &str = "cash-batch-receipt";

/// The version of in-session messages that is written here.
pub const VERSION: u8 = 1;

/// A field's type with whether it has to be there.
trait Slot: Sized {
    const REQUIRED: bool;
    fn take(pairs: &Pairs<'_>, label: &'static str, n: u8) -> Result<Self, FormError>;
    fn give(&self, draft: &mut Draft, label: &'static str, n: u8);
}

impl<T: Value> Slot for T {
    const REQUIRED: bool = true;
    fn take(pairs: &Pairs<'_>, label: &'static str, n: u8) -> Result<Self, FormError> {
        pairs.required(label, n)
    }
    fn give(&self, draft: &mut Draft, label: &'static str, n: u8) {
        draft.put(label, n, self);
    }
}

impl<T: Value> Slot for Option<T> {
    const REQUIRED: bool = false;
    fn take(pairs: &Pairs<'_>, label: &'static str, n: u8) -> Result<Self, FormError> {
        pairs.optional(label, n)
    }
    fn give(&self, draft: &mut Draft, label: &'static str, n: u8) {
        if let Some(value) = self {
            draft.put(label, n, value);
        }
    }
}
