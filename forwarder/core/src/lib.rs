//! What the forwarder wants, without I/O and without a clock (A1, A2, A3).
//!
//! One validated [`Policy`] gives everything else: the reference model of what happens to a packet
//! ([`Policy::decide`]), the kernel state that makes it so ([`Policy::blackholes`],
//! [`ruleset::render`], [`Policy::routes`], [`Policy::settings`]), and the [`Health`] of each private prefix. Applying that state and
//! telling this crate what happened is the business of `forwarder-dataplane` and of the shell.

mod decide;
pub mod fast;
mod health;
pub mod live;
mod made;
pub mod meter;
pub mod netfilter;
mod parse;
mod policy;
mod routes;
pub mod ruleset;
mod sysctl;
pub mod trace;
pub mod user;
pub mod wireguard;

pub use decide::{Egress, Ingress, Kind, Packet, Reason, Verdict};
pub use health::{Applied, Change, Health, Input, LinkState, Status, Timing, WayStatus};
pub use made::{MadeKind, MadeLink, Tunnel};
pub use parse::{Malformed, Parsed, parse};
pub use policy::{
    Link, LinkId, MAX_WAYS, Place, Policy, PolicyError, PrivatePrefix, Problem, Service, ServiceError, Spec, SpecLink,
    SpecPrefix, Way,
};
pub use routes::{
    BLACKHOLE_METRIC, Exit, LINK_METRIC, MAIN_TABLE, OwnTable, ROUTE_PROTOCOL, Resting, Route, Rule, Target,
    blackhole_waits, rank_of_going,
};
pub use sysctl::{Setting, TRIES_PER_PROBE};
