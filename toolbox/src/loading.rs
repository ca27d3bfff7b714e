//! Until the bindings are back from the disk every request is refused: 503, and never a wrong answer.

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::response::{IntoResponse, Response};
use toolbox_wire::http::ErrorBody;
use tower_service::Service;

/// A router that refuses, until there is another one to ask.
pub fn router(ready: Arc<OnceLock<Router>>) -> Router {
    Router::new().fallback(move |request: Request| {
        let ready = ready.get().cloned();
        async move {
            match ready {
                // A router has no error and is always ready.
                Some(mut router) => router.call(request).await.into_response(),
                None => refusal(),
            }
        }
    })
}

fn refusal() -> Response {
    let body = ErrorBody::new("loading", "the bindings are being read: ask again in a second".to_owned(), None);
    (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")], axum::Json(body)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::routing::get;

    #[tokio::test]
    async fn all_is_refused_until_the_bindings_are_back() {
        let ready = Arc::new(OnceLock::new());
        let mut router = router(ready.clone());
        let mut ask = async |path: &str| router.call(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
        for path in ["/healthz", "/v1/verify", "/nowhere"] {
            let refused = ask(path).await;
            assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE, "{path}");
            assert_eq!(refused.headers()[RETRY_AFTER], "1");
        }
        ready.set(Router::new().route("/healthz", get(|| async { "ok\n" }))).unwrap();
        assert_eq!(ask("/healthz").await.status(), StatusCode::OK);
        assert_eq!(ask("/nowhere").await.status(), StatusCode::NOT_FOUND);
    }
}
