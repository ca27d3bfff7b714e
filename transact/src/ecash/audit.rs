//! The proof of the books: every stored movement of money is carried out again on empty books, which have to end with the
//! balances that are held.

use cloakway_store::{Store, StoreError};
use serde_json::{Value, json};
use transact_ecash::ledger::{AuditError, Audited, Books};

use super::engine::Snapshot;
use super::rows;

/// Why the books are not proven.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuditFailed {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the books are NOT proven: {0}")]
    Books(#[from] AuditError),
    #[error("the books are NOT proven: in {currency} all accounts sum to {sum} and not to zero")]
    Sum { currency: String, sum: i128 },
}

fn replay(store: &Store, most: u64) -> Result<Books, AuditFailed> {
    let mut books = Books::default();
    for entry in rows::entries(store) {
        let entry = entry?;
        if entry.number > most {
            break;
        }
        books.replay(&entry)?;
    }
    Ok(books)
}

fn told(books: &Books, audited: &Audited) -> Result<Value, AuditFailed> {
    if let Some((currency, sum)) = books.sums().into_iter().find(|(_, sum)| *sum != 0) {
        return Err(AuditFailed::Sum { currency: currency.code().to_owned(), sum });
    }
    let rows = audited.clearing.keys().chain(audited.client_money.keys()).chain(audited.fees.keys());
    let currencies: std::collections::BTreeSet<_> = rows.collect();
    let minor = |sums: &std::collections::BTreeMap<_, i128>, currency| {
        i64::try_from(sums.get(currency).copied().unwrap_or(0)).unwrap_or(i64::MAX)
    };
    let rows = currencies.into_iter().map(|currency| {
        json!({
            "currency": currency.code(),
            "clients_minor": minor(&audited.client_money, currency),
            "fees_minor": minor(&audited.fees, currency),
            "clearing_minor": minor(&audited.clearing, currency),
            "sum_minor": 0,
        })
    });
    Ok(json!({"proven": true, "entries": audited.entries, "currencies": rows.collect::<Vec<_>>()}))
}

/// Holds the balances of the running server against what is on its disk.
pub(crate) fn of_the_running(snapshot: &Snapshot) -> Result<Value, AuditFailed> {
    let proved = replay(&snapshot.store, snapshot.books.entries())?;
    let audited = snapshot.books.hold_against(&proved)?;
    told(&proved, &audited)
}

/// Proves what a server that is not running left: each movement follows the one before, makes and loses nothing, and
/// takes from nobody what was not there.
pub(crate) fn of_the_store(store: &Store) -> Result<Value, AuditFailed> {
    let proved = replay(store, u64::MAX)?;
    let audited = proved.hold_against(&proved)?;
    told(&proved, &audited)
}
