//! A table anew from its rows, with as many threads as there are.

use crate::history::Interval;
use crate::packed;
use crate::rows::{RestoreError, Row, Rows};
use crate::session::{Session, SessionKey};
use crate::sessions::Sessions;
use crate::table::{Settings, Table};

/// A table that is being made of rows.
#[derive(Debug)]
pub struct Loading(Table);

/// What one thread takes of them.
#[derive(Debug)]
pub struct Part {
    sessions: packed::Loaded,
    /// Rows of restarts: there are few.
    resets: Vec<(u64, Vec<u8>)>,
    ended: Vec<(u64, Interval)>,
}

impl Loading {
    /// An empty table, and parts of it for so many threads.
    #[must_use]
    pub fn new(settings: Settings, threads: usize) -> (Self, Vec<Part>) {
        let table = Table::new(settings);
        let parts = match &table.sessions {
            Sessions::Packed(packed) => packed::Loaded::of(packed, threads.max(1)),
            Sessions::Full { .. } => Vec::new(),
        };
        let part = |sessions| Part { sessions, resets: Vec::new(), ended: Vec::new() };
        (Self(table), parts.into_iter().map(part).collect())
    }

    /// The table that the rows make which its parts took, as [`Table::replay_all`] does one by one; and what came to an end, in the
    /// order of the rows.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub fn finish(self, parts: Vec<Part>) -> Result<(Table, Vec<Interval>), RestoreError> {
        let Self(mut table) = self;
        let (mut sessions, mut resets, mut ended) = (Vec::new(), Vec::new(), Vec::new());
        for part in parts {
            sessions.push(part.sessions);
            resets.extend(part.resets);
            ended.extend(part.ended);
        }
        if let Sessions::Packed(packed) = &mut table.sessions {
            packed::finish(packed, sessions)?;
        }
        resets.sort_by_key(|(order, _)| *order);
        for (_, row) in resets {
            let row = Row::decode(&row)?;
            table.replay(row.table, &row.key, row.value.as_deref())?;
        }
        ended.sort_by_key(|(order, _)| *order);
        Ok((table, ended.into_iter().map(|(_, interval)| interval).collect()))
    }
}

impl Part {
    /// Takes rows that [`Row::encode`] made: those from the one with the number `first` on, of all in their order. A part takes rows
    /// in their order; of two rows of one session that parts took the one with the higher number counts.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub fn take(&mut self, first: u64, rows: &[&[u8]]) -> Result<(), RestoreError> {
        for (order, row) in (first..).zip(rows) {
            match Row::parts(row)? {
                (Rows::History, _, Some(value)) => self.ended.push((order, Interval::decode(value)?)),
                (Rows::History, _, None) => {}
                (Rows::Resets, ..) => self.resets.push((order, row.to_vec())),
                (Rows::Sessions, key, Some(value)) if key.starts_with(b"{") => {
                    let key: SessionKey = serde_json::from_slice(key)?;
                    let mut session: Session = serde_json::from_slice(value)?;
                    session.complete();
                    self.sessions.take(order, &key.encode(), Some(&session.encode(&key)))?;
                }
                (Rows::Sessions, key, value) => self.sessions.take(order, key, value)?,
            }
        }
        Ok(())
    }
}
