//! Results on their way to vendors (A14): pulled from the transaction server, posted as they are,
//! acknowledged when the vendor has said so. Nothing is kept here but when to try again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, Method};
use cloakway_runtime::http::Client;
use cloakway_runtime::{Stop, clock, tls};
use cloakway_types::{Instant, VendorId};
use serde_json::{Value, json};
use transact_wire::result::{ID_HEADER, PurchaseResult, SIGNATURE_HEADER, SignedResult, TIMESTAMP_HEADER};

use crate::config::Config;
use crate::pages::Pages;
use crate::upstream::{Upstream, UpstreamError};

const POLL: Duration = Duration::from_secs(15);
const VENDOR_LIMIT: Duration = Duration::from_secs(10);
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// What is not acknowledged yet, for `show`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Deliveries(Arc<Mutex<BTreeMap<String, Retry>>>);

#[derive(Debug)]
struct Retry {
    vendor: VendorId,
    tries: u32,
    next: Instant,
    reason: String,
}

impl Deliveries {
    pub(crate) fn show(&self) -> Value {
        let retries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock::now();
        retries
            .iter()
            .map(|(id, retry)| {
                json!({"id": id, "vendor": retry.vendor, "tries": retry.tries,
                       "next_try_in_s": retry.next.since(now).as_secs(), "reason": retry.reason})
            })
            .collect()
    }

    fn next(&self) -> Option<Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().map(|retry| retry.next).min()
    }

    fn is_due(&self, id: &str, now: Instant) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(id).is_none_or(|retry| retry.next <= now)
    }

    fn failed(&self, result: &SignedResult, reason: String, now: Instant) {
        let mut retries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let retry = retries.entry(result.id.clone()).or_insert(Retry {
            vendor: result.vendor.clone(),
            tries: 0,
            next: now,
            reason: String::new(),
        });
        retry.next = now + LAST_RETRY.min(FIRST_RETRY * 2_u32.saturating_pow(retry.tries.min(16)));
        retry.tries += 1;
        retry.reason = reason;
        tracing::warn!(id = result.id, vendor = %result.vendor, tries = retry.tries, reason = retry.reason, "result not delivered");
    }

    fn done(&self, id: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

struct Courier {
    urls: BTreeMap<VendorId, String>,
    client: Client,
    upstream: Arc<Upstream>,
    pages: Arc<Pages>,
    deliveries: Deliveries,
}

/// Starts carrying results.
pub(crate) fn start(
    config: &Config,
    upstream: Arc<Upstream>,
    pages: Arc<Pages>,
    stop: Stop,
) -> Result<Deliveries, UpstreamError> {
    let client = Client::new(tls::client(&config.vendors_ca, None)?, None)?;
    let urls = config.vendors.iter().map(|vendor| (vendor.id.clone(), vendor.results_url.clone())).collect();
    let deliveries = Deliveries::default();
    let courier = Arc::new(Courier { urls, client, upstream, pages, deliveries: deliveries.clone() });
    tokio::spawn(async move {
        let mut cursor = 0;
        while !stop.is_told() {
            let retry = courier.deliveries.next();
            let (after, wait) = match retry {
                Some(at) if at <= clock::now() => (0, Duration::ZERO),
                Some(at) => (cursor, POLL.min(at.since(clock::now()))),
                None => (cursor, POLL),
            };
            let pulled = tokio::select! {
                () = stop.told() => return,
                pulled = courier.upstream.results(after, wait) => pulled,
            };
            match pulled {
                Ok(pending) => {
                    cursor = pending.cursor;
                    let due = pending.results.into_iter().filter(|r| courier.deliveries.is_due(&r.id, clock::now()));
                    let carried: Vec<_> = due.map(|result| tokio::spawn(courier.clone().carry(result))).collect();
                    for one in carried {
                        let _ = one.await;
                    }
                }
                Err(error) => {
                    cursor = 0;
                    tracing::warn!(%error, "results not pulled");
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        }
    });
    Ok(deliveries)
}

impl Courier {
    async fn carry(self: Arc<Self>, result: SignedResult) {
        match self.deliver(&result).await {
            Ok(()) => {
                self.deliveries.done(&result.id);
                metrics::counter!("cloakway_results_delivered_total").increment(1);
            }
            Err(reason) => {
                self.deliveries.failed(&result, reason, clock::now());
                metrics::counter!("cloakway_result_delivery_failures_total").increment(1);
            }
        }
    }

    async fn deliver(&self, result: &SignedResult) -> Result<(), String> {
        if let Ok(body) = serde_json::from_str::<PurchaseResult>(&result.body) {
            self.pages.spend(&body.vendor, &body.transaction_id).await.map_err(|e| e.to_string())?;
        }
        let url = self.urls.get(&result.vendor).ok_or("the vendor is not in the configuration")?;
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
            self.client.send(Method::POST, url, headers, body, VENDOR_LIMIT).await.map_err(|e| e.to_string())?;
        if !answer.status().is_success() {
            return Err(format!("the vendor answered {}", answer.status()));
        }
        self.upstream.acknowledge(vec![result.id.clone()]).await.map_err(|e| e.to_string())
    }
}
