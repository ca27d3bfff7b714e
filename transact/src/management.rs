//! What facilitation can ask, over mutual TLS through the firewall (A8, A9, A14).

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use cloakway_runtime::http::{Query, Refusal, json};
use serde::Deserialize;
use transact_core::{CancelError, Known, PlaceError, RefundError};
use transact_wire::after::{OrderName, OrderStatus, RefundPlacement, RefundReceipt};
use transact_wire::order::{Issued, Placement};
use transact_wire::result::{Acknowledgement, Pending};

use crate::engine::{Engine, EngineError};
use crate::outbox::Outbox;

/// The longest that a question for results waits.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
struct Api {
    engine: Engine,
    outbox: Arc<Outbox>,
}

pub(crate) fn router(engine: Engine, outbox: Arc<Outbox>) -> Router {
    Router::new()
        .route("/v1/orders", post(place))
        .route("/v1/orders/status", post(status))
        .route("/v1/orders/cancel", post(cancel))
        .route("/v1/orders/refund", post(refund))
        .route("/v1/results", get(results))
        .route("/v1/results/ack", post(acknowledge))
        .with_state(Api { engine, outbox })
}

fn unavailable(error: EngineError) -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", error.to_string())
}

async fn place(State(api): State<Api>, body: Bytes) -> Result<Json<Issued>, Refusal> {
    let placement: Placement = json(&body)?;
    api.engine.place(placement).await.map_err(unavailable)?.map(Json).map_err(|error| {
        let (status, code, field) = match &error {
            PlaceError::Field { field, .. } => (StatusCode::BAD_REQUEST, "invalid_field", Some(*field)),
            PlaceError::UnknownIsp(_) => (StatusCode::UNPROCESSABLE_ENTITY, "unknown_isp", Some("isp")),
            PlaceError::NoAddress(_) => (StatusCode::UNPROCESSABLE_ENTITY, "no_address", Some("order.client_ip")),
            PlaceError::Conflict => (StatusCode::CONFLICT, "conflict", Some("order.reference")),
            PlaceError::TooMany => (StatusCode::SERVICE_UNAVAILABLE, "too_many_orders", None),
        };
        let refusal = Refusal::new(status, code, error.to_string());
        match field {
            Some(field) => refusal.field(field),
            None => refusal,
        }
    })
}

async fn status(State(api): State<Api>, body: Bytes) -> Result<Json<OrderStatus>, Refusal> {
    let name: OrderName = json(&body)?;
    told(&api, api.engine.status(name).await.map_err(unavailable)?)
}

async fn cancel(State(api): State<Api>, body: Bytes) -> Result<Json<OrderStatus>, Refusal> {
    let name: OrderName = json(&body)?;
    told(&api, api.engine.cancel(name).await.map_err(unavailable)?)
}

/// Where the order stands, with its results signed now.
fn told(api: &Api, answer: Result<Box<Known>, CancelError>) -> Result<Json<OrderStatus>, Refusal> {
    match answer {
        Ok(known) => {
            let Known { mut status, results } = *known;
            for (id, result) in results {
                let signed = api.outbox.sign(&id, &result);
                let signed =
                    signed.map_err(|e| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "result", e.to_string()))?;
                status.results.push(signed);
            }
            Ok(Json(status))
        }
        Err(error @ CancelError::Unknown) => {
            Err(Refusal::new(StatusCode::NOT_FOUND, "unknown_order", error.to_string()))
        }
        Err(error @ CancelError::Busy) => Err(Refusal::new(StatusCode::CONFLICT, "busy", error.to_string())),
        Err(error @ CancelError::Decided(_)) => Err(Refusal::new(StatusCode::CONFLICT, "decided", error.to_string())),
    }
}

async fn refund(State(api): State<Api>, body: Bytes) -> Result<Json<RefundReceipt>, Refusal> {
    let placement: RefundPlacement = json(&body)?;
    api.engine.refund(placement).await.map_err(unavailable)?.map(Json).map_err(|error| {
        let (status, code, field) = match &error {
            RefundError::Unknown => (StatusCode::NOT_FOUND, "unknown_order", None),
            RefundError::Conflict => (StatusCode::CONFLICT, "conflict", Some("refund_id")),
            RefundError::NotPaid(_) => (StatusCode::CONFLICT, "not_paid", None),
            RefundError::Busy => (StatusCode::CONFLICT, "busy", None),
            RefundError::TooMuch { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "too_much", Some("amount")),
            RefundError::TooMany => (StatusCode::UNPROCESSABLE_ENTITY, "too_many_refunds", None),
            RefundError::BankUnreachable => (StatusCode::SERVICE_UNAVAILABLE, "bank_unreachable", None),
        };
        let refusal = Refusal::new(status, code, error.to_string());
        match field {
            Some(field) => refusal.field(field),
            None => refusal,
        }
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pull {
    after: u64,
    wait_ms: u64,
}

async fn results(State(api): State<Api>, Query(pull): Query<Pull>) -> Result<Json<Pending>, Refusal> {
    let wait = Duration::from_millis(pull.wait_ms).min(LONGEST_WAIT);
    let pending = api.outbox.pull(pull.after, wait).await;
    pending.map(Json).map_err(|e| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "result", e.to_string()))
}

async fn acknowledge(State(api): State<Api>, body: Bytes) -> Result<StatusCode, Refusal> {
    let acknowledgement: Acknowledgement = json(&body)?;
    api.engine.acknowledge(acknowledgement.ids).await.map_err(unavailable)?;
    Ok(StatusCode::NO_CONTENT)
}
