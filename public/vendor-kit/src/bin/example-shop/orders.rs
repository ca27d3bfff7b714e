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
    /// The results that were acted on: a repeat, or an old delivery played again, changes nothing.
    #[serde(default)]
    pub(crate) results: Vec<String>,
    /// What was given back, in minor units.
    #[serde(default)]
    pub(crate) refunded_minor: u64,
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
            let first = !order.results.contains(&received.id);
            if first {
                order.results.push(received.id.clone());
            }
            if let Some(refund) = received.result.refund.as_ref().filter(|_| first)
                && received.result.verdict != Verdict::RefundFailed
            {
                order.refunded_minor += refund.amount.minor();
            }
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
            results: Vec::new(),
            refunded_minor: 0,
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
        for _ in 0..2 {
            // A refund, and the same delivery played again.
            let mut refund = received("refund", "o-1", 1250, Verdict::PartlyRefunded);
            let amount = Money::new(250, "EUR".parse().unwrap()).unwrap();
            refund.result.refund = Some(vendor_kit::RefundNote { refund_id: "r-1".parse().unwrap(), amount });
            assert_eq!(orders.decide(&refund).await.unwrap().refunded_minor, 250);
        }
        drop(orders);
        let orders = Orders::load(Store::open(&path).unwrap()).unwrap();
        let order = orders.get(&"o-1".parse().unwrap()).unwrap();
        assert_eq!((order.state, order.result_deliveries), (State::Paid, 4));
        assert_eq!((order.refunded_minor, order.results.len()), (250, 3));
    }
}
