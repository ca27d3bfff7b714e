//! The shop's pages.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Form, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use cloakway_crypto::{Randomness, System, encode};
use cloakway_runtime::clock;
use cloakway_runtime::http::{Peer, Refusal};
use serde::Deserialize;
use vendor_kit::{Facilitation, OrderError, Receiver, Reference, TransactionId};

use crate::config::Config;
use crate::orders::{DecideError, Order, Orders, State as Paid};

#[derive(Clone)]
pub(crate) struct Shop {
    pub(crate) config: Arc<Config>,
    pub(crate) orders: Arc<Orders>,
    pub(crate) facilitation: Facilitation,
    pub(crate) receiver: Receiver,
}

pub(crate) fn router(shop: Shop) -> Router {
    Router::new()
        .route("/", get(catalogue))
        .route("/buy", post(buy))
        .route("/orders/{order}", get(order))
        .route("/cloakway/results", post(results))
        .with_state(shop)
}

async fn catalogue(State(shop): State<Shop>) -> Html<String> {
    let items = shop.config.items.iter().map(|item| {
        format!(
            "<li><form method=\"post\" action=\"/buy\">{} — {} <button name=\"item\" value=\"{}\" id=\"buy-{}\">Buy</button></form></li>",
            escape(&item.title), item.price, escape(&item.id), escape(&item.id)
        )
    });
    Html(format!(
        "<!doctype html><html lang=\"en\"><title>Example Shop</title><h1>Example Shop</h1><ul>{}</ul></html>",
        items.collect::<String>()
    ))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Buy {
    item: String,
}

async fn buy(
    State(shop): State<Shop>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    Form(form): Form<Buy>,
) -> Result<Response, Refusal> {
    let item = shop.config.items.iter().find(|item| item.id == form.item).ok_or_else(|| {
        Refusal::new(StatusCode::NOT_FOUND, "unknown_item", "the shop does not sell this").field("item")
    })?;
    let mut random = [0; 12];
    System.fill(&mut random);
    let unavailable = |error: String| {
        tracing::error!(%error, "order not taken");
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the shop cannot take orders now")
    };
    let id: TransactionId = format!("o-{}", encode::hex(&random)).parse().map_err(|e| unavailable(format!("{e}")))?;
    let order = Order {
        order: id.clone(),
        item: item.id.clone(),
        client: Some(peer.address),
        amount: item.price,
        state: Paid::Waiting,
        verdict: None,
        result_id: None,
        result_deliveries: 0,
        results: Vec::new(),
        refunded_minor: 0,
    };
    shop.orders.add(order).await.map_err(|e| unavailable(e.to_string()))?;
    let posted = vendor_kit::Order {
        reference: Reference::TransactionId(id.clone()),
        amount: item.price,
        client_ip: peer.address.ip(),
        description: item.title.clone(),
    };
    let accepted = shop.facilitation.order(&posted).await.map_err(|error| match error {
        OrderError::NotMemberIsp => Refusal::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "not_member_isp",
            "your provider is not a member: please pay by invoice",
        ),
        other => unavailable(other.to_string()),
    })?;
    if headers.get(header::ACCEPT).is_some_and(|accept| accept.as_bytes() == b"application/json") {
        return Ok(
            Json(serde_json::json!({"order": id, "pay_url": accepted.pay_url, "client": peer.address})).into_response()
        );
    }
    Ok(Redirect::to(&accepted.pay_url).into_response())
}

async fn order(State(shop): State<Shop>, Path(id): Path<String>) -> Result<Json<Order>, Refusal> {
    let known = id.parse().ok().and_then(|id| shop.orders.get(&id));
    // Whoever has the number of an order need not know whence it came.
    let known = known.map(|order| Order { client: None, ..order });
    known.map(Json).ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "unknown_order", "there is no such order"))
}

async fn results(State(shop): State<Shop>, headers: HeaderMap, body: Bytes) -> Result<StatusCode, Refusal> {
    let received = shop
        .receiver
        .receive(&headers, &body, clock::wall())
        .map_err(|e| Refusal::new(StatusCode::BAD_REQUEST, "not_believed", e.to_string()))?;
    match shop.orders.decide(&received).await {
        Ok(order) => {
            tracing::info!(order = %order.order, state = ?order.state, deliveries = order.result_deliveries, "result");
            Ok(StatusCode::NO_CONTENT)
        }
        Err(DecideError::Unknown) => {
            Err(Refusal::new(StatusCode::NOT_FOUND, "unknown_order", "there is no such order"))
        }
        Err(DecideError::Amount) => {
            Err(Refusal::new(StatusCode::CONFLICT, "amount", "the amount is not the order's").field("amount"))
        }
        Err(DecideError::Store(error)) => {
            tracing::error!(%error, "result not stored");
            Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the result cannot be stored now"))
        }
    }
}
