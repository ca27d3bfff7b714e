//! The BGP session and the injector's routes, without I/O or a clock.
//!
//! [`Session`] is the state machine of RFC 4271 §8 for one peer. [`Injector`] decides which private routes
//! may be announced now: those whose health was said lately, and said to be good. A [`PrivateRoute`] reaches
//! the wire only as [`Guarded`], with the community that keeps it inside the AS (A1).
//!
//! Other routes are injected in named sets: [`SetChange`] changes one, [`Rib`] holds them for all peers.
//!
//! Sockets and clocks are the shell's. Received prefixes are counted, and those of ours reported (A3); what a peer says
//! of routes is handed out as [`Heard`] where the operator wants it kept, which is the business of `bgp-rib`.

mod desired;
mod draft;
mod events;
mod export;
mod flow;
mod guard;
mod health;
mod injector;
mod jitter;
pub mod kernel;
mod policy;
mod prefix_list;
mod probe;
pub mod record;
mod rib;
mod route;
mod session;

pub use desired::{
    Applying, ChangeError, Conflict, Digest, Group, MAX_NAME, Others, Outcome, Requests, SetChange, apply, check_name,
};
pub use draft::{Checked, Draft};
pub use events::{Excerpt, Ring};
pub use flow::{
    FlowChange, FlowChangeError, FlowRoute, FlowRoutes, FlowTable, Flows, MAX_ACTIONS, MAX_FLOW_RULE, Permit,
    PermitError,
};
pub use guard::{Guard, Guarded, Keep, MAX_COMMUNITIES, PrivateRoute, RouteError, Unguarded};
pub use health::{Health, HealthInput, HealthTable};
pub use injector::{Injector, Notice, Routes};
pub use policy::{Policy, Refusal};
pub use prefix_list::{Filter, PrefixList, Rule, RuleError, Verdict};
pub use probe::{Patience, Probe};
pub use rib::{Batch, Change, Encode, FenceId, ReaderId, Rib, SetId, Walk, Wanted};
pub use route::{AttributesError, Drain, MAX_AUDIENCE, MAX_PATH, NextHop, Prefixes, RouteAttributes};
pub use session::{
    Configured, Counters, Down, Ends, Event, Export, FlowHeard, Heard, Helper, Input, LinkId, MaxPrefix, MessageCounts,
    Negotiated, NotTold, Options, Output, PeerRestart, RoleSetting, Session, SetNames, Settings, State, Status, Teller,
};
