//! What facilitation can ask, over mutual TLS through the firewall (A8, A9, A14).

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use cloakway_runtime::http::{Refusal, json};
use serde::Deserialize;
use transact_core::PlaceError;
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
