//! The shop's orders: stored before they are posted, decided once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use cloakway_store::{Batch, Store, StoreError};
use serde::{Deserialize, Serialize};
use vendor_kit::{Money, Received, TransactionId, Verdict};

const TABLE: &str = "orders";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    Waiting,
    Paid,
    Refused,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) order: TransactionId,
    pub(crate) item: String,
    /// Whence the client came, which is what its ISP's toolbox can be asked about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) client: Option<SocketAddr>,
    pub(crate) amount: Money,
    pub(crate) state: State,
    pub(crate) verdict: Option<Verdict>,
    pub(crate) result_id: Option<String>,
    pub(crate) result_deliveries: u32,
}

/// Why a believed result does not fit the shop's books.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DecideError {
    #[error("no such order")]
    Unknown,
    #[error("the result is for another amount than the order")]
    Amount,
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug)]
pub(crate) struct Orders {
    store: Store,
    orders: Mutex<BTreeMap<TransactionId, Order>>,
}

impl Orders {
    pub(crate) fn load(store: Store) -> Result<Self, StoreError> {
        let mut orders = BTreeMap::new();
        for (key, row) in store.scan(TABLE)? {
            let order: Order = serde_json::from_slice(&row)
                .map_err(|error| StoreError::Read(format!("order {}: {error}", String::from_utf8_lossy(&key))))?;
            orders.insert(order.order.clone(), order);
        }
        Ok(Self { store, orders: Mutex::new(orders) })
    }

    pub(crate) fn get(&self, order: &TransactionId) -> Option<Order> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).get(order).cloned()
    }

    pub(crate) fn list(&self) -> Vec<Order> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Stores an order before anybody hears of it.
    pub(crate) async fn add(&self, order: Order) -> Result<(), StoreError> {
        self.put(order).await
    }

    /// Takes a result: the first decides the order, its repeats are counted.
    pub(crate) async fn decide(&self, received: &Received) -> Result<Order, DecideError> {
        let changed = {
            let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
            let order = orders.get_mut(&received.result.transaction_id).ok_or(DecideError::Unknown)?;
            if order.amount != received.result.amount {
                return Err(DecideError::Amount);
            }
            order.result_deliveries += 1;
            if order.result_id.is_none() && received.result.refund.is_none() {
                order.result_id = Some(received.id.clone());
                order.verdict = Some(received.result.verdict);
                order.state = if received.result.verdict == Verdict::Approved { State::Paid } else { State::Refused };
            }
            order.clone()
        };
        self.put(changed.clone()).await?;
        Ok(changed)
    }

    async fn put(&self, order: Order) -> Result<(), StoreError> {
        let row = serde_json::to_vec(&order).map_err(|error| StoreError::Write(error.to_string()))?;
        let mut batch = Batch::new();
        batch.put(TABLE, order.order.as_str().as_bytes(), row);
        self.store.commit(batch).await?;
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).insert(order.order.clone(), order);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vendor_kit::{PurchaseResult, Timestamp};

    fn received(id: &str, order: &str, minor: u64, verdict: Verdict) -> Received {
        let result = PurchaseResult {
            vendor: "shop".parse().unwrap(),
            transaction_id: order.parse().unwrap(),
            temporary_id: None,
            amount: Money::new(minor, "EUR".parse().unwrap()).unwrap(),
            verdict,
            decided_at: Timestamp::from_secs(1),
            refund: None,
        };
        Received { id: id.to_owned(), result }
    }

    #[tokio::test]
    async fn the_first_result_decides_its_repeats_are_counted_and_a_restart_forgets_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders");
        let orders = Orders::load(Store::open(&path).unwrap()).unwrap();
        let order = Order {
            order: "o-1".parse().unwrap(),
            item: "book".to_owned(),
            client: None,
            amount: Money::new(1250, "EUR".parse().unwrap()).unwrap(),
            state: State::Waiting,
            verdict: None,
            result_id: None,
            result_deliveries: 0,
        };
        orders.add(order).await.unwrap();
        assert!(matches!(
            orders.decide(&received("r", "o-2", 1250, Verdict::Approved)).await,
            Err(DecideError::Unknown)
        ));
        assert!(matches!(orders.decide(&received("r", "o-1", 1, Verdict::Approved)).await, Err(DecideError::Amount)));
        assert_eq!(orders.get(&"o-1".parse().unwrap()).unwrap().state, State::Waiting);
        let approved = received("r", "o-1", 1250, Verdict::Approved);
        assert_eq!(orders.decide(&approved).await.unwrap().state, State::Paid);
        assert_eq!(orders.decide(&received("other", "o-1", 1250, Verdict::Declined)).await.unwrap().state, State::Paid);
        drop(orders);
        let orders = Orders::load(Store::open(&path).unwrap()).unwrap();
        let order = orders.get(&"o-1".parse().unwrap()).unwrap();
        assert_eq!((order.state, order.result_deliveries), (State::Paid, 2));
    }
}
