//! What strangers can ask: vendors post orders, payers get pages. Nothing else is here.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{self, Query};
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::{get, post};
use cloakway_runtime::clock;
use cloakway_runtime::http::{Refusal, json};
use serde::Deserialize;
use transact_wire::order::{Accepted, Order, Placement};
use transact_wire::payment::Page;

use crate::config::Config;
use crate::isp::Finder;
use crate::pages::{Direct, Pages};
use crate::registry::{Known, Registry};
use crate::upstream::{Upstream, UpstreamError};
use crate::{after, page};

#[derive(Clone)]
pub(crate) struct State {
    pub(crate) config: Arc<Config>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) pages: Arc<Pages>,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) finder: Finder,
}

pub(crate) fn router(state: State) -> Router {
    Router::new()
        .route("/v1/orders", post(order))
        .route("/v1/orders/{id}", get(after::status))
        .route("/v1/orders/{id}/cancel", post(after::cancel))
        .route("/v1/orders/{id}/refunds", post(after::refund))
        .route("/p/{token}", get(page::page))
        .route("/c/{claim}", get(page::claim))
        .fallback(page::nothing)
        .with_state(state)
}

/// What stands behind the order's path.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hand {
    /// The vendor is not given the page's URL: its client comes for the URL, or for the page, itself (A10).
    direct: Option<Direct>,
}

/// `POST /v1/orders` (A6): an order in, a page's URL out.
async fn order(
    extract::State(state): extract::State<State>,
    hand: Result<Query<Hand>, QueryRejection>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<axum::Json<Accepted>, Refusal> {
    let vendor = authenticate(&state, &headers)?;
    let Query(hand) = hand.map_err(|_| {
        Refusal::new(
            StatusCode::BAD_REQUEST,
            "invalid_field",
            "direct is url or page, and nothing else may stand there",
        )
        .field("direct")
    })?;
    let order: Order = json(&body)?;
    order
        .check()
        .map_err(|(field, reason)| Refusal::new(StatusCode::BAD_REQUEST, "invalid_field", reason).field(field))?;
    let Some(isp) = state.finder.find(order.client_ip).await else {
        metrics::counter!("cloakway_orders_total", "outcome" => "not_member_isp").increment(1);
        return Err(Refusal::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "not_member_isp",
            "this client is not on a member ISP: offer another way to pay",
        )
        .field("client_ip"));
    };
    let placement = Placement { vendor: vendor.id.clone(), isp, order };
    let issued = state.upstream.place(&placement).await.map_err(refused)?;
    let host = match (state.config.private_names.get(&issued.address), issued.address) {
        (Some(name), _) => name.clone(),
        (None, std::net::IpAddr::V4(address)) => address.to_string(),
        (None, std::net::IpAddr::V6(address)) => format!("[{address}]"),
    };
    let private_origin =
        if issued.port == 443 { format!("https://{host}") } else { format!("https://{host}:{}", issued.port) };
    let client = placement.order.client_ip;
    let page = Page {
        vendor: vendor.id.clone(),
        payee: vendor.name.clone(),
        description: placement.order.description,
        amount: placement.order.amount,
        amount_text: placement.order.amount.to_string(),
        transaction_id: issued.transaction_id.clone(),
        password: issued.password,
        private_origin,
        expires_at: issued.expires_at,
    };
    let kept = async {
        let token = state.pages.keep(&page).await?;
        Ok::<_, crate::pages::PageError>(match hand.direct {
            None => format!("{}/p/{}", state.config.public_url, token.expose()),
            Some(direct) => {
                let claim = state.pages.keep_claim(&page, token, client, direct).await?;
                format!("{}/c/{}", state.config.public_url, claim.expose())
            }
        })
    };
    let pay_url = kept.await.map_err(|error| {
        tracing::error!(%error, "page not kept");
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the page cannot be kept now: try again")
    })?;
    metrics::counter!("cloakway_orders_total", "outcome" => "accepted").increment(1);
    Ok(axum::Json(Accepted { transaction_id: issued.transaction_id, pay_url, expires_at: issued.expires_at }))
}

pub(crate) fn authenticate(state: &State, headers: &HeaderMap) -> Result<Known, Refusal> {
    let key = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    key.and_then(|key| state.registry.authenticate(key, clock::wall())).ok_or_else(|| {
        metrics::counter!("cloakway_orders_total", "outcome" => "unknown_vendor").increment(1);
        Refusal::new(StatusCode::UNAUTHORIZED, "unknown_vendor", "send Authorization: Bearer with your vendor key")
    })
}

/// The transaction server's refusals, as the vendor can act on them.
fn refused(error: UpstreamError) -> Refusal {
    let code = match &error {
        UpstreamError::Refused { body, .. } => {
            let body: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
            body.pointer("/error/code").and_then(|code| code.as_str()).unwrap_or_default().to_owned()
        }
        _ => String::new(),
    };
    match code.as_str() {
        "conflict" => {
            Refusal::new(StatusCode::CONFLICT, "conflict", "this id was used for another order: choose a new one")
                .field("reference")
        }
        "no_address" => Refusal::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "no_private_address",
            "this client's ISP has no private path for its address family: offer another way to pay",
        )
        .field("client_ip"),
        _ => {
            tracing::warn!(%error, "order not placed");
            metrics::counter!("cloakway_orders_total", "outcome" => "unavailable").increment(1);
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "payment is not available now: try again")
        }
    }
}
