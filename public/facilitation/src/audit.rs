//! The audit log: who changed what, and when. Lines are only ever added; each holds the hash of the one before.

use cloakway_crypto::encode::hex;
use cloakway_crypto::hash::sha256;
use cloakway_store::{Batch, Store, StoreError};
use cloakway_types::{Timestamp, VendorId};
use serde::{Deserialize, Serialize};

const TABLE: &str = "audit";

/// A line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) number: u64,
    pub(crate) at: Timestamp,
    /// An operator's name, or the user of the command line.
    pub(crate) who: String,
    pub(crate) what: String,
    pub(crate) vendor: Option<VendorId>,
    pub(crate) about: String,
    /// SHA-256 of the line before, in hexadecimal; empty in the first.
    before: String,
}

/// The end of the log.
#[derive(Debug, Clone, Default)]
pub(crate) struct Audit {
    lines: u64,
    last: String,
    problem: Option<String>,
}

impl Audit {
    /// Reads the whole log and holds each line against the one before.
    pub(crate) fn load(store: &Store) -> Result<Self, StoreError> {
        let mut audit = Self::default();
        for (key, row) in store.scan(TABLE)? {
            let line: Option<Line> = serde_json::from_slice(&row).ok();
            let fits = line.is_some_and(|line| {
                line.number == audit.lines && line.before == audit.last && key == line.number.to_be_bytes()
            });
            if !fits && audit.problem.is_none() {
                let problem = format!("line {} does not follow the one before", audit.lines);
                tracing::error!(%problem, "the audit log was changed by something else than this server");
                audit.problem = Some(problem);
            }
            audit.lines += 1;
            audit.last = hex(&sha256(&[&row]));
        }
        Ok(audit)
    }

    pub(crate) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Puts a line into `batch`, and gives the end of the log for when that is written.
    pub(crate) fn write(
        &self,
        batch: &mut Batch,
        who: &str,
        what: &str,
        vendor: Option<&VendorId>,
        about: &str,
        at: Timestamp,
    ) -> Result<Self, StoreError> {
        let line = Line {
            number: self.lines,
            at,
            who: who.to_owned(),
            what: what.to_owned(),
            vendor: vendor.cloned(),
            about: about.to_owned(),
            before: self.last.clone(),
        };
        let row = serde_json::to_vec(&line).map_err(|error| StoreError::Write(error.to_string()))?;
        let last = hex(&sha256(&[&row]));
        batch.put(TABLE, line.number.to_be_bytes(), row);
        Ok(Self { lines: self.lines + 1, last, problem: self.problem.clone() })
    }
}

/// The latest lines, the newest first.
pub(crate) fn latest(store: &Store, count: usize) -> Result<Vec<Line>, StoreError> {
    let rows = store.scan(TABLE)?;
    Ok(rows.iter().rev().take(count).filter_map(|(_, row)| serde_json::from_slice(row).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_that_is_changed_or_gone_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("audit")).unwrap();
        let mut audit = Audit::load(&store).unwrap();
        for about in ["one", "two", "three"] {
            let mut batch = Batch::new();
            audit = audit.write(&mut batch, "alice", "did", None, about, Timestamp::from_secs(1)).unwrap();
            store.commit(batch).await.unwrap();
        }
        assert_eq!(Audit::load(&store).unwrap().problem(), None);
        let about: Vec<_> = latest(&store, 2).unwrap().into_iter().map(|line| line.about).collect();
        assert_eq!(about, ["three", "two"]);
        let row = store.get(TABLE, &1_u64.to_be_bytes()).unwrap().unwrap();
        let forged = String::from_utf8(row.clone()).unwrap().replace("two", "2");
        let mut batch = Batch::new();
        batch.put(TABLE, 1_u64.to_be_bytes(), forged.into_bytes());
        store.commit(batch).await.unwrap();
        assert!(Audit::load(&store).unwrap().problem().unwrap().starts_with("line 2"));
        let mut batch = Batch::new();
        batch.delete(TABLE, 1_u64.to_be_bytes());
        store.commit(batch).await.unwrap();
        assert!(Audit::load(&store).unwrap().problem().unwrap().starts_with("line 1"));
    }
}
