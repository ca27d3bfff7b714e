//! toolbox: live IP-to-subscriber bindings for the ISP, and answers from them (F1, F2, F9).
//!
//! [`radius`] hears the ISP's NASes and feeds [`bindings`], which makes each event durable before it is
//! acknowledged; [`api`] answers authenticated callers over TLS, and only after [`audit`] has the look-up on
//! disk. The decisions are in `toolbox-core`, the bytes in `toolbox-wire`.

pub mod api;
pub mod audit;
pub mod bindings;
pub mod callers;
pub mod config;
mod ear;
pub mod effects;
pub mod follow;
pub mod history;
pub mod loading;
mod prefixes;
pub mod radius;
pub mod role;
mod say;
pub mod sources;
pub mod whois;
