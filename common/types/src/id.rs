//! Identifiers that travel between roles: short, printable, safe in a URL, a log and a file name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Nothing was given.
    #[error("{kind} is empty: give 1 to {max} characters")]
    Empty {
        /// What was being named.
        kind: &'static str,
        /// The longest that is allowed.
        max: usize,
    },
    /// More characters than allowed.
    #[error("{kind} has {length} characters: at most {max} are allowed")]
    TooLong {
        /// What was being named.
        kind: &'static str,
        /// Characters given.
        length: usize,
        /// The longest that is allowed.
        max: usize,
    },
    /// A character outside the allowed set.
    #[error("{kind} has {found:?} at position {at}: letters, digits and {allowed} are allowed")]
    Character {
        /// What was being named.
        kind: &'static str,
        /// The character.
        found: char,
        /// Its position, counted in characters from 0.
        at: usize,
        /// The punctuation that is allowed.
        allowed: &'static str,
    },
}

fn checked(kind: &'static str, text: &str, max: usize, allowed: &'static str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty { kind, max });
    }
    let length = text.chars().count();
    if length > max {
        return Err(IdError::TooLong { kind, length, max });
    }
    match text.chars().enumerate().find(|(_, c)| !c.is_ascii_alphanumeric() && !allowed.contains(*c)) {
        Some((at, found)) => Err(IdError::Character { kind, found, at, allowed }),
        None => Ok(()),
    }
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $max:literal, $allowed:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The identifier as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                checked($kind, text, $max, $allowed)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                checked($kind, &text, $max, $allowed)?;
                Ok(Self(text))
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    };
}

identifier!(
    /// A transaction (A6): made by the vendor, or by the transaction server for a temporary id.
    TransactionId, "transaction id", 64, "-_."
);
identifier!(
    /// A member vendor (A6).
    VendorId, "vendor id", 64, "-_."
);
identifier!(
    /// A member ISP (A7).
    IspId, "ISP id", 64, "-_."
);
identifier!(
    /// A subscriber as the ISP names them: a RADIUS User-Name, a circuit id, a lease's DUID (F1).
    SubscriberId, "subscriber", 253, "-_.@:/+="
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_keeps_its_text() {
        let id: TransactionId = "order-1.a_B".parse().unwrap();
        assert_eq!(id.to_string(), "order-1.a_B");
    }

    #[test]
    fn empty_long_and_strange_ids_are_refused_with_their_place() {
        assert_eq!("".parse::<VendorId>(), Err(IdError::Empty { kind: "vendor id", max: 64 }));
        assert!("x".repeat(64).parse::<VendorId>().is_ok());
        assert_eq!(
            "x".repeat(65).parse::<VendorId>(),
            Err(IdError::TooLong { kind: "vendor id", length: 65, max: 64 })
        );
        assert_eq!(
            "a/b".parse::<IspId>(),
            Err(IdError::Character { kind: "ISP id", found: '/', at: 1, allowed: "-_." })
        );
    }

    #[test]
    fn json_refuses_what_the_parser_refuses() {
        assert!(serde_json::from_str::<VendorId>("\"shop 1\"").is_err());
    }
}
