//! When a peer that marks no end has told all of its routes, as far as that can be known.
//!
//! End-of-RIB comes for sure where both ends offer graceful restart (RFC 4724 §2). Without it, FRR and OpenBGPD send none. Such a
//! peer tells its routes in one go; a KEEPALIVE behind that shows that it still speaks and has nothing in front of it to
//! say, and the quiet before it that it was not merely between two messages.

use std::time::Duration;

use cloakway_types::Instant;

use super::Session;
use super::values::Heard;

/// So long before that KEEPALIVE no UPDATE has come.
const QUIET: Duration = Duration::from_secs(5);

/// What has come in a session so far.
#[derive(Debug, Default)]
pub(super) struct Burst {
    last_update: Option<Instant>,
    over: bool,
}

impl Session {
    pub(super) fn update_came(&mut self, now: Instant) {
        self.burst.last_update = Some(now);
    }

    pub(super) fn keepalive_came(&mut self, now: Instant) {
        let is_quiet = self.burst.last_update.is_some_and(|last| now.since(last) >= QUIET);
        let Some((_, negotiated)) = self.established().filter(|_| is_quiet && !self.burst.over) else { return };
        let families = negotiated.families.clone();
        if !negotiated.marks_end {
            self.burst.over = true;
            families.into_iter().for_each(|family| self.hear(Heard::Settled(family)));
        }
    }
}
