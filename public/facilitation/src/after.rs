//! What a vendor asks about an order that it placed: where it stands, to cancel it, to give money back.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use cloakway_runtime::http::{Refusal, json};
use cloakway_types::{TransactionId, VendorId};
use transact_wire::after::{OrderName, OrderStatus, RefundOrder, RefundPlacement, RefundReceipt};

use crate::api::{self, authenticate};
use crate::upstream::UpstreamError;

/// The order that a URL names: an id that cannot be one is of no order.
fn name(vendor: &VendorId, id: &str) -> Result<OrderName, Refusal> {
    let transaction_id: TransactionId = id.parse().map_err(|_| unknown())?;
    Ok(OrderName { vendor: vendor.clone(), transaction_id })
}

fn unknown() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "unknown_order", "there is no such order")
}

/// `GET /v1/orders/ID`: where the order stands, with its results as they would be delivered now.
pub(crate) async fn status(
    State(state): State<api::State>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Json<OrderStatus>, Refusal> {
    let name = name(&authenticate(&state, &headers)?.id, &id)?;
    state.upstream.status(&name).await.map(Json).map_err(refused)
}

/// `POST /v1/orders/ID/cancel`: closes it, if nobody has paid.
pub(crate) async fn cancel(
    State(state): State<api::State>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Json<OrderStatus>, Refusal> {
    let name = name(&authenticate(&state, &headers)?.id, &id)?;
    state.upstream.cancel(&name).await.map(Json).map_err(refused)
}

/// `POST /v1/orders/ID/refunds`: gives money back.
pub(crate) async fn refund(
    State(state): State<api::State>,
    headers: HeaderMap,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Json<RefundReceipt>, Refusal> {
    let order = name(&authenticate(&state, &headers)?.id, &id)?;
    let refund: RefundOrder = json(&body)?;
    state.upstream.refund(&RefundPlacement { order, refund }).await.map(Json).map_err(refused)
}

/// The transaction server's refusals, with its words: they are about the vendor's own order.
fn refused(error: UpstreamError) -> Refusal {
    let said: serde_json::Value = match &error {
        UpstreamError::Refused { body, .. } => serde_json::from_str(body).unwrap_or_default(),
        _ => serde_json::Value::Null,
    };
    let text = |name: &str| said.pointer(&format!("/error/{name}")).and_then(|v| v.as_str()).unwrap_or_default();
    let message = text("message").to_owned();
    match text("code") {
        "unknown_order" => unknown(),
        "busy" => Refusal::new(StatusCode::CONFLICT, "busy", message),
        "decided" => Refusal::new(StatusCode::CONFLICT, "decided", message),
        "not_paid" => Refusal::new(StatusCode::CONFLICT, "not_paid", message),
        "conflict" => Refusal::new(StatusCode::CONFLICT, "conflict", message).field("refund_id"),
        "too_much" => Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "too_much", message).field("amount"),
        "too_many_refunds" => Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "too_many_refunds", message),
        "bank_unreachable" => Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "bank_unreachable", message),
        _ => {
            tracing::warn!(%error, "question about an order not answered");
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "not available now: try again")
        }
    }
}
