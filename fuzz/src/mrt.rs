//! MRT dumps of a RIB.

use std::io::Cursor;
use std::time::{Duration, Instant};

use facilitation::isp::read_rib;

/// How long a dump of a few kilobytes may take, with every check of a slow machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A whole dump.
pub fn mrt_rib(bytes: &[u8]) {
    let began = Instant::now();
    match read_rib(Cursor::new(bytes.to_vec())) {
        Ok(rib) => assert!(!rib.is_empty()),
        Err(reason) => assert!(!reason.is_empty()),
    }
    assert!(began.elapsed() < PATIENCE, "{} bytes took {:?}", bytes.len(), began.elapsed());
}
