//! The link from outside: what is said to the institution, what the caller is told.

#[cfg(test)]
mod behaviour;
#[cfg(test)]
mod common;
#[cfg(test)]
mod simulation;
