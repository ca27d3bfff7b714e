//! Records of electronic cash as rows of the store, and back.

use std::sync::Arc;

use cloakway_store::{Batch, Row, Store, StoreError};
use transact_ecash::ledger::Entry;
use transact_ecash::{Record, RecordKey, Write};

/// The table of movements of money. A row holds those of one step, under the number of the first.
pub(super) const ENTRIES: &str = "ecash-entries";
/// Everything else that the server's records are stored in.
const TABLES: [&str; 9] = [
    "ecash-personas",
    "ecash-bindings",
    "ecash-sessions",
    "ecash-payments",
    "ecash-log",
    "ecash-holds",
    "ecash-uses",
    "ecash-pending",
    "ecash-numbers",
];

/// Rows that are read at a time.
const PAGE: usize = 4096;

fn place(key: &RecordKey) -> (&'static str, Vec<u8>) {
    let number = |number: u64| number.to_be_bytes().to_vec();
    match key {
        RecordKey::Persona(id) => ("ecash-personas", id.as_str().as_bytes().to_vec()),
        RecordKey::Binding(id) => ("ecash-bindings", number(id.0)),
        RecordKey::Session(id) => ("ecash-sessions", number(id.0)),
        RecordKey::Payment(session, index) => {
            ("ecash-payments", [&session.0.to_be_bytes()[..], &index.to_be_bytes()].concat())
        }
        RecordKey::Log(at) => ("ecash-log", number(*at)),
        RecordKey::Entry(at) => (ENTRIES, number(*at)),
        RecordKey::Hold(id) => ("ecash-holds", number(id.0)),
        RecordKey::Use(at) => ("ecash-uses", number(*at)),
        RecordKey::Pending(at) => ("ecash-pending", number(*at)),
        RecordKey::Numbers => ("ecash-numbers", Vec::new()),
    }
}

fn json<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|error| StoreError::Write(error.to_string()))
}

/// Adds a step's writes to `batch`.
pub(super) fn add(batch: &mut Batch, writes: &[Write]) -> Result<(), StoreError> {
    let mut entries: Vec<&Entry> = Vec::new();
    for write in writes {
        match write {
            Write::Put(Record::Entry(entry)) => entries.push(entry),
            Write::Put(record) => {
                let (table, key) = place(&record.key());
                batch.put(table, key, json(record)?);
            }
            Write::Delete(key) => {
                let (table, key) = place(key);
                batch.delete(table, key);
            }
        }
    }
    if let Some(first) = entries.first() {
        batch.put(ENTRIES, first.number.to_be_bytes(), json(&entries)?);
    }
    Ok(())
}

/// The reply of a log record.
pub(super) fn reply(store: &Store, number: u64) -> Result<Option<Vec<u8>>, StoreError> {
    let (table, key) = place(&RecordKey::Log(number));
    let Some(row) = store.get(table, &key)? else { return Ok(None) };
    match serde_json::from_slice(&row).map_err(|error| damaged(table, &key, &error))? {
        Record::Log(log) => Ok(Some(log.reply.0)),
        _ => Err(damaged(table, &key, &"no log record")),
    }
}

fn damaged(table: &str, key: &[u8], error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Read(format!("{table}, row {}: {error}", cloakway_crypto::encode::hex(key)))
}

/// The rows of a table, a page at a time.
pub(super) struct Rows {
    store: Store,
    table: &'static str,
    from: Vec<u8>,
    page: std::vec::IntoIter<Row>,
    over: bool,
}

impl Rows {
    pub(super) fn new(store: &Store, table: &'static str) -> Self {
        Self { store: store.clone(), table, from: Vec::new(), page: Vec::new().into_iter(), over: false }
    }
}

impl Iterator for Rows {
    type Item = Result<Row, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(row) = self.page.next() {
            return Some(Ok(row));
        }
        if self.over {
            return None;
        }
        // No key is as long as this.
        match self.store.range(self.table, &self.from, &[0xff; 64], PAGE) {
            Err(error) => {
                self.over = true;
                Some(Err(error))
            }
            Ok(page) => {
                self.over = page.len() < PAGE;
                if let Some((last, _)) = page.last() {
                    self.from.clone_from(last);
                    self.from.push(0);
                }
                self.page = page.into_iter();
                self.page.next().map(Ok)
            }
        }
    }
}

/// The movements of money in order.
pub(super) fn entries(store: &Store) -> impl Iterator<Item = Result<Entry, StoreError>> + use<> {
    Rows::new(store, ENTRIES).flat_map(|row| {
        let read = row.and_then(|(key, value)| {
            serde_json::from_slice::<Vec<Entry>>(&value).map_err(|error| damaged(ENTRIES, &key, &error))
        });
        match read {
            Ok(entries) => entries.into_iter().map(Ok).collect::<Vec<_>>(),
            Err(error) => vec![Err(error)],
        }
    })
}

/// Every record that is stored. The first that cannot be read is told in `error`, and ends them.
pub(super) fn records(
    store: &Store,
    error: Arc<std::sync::Mutex<Option<StoreError>>>,
) -> impl Iterator<Item = Record> + use<> {
    let store = store.clone();
    let entries = entries(&store).map(|entry| entry.map(Record::Entry));
    let rest = TABLES.into_iter().flat_map(move |table| {
        Rows::new(&store, table).map(move |row| {
            let (key, value) = row?;
            serde_json::from_slice::<Record>(&value).map_err(|error| damaged(table, &key, &error))
        })
    });
    entries.chain(rest).map_while(move |record| {
        record.map_err(|failed| *error.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(failed)).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_table_of_several_pages_is_read_whole_and_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("s")).unwrap();
        let mut batch = Batch::new();
        let count = PAGE as u64 * 2;
        for n in 0..count {
            batch.put(ENTRIES, n.to_be_bytes(), "x");
        }
        store.commit(batch).await.unwrap();
        let keys: Vec<Vec<u8>> = Rows::new(&store, ENTRIES).map(|row| row.unwrap().0).collect();
        assert!(keys.iter().cloned().eq((0..count).map(|n| n.to_be_bytes().to_vec())));
    }

    #[tokio::test]
    async fn a_row_that_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("s")).unwrap();
        let mut batch = Batch::new();
        batch.put("ecash-log", 7_u64.to_be_bytes(), "{");
        store.commit(batch).await.unwrap();
        let error = Arc::default();
        assert_eq!(records(&store, Arc::clone(&error)).count(), 0);
        let error = error.lock().unwrap().clone().unwrap().to_string();
        assert!(error.contains("ecash-log, row 0000000000000007: "), "{error}");
    }
}
