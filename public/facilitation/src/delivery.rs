//! Results on their way to vendors (A14): pulled from the transaction server, posted as they are,
//! acknowledged when the vendor has said so. Nothing is kept here but when to try again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, Method};
use cloakway_runtime::http::Client;
use cloakway_runtime::outage::Outage;
use cloakway_runtime::{Stop, clock, tls};
use cloakway_types::{Instant, VendorId};
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore};
use transact_wire::result::{ID_HEADER, PurchaseResult, SIGNATURE_HEADER, SignedResult, TIMESTAMP_HEADER};

use crate::config::Config;
use crate::pages::Pages;
use crate::registry::Registry;
use crate::upstream::{Upstream, UpstreamError};

const POLL: Duration = Duration::from_secs(15);
const VENDOR_LIMIT: Duration = Duration::from_secs(10);
/// Deliveries at one time.
const AT_ONCE: usize = 256;
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// What is not acknowledged yet, for `show`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Deliveries(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// A flight ended, and there is more about its order.
    more: Notify,
}

#[derive(Debug, Default)]
struct State {
    retries: BTreeMap<String, Retry>,
    /// Orders about which a result is on its way: one flight an order, so that its results come in order.
    flying: BTreeMap<String, Flight>,
    /// Results were passed over because their order had a flight.
    missed: bool,
}

#[derive(Debug, Default)]
struct Flight {
    /// A later result of the order was seen meanwhile.
    more: bool,
}

#[derive(Debug)]
struct Retry {
    vendor: VendorId,
    /// What it is about: later results of it wait.
    about: String,
    tries: u32,
    next: Instant,
    reason: String,
}

impl Deliveries {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn show(&self) -> Value {
        let state = self.state();
        let now = clock::now();
        state
            .retries
            .iter()
            .map(|(id, retry)| {
                json!({"id": id, "vendor": retry.vendor, "tries": retry.tries,
                       "next_try_in_s": retry.next.since(now).as_secs(), "reason": retry.reason})
            })
            .collect()
    }

    /// When everything has to be looked through again, and whether at once.
    fn next(&self) -> Option<Instant> {
        let mut state = self.state();
        if std::mem::take(&mut state.missed) {
            return Some(clock::now());
        }
        let flying = &state.flying;
        state.retries.values().filter(|retry| !flying.contains_key(&retry.about)).map(|retry| retry.next).min()
    }

    /// Whether results about this order may go now; then they have to [`Deliveries::land`].
    fn take_off(&self, about: &str, first: &SignedResult, now: Instant) -> bool {
        let mut state = self.state();
        if let Some(flight) = state.flying.get_mut(about) {
            flight.more = true;
            return false;
        }
        let earlier = state.retries.iter().any(|(id, retry)| *id != first.id && retry.about == about);
        let due = match state.retries.get(&first.id) {
            Some(retry) => retry.next <= now,
            // An earlier result of the order is to be tried again first.
            None => !earlier,
        };
        if due {
            state.flying.insert(about.to_owned(), Flight::default());
        }
        due
    }

    fn land(&self, about: &str) {
        let mut state = self.state();
        let flight = state.flying.remove(about).unwrap_or_default();
        state.missed |= flight.more;
        drop(state);
        self.0.more.notify_one();
    }

    fn failed(&self, about: &str, result: &SignedResult, reason: String, now: Instant) {
        let mut state = self.state();
        let retry = state.retries.entry(result.id.clone()).or_insert(Retry {
            vendor: result.vendor.clone(),
            about: about.to_owned(),
            tries: 0,
            next: now,
            reason: String::new(),
        });
        retry.next = now + LAST_RETRY.min(FIRST_RETRY * 2_u32.saturating_pow(retry.tries.min(16)));
        retry.tries += 1;
        retry.reason = reason;
        tracing::warn!(id = result.id, vendor = %result.vendor, tries = retry.tries, reason = retry.reason, "result not delivered");
    }

    /// Ends a look through everything: what was due and is not there any more was acknowledged in the meantime.
    fn looked(&self, seen: &BTreeSet<String>, began: Instant) {
        let mut state = self.state();
        let State { retries, flying, .. } = &mut *state;
        retries.retain(|id, retry| seen.contains(id) || retry.next > began || flying.contains_key(&retry.about));
    }

    fn done(&self, id: &str) {
        self.state().retries.remove(id);
    }
}

/// The order that a result is about; one that cannot be read is about itself.
fn about(result: &SignedResult) -> String {
    match serde_json::from_str::<PurchaseResult>(&result.body) {
        Ok(body) => format!("{}/{}", body.vendor, body.transaction_id),
        Err(_) => result.id.clone(),
    }
}

struct Courier {
    registry: Arc<Registry>,
    client: Client,
    upstream: Arc<Upstream>,
    pages: Arc<Pages>,
    deliveries: Deliveries,
    at_once: Semaphore,
}

/// Starts carrying results.
pub(crate) fn start(
    config: &Config,
    registry: Arc<Registry>,
    upstream: Arc<Upstream>,
    pages: Arc<Pages>,
    stop: Stop,
) -> Result<Deliveries, UpstreamError> {
    let client = Client::new(tls::client(&config.vendors_ca, None)?, None)?;
    let deliveries = Deliveries::default();
    let courier = Arc::new(Courier {
        registry,
        client,
        upstream,
        pages,
        deliveries: deliveries.clone(),
        at_once: Semaphore::new(AT_ONCE),
    });
    tokio::spawn(async move {
        let mut cursor = 0;
        // Where a look through everything has come to; results come in pages.
        let mut look: Option<u64> = None;
        let (mut seen, mut began) = (BTreeSet::new(), clock::now());
        let mut outage = Outage::default();
        while !stop.is_told() {
            let (after, wait) = match (look, courier.deliveries.next()) {
                (Some(at), _) => (at, Duration::ZERO),
                (None, Some(at)) if at <= clock::now() => {
                    look = Some(0);
                    (seen, began) = (BTreeSet::new(), clock::now());
                    (0, Duration::ZERO)
                }
                (None, Some(at)) => (cursor, POLL.min(at.since(clock::now()))),
                (None, None) => (cursor, POLL),
            };
            let pulled = tokio::select! {
                () = stop.told() => return,
                () = courier.deliveries.0.more.notified(), if look.is_none() => continue,
                pulled = courier.upstream.results(after, wait) => pulled,
            };
            match pulled {
                Ok(pending) => {
                    if let Some(away) = outage.well(clock::now()) {
                        tracing::info!(away_s = away.as_secs(), "results are pulled again");
                    }
                    if look.is_some() {
                        look = Some(pending.cursor).filter(|_| !pending.results.is_empty());
                        seen.extend(pending.results.iter().map(|result| result.id.clone()));
                        if look.is_none() {
                            courier.deliveries.looked(&seen, began);
                        }
                    }
                    cursor = cursor.max(pending.cursor);
                    courier.send_off(pending.results);
                }
                Err(error) => {
                    (cursor, look) = (0, None);
                    if let Some(held_back) = outage.failed(clock::now()) {
                        tracing::warn!(%error, held_back, "results not pulled");
                    }
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        }
    });
    Ok(deliveries)
}

impl Courier {
    /// Results about different orders go side by side, so that a vendor who is slow keeps nobody else waiting; those
    /// about one order go behind each other.
    fn send_off(self: &Arc<Self>, results: Vec<SignedResult>) {
        let mut orders: BTreeMap<String, Vec<SignedResult>> = BTreeMap::new();
        for result in results {
            orders.entry(about(&result)).or_default().push(result);
        }
        for (about, results) in orders {
            let flies = results.first().is_some_and(|first| self.deliveries.take_off(&about, first, clock::now()));
            if flies {
                let courier = self.clone();
                tokio::spawn(async move {
                    courier.carry_all(&about, results).await;
                    courier.deliveries.land(&about);
                });
            }
        }
    }

    /// Delivers results about one order, up to the first that cannot be delivered now.
    async fn carry_all(&self, about: &str, results: Vec<SignedResult>) {
        for result in results {
            let permit = self.at_once.acquire().await;
            let delivered = self.deliver(&result).await;
            drop(permit);
            match delivered {
                Ok(()) => {
                    self.deliveries.done(&result.id);
                    metrics::counter!("cloakway_results_delivered_total").increment(1);
                }
                Err(reason) => {
                    self.deliveries.failed(about, &result, reason, clock::now());
                    metrics::counter!("cloakway_result_delivery_failures_total").increment(1);
                    return;
                }
            }
        }
    }

    async fn deliver(&self, result: &SignedResult) -> Result<(), String> {
        if let Ok(body) = serde_json::from_str::<PurchaseResult>(&result.body) {
            self.pages.spend(&body.vendor, &body.transaction_id).await.map_err(|e| e.to_string())?;
        }
        let url = self.registry.results_url(&result.vendor).ok_or("the vendor is not known")?;
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("content-type", "application/json"),
            (ID_HEADER, &result.id),
            (TIMESTAMP_HEADER, &result.timestamp_s.to_string()),
            (SIGNATURE_HEADER, &result.signature),
        ] {
            headers.insert(name, HeaderValue::from_str(value).map_err(|e| e.to_string())?);
        }
        let body = result.body.clone().into_bytes();
        let answer =
            self.client.send(Method::POST, &url, headers, body, VENDOR_LIMIT).await.map_err(|e| e.to_string())?;
        if !answer.status().is_success() {
            return Err(format!("the vendor answered {}", answer.status()));
        }
        self.upstream.acknowledge(vec![result.id.clone()]).await.map_err(|e| e.to_string())
    }
}
