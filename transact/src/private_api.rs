//! What a payer can ask at the private network address (A11): whether the path is live, to pay, and
//! how it ended. Browsers come from facilitation's page, so its origin is answered and no other.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use cloakway_runtime::http::{Limits, Refusal, json};
use transact_core::PayError;
use transact_wire::payment::{Claim, Outcome, Payment};

use crate::engine::{Engine, EngineError};
use crate::gate::Gate;

/// The limits of a payer's connection, beside the gate's.
pub(crate) fn limits() -> Limits {
    Limits { body: 4096, head: Duration::from_secs(5), request: Duration::from_secs(60), ..Limits::default() }
}

#[derive(Debug, Clone)]
struct Api {
    engine: Engine,
    origins: Arc<Vec<HeaderValue>>,
}

pub(crate) fn router(engine: Engine, origins: Vec<HeaderValue>) -> Router {
    let api = Api { engine, origins: Arc::new(origins) };
    Router::new()
        .route("/v1/live", get(|| async { Json(serde_json::json!({"live": true})) }))
        .route("/v1/payments", post(pay))
        .route("/v1/outcome", post(outcome))
        .layer(from_fn_with_state(api.clone(), cross_origin))
        .with_state(api)
}

async fn pay(State(api): State<Api>, Extension(gate): Extension<Gate>, body: Bytes) -> Result<Json<Outcome>, Refusal> {
    let payment: Result<Payment, Refusal> = json(&body);
    wipe(body);
    let answer = api.engine.pay(payment?, gate).await;
    told(answer)
}

async fn outcome(
    State(api): State<Api>,
    Extension(gate): Extension<Gate>,
    body: Bytes,
) -> Result<Json<Outcome>, Refusal> {
    let claim: Claim = json(&body)?;
    told(api.engine.outcome(claim, gate).await)
}

fn told(
    answer: Result<Result<transact_wire::payment::PaymentState, PayError>, EngineError>,
) -> Result<Json<Outcome>, Refusal> {
    let refusal = |status, code, error: &dyn std::fmt::Display| Refusal::new(status, code, error.to_string());
    match answer {
        Ok(Ok(state)) => Ok(Json(state.into())),
        Ok(Err(error @ PayError::NoMatch)) => Err(refusal(StatusCode::FORBIDDEN, "no_match", &error)),
        Ok(Err(error @ PayError::CardExpired)) => {
            Err(refusal(StatusCode::UNPROCESSABLE_ENTITY, "card_expired", &error).field("expiry"))
        }
        Ok(Err(error @ PayError::BankUnreachable)) => {
            Err(refusal(StatusCode::SERVICE_UNAVAILABLE, "bank_unreachable", &error))
        }
        Err(error) => Err(refusal(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &error)),
    }
}

/// Wipes a request's body, if nobody else holds it.
fn wipe(body: Bytes) {
    if let Ok(mut body) = body.try_into_mut() {
        cloakway_crypto::Zeroize::zeroize(&mut body[..]);
    }
}

/// Cross-origin requests (Fetch standard, CORS protocol): from the payer page's origins only.
async fn cross_origin(State(api): State<Api>, request: Request, next: Next) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    if let Some(origin) = &origin
        && !api.origins.contains(origin)
    {
        return Refusal::new(StatusCode::FORBIDDEN, "origin", "pages of this origin are not served").into_response();
    }
    let mut response = if request.method() == Method::OPTIONS {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, "content-type"),
            (header::ACCESS_CONTROL_MAX_AGE, "600"),
            (HeaderName::from_static("access-control-allow-private-network"), "true"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        (StatusCode::NO_CONTENT, headers).into_response()
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("origin"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    }
    response
}
