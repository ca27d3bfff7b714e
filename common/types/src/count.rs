//! Things that happen, counted by reason: one enum of reasons a crate, one table of numbers.

use std::collections::BTreeMap;

/// A reason to count, declared with [`counts!`](crate::counts).
pub trait Reason: Copy + Ord + 'static {
    /// Every reason, in a fixed order.
    const ALL: &'static [Self];

    /// A name for metrics and for people: lower case, words joined by `-`.
    fn name(self) -> &'static str;
}

/// How often each reason happened since the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counters<R: Reason>(BTreeMap<R, u64>);

impl<R: Reason> Default for Counters<R> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<R: Reason> Counters<R> {
    /// How often `reason` happened.
    #[must_use]
    pub fn get(&self, reason: R) -> u64 {
        self.0.get(&reason).copied().unwrap_or(0)
    }

    /// Counts `reason` once more.
    pub fn add(&mut self, reason: R) {
        let number = self.0.entry(reason).or_default();
        *number = number.saturating_add(1);
    }

    /// Every name with its number, zeros included.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        R::ALL.iter().map(|&reason| (reason.name(), self.get(reason)))
    }
}

/// Declares an enum of reasons, each with its doc comment and its name.
#[macro_export]
macro_rules! counts {
    ($(#[$of:meta])* $visibility:vis enum $count:ident { $($(#[$doc:meta])* $variant:ident = $name:literal,)+ }) => {
        $(#[$of])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $visibility enum $count {
            $($(#[$doc])* $variant,)+
        }

        impl $crate::count::Reason for $count {
            const ALL: &'static [Self] = &[$(Self::$variant),+];

            fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    counts! {
        /// Fruit.
        enum Fruit {
            /// Green or red.
            Apple = "apple",
            /// Yellow.
            Lemon = "sour-lemon",
        }
    }

    #[test]
    fn reasons_are_counted_and_listed_with_zeros() {
        let mut counters = Counters::default();
        counters.add(Fruit::Lemon);
        counters.add(Fruit::Lemon);
        assert_eq!(counters.get(Fruit::Lemon), 2);
        assert_eq!(counters.iter().collect::<Vec<_>>(), [("apple", 0), ("sour-lemon", 2)]);
    }
}
