//! Electronic cash at the private network address: messages in, messages out. Anybody may send any bytes.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use cloakway_runtime::http::Refusal;
use serde_json::Value;

use super::engine::{Engine, Shown};
use crate::gate::Gate;

/// The largest message.
const LARGEST: usize = 1024 * 1024;
/// The issuer has to have spoken by then; whoever hears nothing sends the same again.
const PATIENCE: Duration = Duration::from_secs(50);

pub(crate) fn router(engine: Engine) -> Router {
    Router::new()
        .route("/v1/ecash", post(message).layer(DefaultBodyLimit::max(LARGEST)))
        .route("/v1/ecash/keys", get(keys))
        .with_state(engine)
}

/// A message is answered by a message, or by nothing (204): what was damaged, and what means nothing here.
async fn message(State(engine): State<Engine>, Extension(gate): Extension<Gate>, body: Bytes) -> Response {
    let reply = tokio::time::timeout(PATIENCE, engine.message(body.to_vec())).await;
    match reply {
        Ok(Some(reply)) => {
            if reply.authentic {
                gate.lift();
            }
            let text = HeaderValue::from_static("text/plain; charset=utf-8");
            ([(header::CONTENT_TYPE, text)], reply.bytes).into_response()
        }
        Ok(None) => StatusCode::NO_CONTENT.into_response(),
        Err(_) => {
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "the issuer has not answered: send the same again")
                .into_response()
        }
    }
}

async fn keys(State(engine): State<Engine>) -> Result<Json<Value>, Refusal> {
    let keys = engine.show(Shown::Keys).await;
    keys.map(Json)
        .map_err(|stopping| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", stopping.to_string()))
}
