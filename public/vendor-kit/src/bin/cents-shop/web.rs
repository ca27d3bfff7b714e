//! What the shop answers: its items, offers, payments, and how an order stands.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use cloakway_crypto::{Randomness, System, encode};
use cloakway_runtime::http::Refusal;
use ecash_wallet::wire::value::{OrderId, Value as _};
use serde_json::{Value, json};
use vendor_kit::ecash::Till;

use crate::config::Item;

#[derive(Debug, Clone)]
pub(crate) struct Shop {
    pub(crate) items: Arc<Vec<Item>>,
    pub(crate) till: Till,
}

pub(crate) fn router(shop: Shop) -> Router {
    Router::new()
        .route("/", get(catalogue))
        .route("/offers/{item}", post(offer))
        .route("/pay", post(pay))
        .route("/orders/{order}", get(order))
        .with_state(shop)
}

fn message(bytes: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"))], bytes).into_response()
}

fn unavailable(error: impl std::fmt::Display) -> Refusal {
    tracing::error!(%error, "the till does not answer");
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the shop cannot sell now")
}

async fn catalogue(State(shop): State<Shop>) -> Json<Value> {
    let items = shop.items.iter().map(|item| {
        json!({"id": item.id, "title": item.title, "price": item.price.to_string(), "offer": format!("/offers/{}", item.id)})
    });
    Json(json!({"items": items.collect::<Vec<_>>()}))
}

async fn offer(State(shop): State<Shop>, Path(id): Path<String>) -> Result<Response, Refusal> {
    let item = shop.items.iter().find(|item| item.id == id);
    let item =
        item.ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "unknown_item", "the shop does not sell this"))?;
    let mut random = [0; 12];
    System.fill(&mut random);
    let order = OrderId::read(&format!("c-{}", encode::hex(&random))).map_err(unavailable)?;
    shop.till.offer(order, item.price, &item.title).await.map(message).map_err(unavailable)
}

/// A payment comes in, and its receipt goes out. 202: it is not decided yet; the same may be sent again.
async fn pay(State(shop): State<Shop>, body: Bytes) -> Response {
    match shop.till.take(body.to_vec()).await {
        Some(receipt) => message(receipt),
        None => StatusCode::ACCEPTED.into_response(),
    }
}

async fn order(State(shop): State<Shop>, Path(id): Path<String>) -> Result<Json<Value>, Refusal> {
    let unknown = || Refusal::new(StatusCode::NOT_FOUND, "unknown_order", "there is no such order");
    let order = OrderId::read(&id).map_err(|_| unknown())?;
    let paid = shop.till.order(order).await.map_err(unavailable)?.ok_or_else(unknown)?;
    Ok(Json(json!({"order": id, "state": paid})))
}
