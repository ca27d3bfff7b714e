//! What the table keeps on disk.

use cloakway_types::Timestamp;
use serde::{Deserialize, Serialize};
use toolbox_wire::http::Source;
use toolbox_wire::record::{Basis, EventTime, Nas};

use crate::codec::{DecodeError, Reader, Writer};
use crate::history::Interval;
use crate::packed::NoRoom;
use crate::session::{Session, SessionKey};
use crate::table::{Settings, Table};

/// Which of the durable tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rows {
    /// Sessions.
    Sessions,
    /// Restarts of NASes.
    Resets,
    /// What came to an end: [`Interval`]s, which the table asks for by [`crate::Past`] and does not keep.
    History,
}

impl Rows {
    const ALL: [Self; 3] = [Self::Sessions, Self::Resets, Self::History];
}

/// Rows that wait for memory together.
const TOGETHER: usize = 64;

/// A row in place: table, key and value.
pub(crate) type Parts<'b> = (Rows, &'b [u8], Option<&'b [u8]>);

/// One durable row: set, or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Where.
    pub table: Rows,
    /// The key; of history [`Interval::key`].
    pub key: Vec<u8>,
    /// The value; of history [`Interval::encode`]. `None` removes the row.
    pub value: Option<Vec<u8>>,
}

/// A row that does not read back: the store was written by something else.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A row as it was written before rows were octets.
    #[error("a stored row does not read back: {0}")]
    Json(#[from] serde_json::Error),
    /// A row of octets.
    #[error("a stored row does not read back: {0}")]
    Octets(#[from] DecodeError),
    /// More than a table can hold.
    #[error(transparent)]
    Room(#[from] NoRoom),
}

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

/// How far a listing of all rows has come.
#[derive(Debug, Clone, Default)]
pub struct Cursor {
    place: usize,
    resets: bool,
}

impl Cursor {
    /// Whether this is the beginning.
    pub(crate) fn begin(&mut self) -> bool {
        !std::mem::replace(&mut self.resets, true)
    }

    pub(crate) fn place(&self) -> usize {
        self.place
    }

    pub(crate) fn go_on(&mut self, place: usize) {
        self.place = place;
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
            table.replay(which, key, Some(value))?;
        }
        Ok(table)
    }

    /// Sets or removes one row, in the order in which they were kept. Rows of JSON, as they once were, are read too.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub fn replay(&mut self, which: Rows, key: &[u8], value: Option<&[u8]>) -> Result<(), RestoreError> {
        match (which, value) {
            (Rows::History, _) => {}
            (Rows::Sessions, None) => self.sessions.remove(&SessionKey::decode(key)?),
            (Rows::Sessions, Some(value)) if key.starts_with(b"{") => {
                let mut session: Session = serde_json::from_slice(value)?;
                session.complete();
                self.put(serde_json::from_slice(key)?, session, None);
            }
            (Rows::Sessions, Some(value)) => self.sessions.put_all(&[(key, value)])?,
            (Rows::Resets, None) => drop(self.resets.remove(&ResetKey::decode(key)?)),
            (Rows::Resets, Some(value)) if key.starts_with(b"{") => {
                self.resets.insert(serde_json::from_slice(key)?, serde_json::from_slice(value)?);
            }
            (Rows::Resets, Some(value)) => {
                self.resets.insert(ResetKey::decode(key)?, Reset::decode(value)?);
            }
        }
        Ok(())
    }

    /// [`Table::replay`] of what [`Row::encode`] made, in order; `history` is handed the rows of history, which are not kept here.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub fn replay_all(&mut self, rows: &[&[u8]], mut history: impl FnMut(&[u8])) -> Result<(), RestoreError> {
        let mut sessions: Vec<(&[u8], &[u8])> = Vec::with_capacity(TOGETHER);
        for row in rows {
            match Row::parts(row)? {
                (Rows::Sessions, key, Some(value)) if !key.starts_with(b"{") => sessions.push((key, value)),
                (Rows::History, _, Some(value)) => history(value),
                (table, key, value) => {
                    self.sessions.put_all(&sessions)?;
                    sessions.clear();
                    self.replay(table, key, value)?;
                }
            }
            if sessions.len() == TOGETHER {
                self.sessions.put_all(&sessions)?;
                sessions.clear();
            }
        }
        Ok(self.sessions.put_all(&sessions)?)
    }

    /// Some of all rows, about `limit`, from `cursor` on; the listing goes on until it is empty. Changes may go on
    /// meanwhile: a row that is there all the while is listed, as it is when its turn comes.
    pub fn list(&self, cursor: &mut Cursor, limit: usize) -> Vec<Row> {
        let mut rows = Vec::new();
        if cursor.begin() {
            rows.extend(self.resets.iter().map(|(key, reset)| Row::reset(key, Some(reset))));
        }
        let (some, next) = self.sessions.rows(cursor.place(), limit);
        rows.extend(some);
        cursor.go_on(next);
        rows
    }
}

impl Row {
    pub(crate) fn session(key: &SessionKey, value: Option<&Session>) -> Self {
        Self { table: Rows::Sessions, key: key.encode(), value: value.map(|session| session.encode(key)) }
    }

    pub(crate) fn history(interval: &Interval) -> Self {
        Self { table: Rows::History, key: interval.key(), value: Some(interval.encode()) }
    }

    pub(crate) fn reset(key: &ResetKey, value: Option<&Reset>) -> Self {
        Self { table: Rows::Resets, key: key.encode(), value: value.map(Reset::encode) }
    }

    /// The row as octets, for a journal.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut octets = Vec::new();
        self.encode_to(&mut octets);
        octets
    }

    /// [`Row::encode`], behind what is in `octets`.
    pub fn encode_to(&self, octets: &mut Vec<u8>) {
        let mut writer = Writer(std::mem::take(octets));
        let table = Rows::ALL.iter().position(|table| *table == self.table).unwrap_or(0);
        writer.octet(table as u8 | if self.value.is_some() { 0x80 } else { 0 });
        writer.number(self.key.len() as u64);
        writer.0.extend_from_slice(&self.key);
        self.value.iter().for_each(|value| writer.0.extend_from_slice(value));
        *octets = writer.0;
    }

    /// What [`Row::encode`] made.
    ///
    /// # Errors
    /// [`DecodeError`]: something else made it.
    pub fn decode(octets: &[u8]) -> Result<Self, DecodeError> {
        let (table, key, value) = Self::parts(octets)?;
        Ok(Self { table, key: key.to_vec(), value: value.map(<[u8]>::to_vec) })
    }

    /// Table, key and value of what [`Row::encode`] made, in place.
    pub(crate) fn parts(octets: &[u8]) -> Result<Parts<'_>, DecodeError> {
        let mut reader = Reader::new(octets);
        let tag = reader.octet()?;
        let Some(table) = Rows::ALL.get(usize::from(tag & 0x7f)).copied() else { return reader.wrong("a row") };
        let length = reader.count()?;
        let key = reader.octets(length)?;
        Ok((table, key, (tag & 0x80 != 0).then(|| reader.rest())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_row_reads_back(key: Vec<u8>, value: Option<Vec<u8>>, octets: Vec<u8>) {
            for table in Rows::ALL {
                let row = Row { table, key: key.clone(), value: value.clone() };
                prop_assert_eq!(Row::decode(&row.encode()).unwrap(), row);
            }
            let _ = Row::decode(&octets);
        }
    }
}
