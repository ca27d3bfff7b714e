//! What the table keeps on disk.

use cloakway_types::Timestamp;
use serde::{Deserialize, Serialize};
use toolbox_wire::http::Source;
use toolbox_wire::record::{Basis, EventTime, Nas};

use crate::session::{Session, SessionKey};
use crate::table::{Settings, Table};

/// Which of the durable tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rows {
    /// Sessions.
    Sessions,
    /// Restarts of NASes.
    Resets,
}

/// One durable row: set, or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Where.
    pub table: Rows,
    /// The key, JSON.
    pub key: Vec<u8>,
    /// The value, JSON; `None` removes the row.
    pub value: Option<Vec<u8>>,
}

/// A row that does not read back: the store was written by something else.
#[derive(Debug, thiserror::Error)]
#[error("a stored row does not read back: {0}")]
pub struct RestoreError(#[from] serde_json::Error);

/// Which NAS restarted, as which client reported it, by which clock.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ResetKey {
    pub(crate) source: Source,
    pub(crate) client: String,
    pub(crate) nas: Nas,
    pub(crate) basis: Basis,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reset {
    pub(crate) time: EventTime,
    pub(crate) heard: Timestamp,
}

impl ResetKey {
    pub(crate) fn concerns(&self, session: &SessionKey) -> bool {
        self.source == session.source && self.client == session.client && self.nas.may_be(&session.nas)
    }
}

impl Table {
    /// The table that these rows describe.
    ///
    /// Addresses that have left the subscriber prefixes since are not bound again.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub fn restore<'r>(
        settings: Settings,
        rows: impl IntoIterator<Item = (Rows, &'r [u8], &'r [u8])>,
    ) -> Result<Self, RestoreError> {
        let mut table = Self::new(settings);
        for (which, key, value) in rows {
            match which {
                Rows::Sessions => {
                    let key: SessionKey = serde_json::from_slice(key)?;
                    let session: Session = serde_json::from_slice(value)?;
                    table.put(key, session);
                }
                Rows::Resets => {
                    table.resets.insert(serde_json::from_slice(key)?, serde_json::from_slice(value)?);
                }
            }
        }
        Ok(table)
    }
}

impl Row {
    pub(crate) fn session(key: &SessionKey, value: Option<&Session>) -> Self {
        Self { table: Rows::Sessions, key: json(key), value: value.map(json) }
    }

    pub(crate) fn reset(key: &ResetKey, value: Option<&Reset>) -> Self {
        Self { table: Rows::Resets, key: json(key), value: value.map(json) }
    }
}

#[expect(clippy::expect_used, reason = "these types have no maps with other keys than words and no failing Serialize")]
fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("the row types serialise")
}
