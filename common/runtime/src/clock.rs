//! The clocks of this machine, as the pure crates want to be told the time.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cloakway_types::{Instant, Timestamp};

static ORIGIN: OnceLock<std::time::Instant> = OnceLock::new();

/// Time on a clock that never jumps; its origin is the first call in this process.
#[must_use]
pub fn now() -> Instant {
    Instant::after_origin(ORIGIN.get_or_init(std::time::Instant::now).elapsed())
}

/// Civil time.
#[must_use]
pub fn wall() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Waits until `at`; for ever when there is no such time.
pub async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep(at.since(now())).await,
        None => std::future::pending().await,
    }
}
