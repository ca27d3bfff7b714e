//! Bounds on a payer before it is trusted (A12): a timer from its first byte, a byte counter for its
//! connection and one for its ISP. With the right password they fall away; without it the
//! connection does.

use std::collections::BTreeMap;
use std::time::Duration;

use cloakway_types::{Instant, IspId};

use crate::orders::PasswordMatched;

/// The bounds.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// From the first byte until id and password have to match.
    pub session: Duration,
    /// TCP payload bytes of one connection until then.
    pub connection_bytes: u64,
    /// TCP payload bytes of all unproven connections of one ISP within [`Bounds::isp_window`].
    pub isp_bytes: u64,
    /// The time over which an ISP's bytes are counted.
    pub isp_window: Duration,
}

/// Why a connection has to be dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BoundReached {
    /// No proof within [`Bounds::session`].
    #[error("session timer")]
    Session,
    /// More than [`Bounds::connection_bytes`].
    #[error("connection byte counter")]
    ConnectionBytes,
    /// More than [`Bounds::isp_bytes`].
    #[error("ISP byte counter")]
    IspBytes,
}

/// A payer that has shown nothing yet.
#[derive(Debug)]
pub struct Unproven {
    isp: IspId,
    first_byte: Option<Instant>,
    bytes: u64,
}

/// A payer whose id and password matched.
#[derive(Debug)]
pub struct Proven(());

/// A connection's payer; what may be done with it is in its type.
#[derive(Debug)]
pub struct Payer<S>(S);

impl Payer<Unproven> {
    /// Lifts the bounds: only a matching password makes the argument.
    #[must_use]
    pub fn prove(self, _: PasswordMatched) -> Payer<Proven> {
        Payer(Proven(()))
    }

    /// When the session timer ends; `None` before the first byte.
    #[must_use]
    pub fn deadline(&self, bounds: &Bounds) -> Option<Instant> {
        self.0.first_byte.map(|first| first + bounds.session)
    }
}

/// The counters of all ISPs. As many entries as there are member ISPs.
#[derive(Debug)]
pub struct Admission {
    bounds: Bounds,
    isps: BTreeMap<IspId, (Instant, u64)>,
}

impl Admission {
    /// Nothing counted yet.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, isps: BTreeMap::new() }
    }

    /// The bounds.
    #[must_use]
    pub fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// A new connection from a subscriber of `isp`.
    #[must_use]
    pub fn connect(&self, isp: IspId) -> Payer<Unproven> {
        Payer(Unproven { isp, first_byte: None, bytes: 0 })
    }

    /// Counts `bytes` of TCP payload that arrived on the connection.
    ///
    /// # Errors
    /// [`BoundReached`]: the caller drops the connection.
    pub fn count(&mut self, payer: &mut Payer<Unproven>, bytes: u64, now: Instant) -> Result<(), BoundReached> {
        let Unproven { isp, first_byte, bytes: counted } = &mut payer.0;
        let first = *first_byte.get_or_insert(now);
        *counted = counted.saturating_add(bytes);
        let (window, isp_bytes) = self.isps.entry(isp.clone()).or_insert((now, 0));
        if now.since(*window) >= self.bounds.isp_window {
            (*window, *isp_bytes) = (now, 0);
        }
        *isp_bytes = isp_bytes.saturating_add(bytes);
        if now.since(first) >= self.bounds.session {
            Err(BoundReached::Session)
        } else if *counted > self.bounds.connection_bytes {
            Err(BoundReached::ConnectionBytes)
        } else if *isp_bytes > self.bounds.isp_bytes {
            Err(BoundReached::IspBytes)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::after_origin(Duration::from_millis(millis))
    }

    fn admission() -> Admission {
        Admission::new(Bounds {
            session: Duration::from_secs(10),
            connection_bytes: 1000,
            isp_bytes: 2500,
            isp_window: Duration::from_secs(60),
        })
    }

    #[test]
    fn the_session_timer_runs_from_the_first_byte() {
        let mut admission = admission();
        let mut payer = admission.connect("isp".parse().unwrap());
        assert_eq!(payer.deadline(admission.bounds()), None);
        assert_eq!(admission.count(&mut payer, 1, at(5_000)), Ok(()));
        assert_eq!(payer.deadline(admission.bounds()), Some(at(15_000)));
        assert_eq!(admission.count(&mut payer, 1, at(14_999)), Ok(()));
        assert_eq!(admission.count(&mut payer, 1, at(15_000)), Err(BoundReached::Session));
    }

    #[test]
    fn the_byte_that_is_too_many_drops_the_connection() {
        let mut admission = admission();
        let mut payer = admission.connect("isp".parse().unwrap());
        assert_eq!(admission.count(&mut payer, 1000, at(0)), Ok(()));
        assert_eq!(admission.count(&mut payer, 1, at(0)), Err(BoundReached::ConnectionBytes));
    }

    #[test]
    fn an_isps_connections_share_a_counter_that_starts_anew_each_window() {
        let mut admission = admission();
        let isp: IspId = "isp".parse().unwrap();
        for _ in 0..2 {
            let mut payer = admission.connect(isp.clone());
            assert_eq!(admission.count(&mut payer, 1000, at(0)), Ok(()));
        }
        let mut payer = admission.connect(isp.clone());
        assert_eq!(admission.count(&mut payer, 501, at(0)), Err(BoundReached::IspBytes));
        let mut other = admission.connect("other".parse().unwrap());
        assert_eq!(admission.count(&mut other, 501, at(0)), Ok(()), "another ISP has its own");
        let mut later = admission.connect(isp);
        assert_eq!(admission.count(&mut later, 501, at(60_000)), Ok(()));
    }
}
