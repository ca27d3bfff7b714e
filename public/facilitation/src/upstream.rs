//! The transaction server, as facilitation sees it: a few calls over mutual TLS (A8).

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, Method, StatusCode};
use cloakway_runtime::http::{Client, ClientError};
use cloakway_runtime::tls::{self, TlsError};
use transact_wire::after::{OrderName, OrderStatus, RefundPlacement, RefundReceipt};
use transact_wire::order::{Issued, Placement};
use transact_wire::result::{Acknowledgement, Pending};

use crate::config::Config;

const LIMIT: Duration = Duration::from_secs(10);
/// A refund is answered when the bank has answered.
const BANK_LIMIT: Duration = Duration::from_secs(45);

/// Why a call did not do what it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The server's own refusal, passed on.
    #[error("refused with {status}: {body}")]
    Refused { status: StatusCode, body: String },
    #[error("the answer is not understood: {0}")]
    Answer(String),
}

#[derive(Debug)]
pub(crate) struct Upstream {
    client: Client,
    url: String,
    last: Mutex<Option<String>>,
}

impl Upstream {
    pub(crate) fn new(config: &Config) -> Result<Self, UpstreamError> {
        let upstream = &config.upstream;
        let tls = tls::client(&upstream.ca, Some(&upstream.identity))?;
        Ok(Self { client: Client::new(tls, Some(&upstream.name))?, url: upstream.url.clone(), last: Mutex::new(None) })
    }

    /// `reachable`, or why the last call failed.
    pub(crate) fn state(&self) -> String {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_else(|| "reachable".to_owned())
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        limit: Duration,
    ) -> Result<axum::body::Bytes, UpstreamError> {
        let url = format!("{}{path}", self.url);
        let answer = self.client.send(method, &url, HeaderMap::new(), body, limit).await;
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = answer.as_ref().err().map(ToString::to_string);
        let answer = answer?;
        if answer.status().is_success() {
            return Ok(answer.into_body());
        }
        let body = String::from_utf8_lossy(answer.body()).into_owned();
        Err(UpstreamError::Refused { status: answer.status(), body })
    }

    pub(crate) async fn place(&self, placement: &Placement) -> Result<Issued, UpstreamError> {
        let body = serde_json::to_vec(placement).map_err(|e| UpstreamError::Answer(e.to_string()))?;
        let answer = self.call(Method::POST, "/v1/orders", body, LIMIT).await?;
        // The answer holds the password: the error must not quote it.
        serde_json::from_slice(&answer).map_err(|_| UpstreamError::Answer("not the body of an issued order".to_owned()))
    }

    pub(crate) async fn status(&self, name: &OrderName) -> Result<OrderStatus, UpstreamError> {
        self.ask("/v1/orders/status", name, LIMIT).await
    }

    pub(crate) async fn cancel(&self, name: &OrderName) -> Result<OrderStatus, UpstreamError> {
        self.ask("/v1/orders/cancel", name, LIMIT).await
    }

    pub(crate) async fn refund(&self, placement: &RefundPlacement) -> Result<RefundReceipt, UpstreamError> {
        self.ask("/v1/orders/refund", placement, BANK_LIMIT).await
    }

    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        body: &impl serde::Serialize,
        limit: Duration,
    ) -> Result<T, UpstreamError> {
        let body = serde_json::to_vec(body).map_err(|e| UpstreamError::Answer(e.to_string()))?;
        let answer = self.call(Method::POST, path, body, limit).await?;
        serde_json::from_slice(&answer).map_err(|e| UpstreamError::Answer(e.to_string()))
    }

    /// Results after `cursor`; waits up to `wait` for one.
    pub(crate) async fn results(&self, cursor: u64, wait: Duration) -> Result<Pending, UpstreamError> {
        let path = format!("/v1/results?after={cursor}&wait_ms={}", wait.as_millis());
        let answer = self.call(Method::GET, &path, Vec::new(), wait + LIMIT).await?;
        serde_json::from_slice(&answer).map_err(|e| UpstreamError::Answer(e.to_string()))
    }

    pub(crate) async fn acknowledge(&self, ids: Vec<String>) -> Result<(), UpstreamError> {
        let body = serde_json::to_vec(&Acknowledgement { ids }).map_err(|e| UpstreamError::Answer(e.to_string()))?;
        self.call(Method::POST, "/v1/results/ack", body, LIMIT).await.map(drop)
    }
}
