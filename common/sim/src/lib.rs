//! Seeded simulation: one number decides every delay, loss, duplicate and crash of a run.
//!
//! A simulation owns its cores and drives them in a loop: take the next event of the [`Net`], hand it
//! to the core it is for, post what the core says. Virtual hours cost real milliseconds, and a failure
//! names the seed that replays it: `SIM_SEED=17 cargo test …`.

mod net;
mod rng;

pub use net::{Faults, Net, NodeId};
pub use rng::Rng;

/// The seeds of a run: 0 to `count`, or to the environment variable `SIM_SEEDS`; or the one in `SIM_SEED`.
pub fn seeds(count: u64) -> Vec<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("SIM_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("SIM_SEEDS").unwrap_or(count)).collect(),
    }
}
