//! What equipment says when it is asked, on request of a caller, whether somebody is still there (F2).

use serde::{Deserialize, Serialize};

/// The outcome of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Probed {
    /// It is still there.
    There,
    /// It is not there any more.
    Gone,
    /// There was an answer that says neither.
    Refused,
    /// There was no answer in time.
    Silent,
    /// Nothing can be asked about this binding.
    NotOffered,
    /// Too many others are being asked about.
    Busy,
}

impl Probed {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::There => "there",
            Self::Gone => "gone",
            Self::Refused => "refused",
            Self::Silent => "silent",
            Self::NotOffered => "not-offered",
            Self::Busy => "busy",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_those_of_the_encoding() {
        for probed in [Probed::There, Probed::Gone, Probed::Refused, Probed::Silent, Probed::NotOffered, Probed::Busy] {
            assert_eq!(serde_json::to_string(&probed).unwrap(), format!("\"{}\"", probed.as_str()));
        }
    }
}
