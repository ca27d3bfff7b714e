//! What strangers can ask: vendors post orders, payers get pages. Nothing else is here.

use std::sync::Arc;

use askama::Template;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{self, Path};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use cloakway_crypto::ct_eq;
use cloakway_crypto::encode::base64;
use cloakway_crypto::hash::sha256;
use cloakway_runtime::clock;
use cloakway_runtime::http::{Refusal, json};
use transact_wire::order::{Accepted, Order, Placement};
use transact_wire::payment::Page;

use crate::after;
use crate::config::{Config, Vendor};
use crate::isp::Finder;
use crate::pages::Pages;
use crate::upstream::{Upstream, UpstreamError};

const SCRIPT: &str = include_str!("../templates/page.js");
const STYLE: &str = include_str!("../templates/page.css");

#[derive(Clone)]
pub(crate) struct State {
    pub(crate) config: Arc<Config>,
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
        .route("/p/{token}", get(page))
        .fallback(|| async { unavailable(false) })
        .with_state(state)
}

/// `POST /v1/orders` (A6): an order in, a page's URL out.
async fn order(
    extract::State(state): extract::State<State>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<axum::Json<Accepted>, Refusal> {
    let vendor = authenticate(&state.config, &headers)?;
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
    let host = match issued.address {
        std::net::IpAddr::V4(address) => address.to_string(),
        std::net::IpAddr::V6(address) => format!("[{address}]"),
    };
    let private_origin =
        if issued.port == 443 { format!("https://{host}") } else { format!("https://{host}:{}", issued.port) };
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
    let token = state.pages.keep(&page).await.map_err(|error| {
        tracing::error!(%error, "page not kept");
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the page cannot be kept now: try again")
    })?;
    metrics::counter!("cloakway_orders_total", "outcome" => "accepted").increment(1);
    Ok(axum::Json(Accepted {
        transaction_id: issued.transaction_id,
        pay_url: format!("{}/p/{}", state.config.public_url, token.expose()),
        expires_at: issued.expires_at,
    }))
}

pub(crate) fn authenticate<'c>(config: &'c Config, headers: &HeaderMap) -> Result<&'c Vendor, Refusal> {
    let key = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let digest = sha256(&[key.unwrap_or_default().as_bytes()]);
    // All of them are compared, so that the time does not tell which one matched.
    let found = config.vendors.iter().fold(
        None,
        |found, vendor| {
            if ct_eq(&vendor.key_sha256, &digest) { Some(vendor) } else { found }
        },
    );
    found.filter(|_| key.is_some()).ok_or_else(|| {
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

#[derive(Template)]
#[template(path = "page.html")]
struct PageView<'p> {
    page: &'p Page,
    script: &'static str,
    style: &'static str,
}

#[derive(Template)]
#[template(path = "unavailable.html")]
struct Unavailable {
    style: &'static str,
}

/// `GET /p/{token}`: the payer page for people, or its facts for programs (A11).
async fn page(extract::State(state): extract::State<State>, Path(token): Path<String>, headers: HeaderMap) -> Response {
    let as_json = headers.get(header::ACCEPT).is_some_and(|accept| accept.as_bytes() == b"application/json");
    let page = match state.pages.open(&token, clock::wall()) {
        Ok(Some(page)) => page,
        Ok(None) => {
            metrics::counter!("cloakway_pages_total", "outcome" => "unavailable").increment(1);
            return unavailable(as_json);
        }
        Err(error) => {
            tracing::error!(%error, "page not read");
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
    };
    metrics::counter!("cloakway_pages_total", "outcome" => "shown").increment(1);
    if as_json {
        return (guards("default-src 'none'"), axum::Json(page)).into_response();
    }
    // A host-source of a content security policy cannot be an IPv6 literal (CSP 3 §2.3.1), so that
    // such a page is held by the hash of its one script alone.
    let connect = if page.private_origin.contains('[') { "https:" } else { page.private_origin.as_str() };
    html(StatusCode::OK, connect, PageView { page: &page, script: SCRIPT, style: STYLE }.render())
}

/// Used, expired and guessed pages look the same (A15).
fn unavailable(as_json: bool) -> Response {
    if as_json {
        return Refusal::new(
            StatusCode::NOT_FOUND,
            "page_unavailable",
            "this page was used, has expired or never was: order again at the shop",
        )
        .into_response();
    }
    html(StatusCode::NOT_FOUND, "'none'", Unavailable { style: STYLE }.render())
}

fn html(status: StatusCode, connect: &str, text: Result<String, askama::Error>) -> Response {
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src {connect}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        base64(&sha256(&[SCRIPT.as_bytes()])),
        base64(&sha256(&[STYLE.as_bytes()])),
    );
    match text {
        Ok(text) => (status, guards(&policy), axum::response::Html(text)).into_response(),
        Err(error) => {
            tracing::error!(%error, "page not written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn guards(policy: &str) -> [(header::HeaderName, String); 5] {
    [
        (header::CONTENT_SECURITY_POLICY, policy.to_owned()),
        (header::CACHE_CONTROL, "no-store".to_owned()),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (header::STRICT_TRANSPORT_SECURITY, "max-age=31536000".to_owned()),
    ]
}
