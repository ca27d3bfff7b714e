//! HTTP/1.1, and HTTP/2 where a server offers it, over TLS 1.3, bounded in connections, bytes and time on both sides.

mod streams;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Request, Response, StatusCode};
use axum::response::IntoResponse;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tower_service::Service;

use crate::stop::Stop;
use crate::tls;

/// Who sent a request; found in the request's extensions.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The other end of the TCP connection.
    pub address: SocketAddr,
    /// The one of [`Limits::client_names`] that the client's certificate is valid for.
    pub name: Option<String>,
}

/// How much a server takes from its clients.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once; more wait in the kernel's queue.
    pub connections: usize,
    /// Bytes of a request's body.
    pub body: usize,
    /// Time for the TLS handshake, and for the head of each request.
    pub head: Duration,
    /// Time for a whole request, from its head to the end of the answer's making.
    pub request: Duration,
    /// Requests at once of a connection that speaks HTTP/2; 0: HTTP/1.1 alone is spoken.
    pub streams: u32,
    /// With mutual TLS: the names that a client's certificate may stand for. Empty: no names are asked.
    pub client_names: Vec<String>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            body: 64 * 1024,
            head: Duration::from_secs(10),
            request: Duration::from_secs(60),
            streams: 0,
            client_names: Vec::new(),
        }
    }
}

/// Serves `router` on `listener` until the stop; open requests are finished first.
pub fn serve(listener: TcpListener, tls: impl Into<tls::Current>, router: Router, limits: Limits, stop: Stop) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let server = Server::new(tls, router, limits);
    tokio::spawn(async move {
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let accepted = tokio::select! {
                () = stop.told() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, address)) => {
                    let _ = stream.set_nodelay(true);
                    let (server, stop) = (server.clone(), stop.clone());
                    tokio::spawn(async move {
                        server.connection(stream, address, &stop).await;
                        drop(place);
                    });
                }
                // Out of file descriptors, or a client that left early: neither ends the server.
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    });
}

/// A router behind TLS, for streams that the caller accepts.
#[derive(Debug, Clone)]
pub struct Server {
    tls: tls::Current,
    router: Router,
    limits: Arc<Limits>,
}

impl Server {
    /// Puts `router` behind `tls` and `limits`. What is put in the place of `tls` later holds for the connections from
    /// then on; those before it go on as they began.
    #[must_use]
    pub fn new(tls: impl Into<tls::Current>, router: Router, limits: Limits) -> Self {
        let router = router.layer(DefaultBodyLimit::max(limits.body));
        Self { tls: tls.into(), router, limits: Arc::new(limits) }
    }

    /// Serves one connection to its end.
    pub async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        stream: S,
        address: SocketAddr,
        stop: &Stop,
    ) {
        let tls = self.tls.get();
        let tls = if self.limits.streams > 0 { tls::with_http2(&tls) } else { tls };
        let stream = match tokio::time::timeout(self.limits.head, TlsAcceptor::from(tls).accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
            Err(_) => return tracing::debug!("TLS handshake took too long"),
        };
        let names = &self.limits.client_names;
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let name = certificate.and_then(|certificate| tls::name_of(certificate, names)).map(str::to_owned);
        if name.is_none() && !names.is_empty() {
            return tracing::warn!(%address, "a client's certificate has a name that is not allowed");
        }
        let peer = Peer { address, name };
        if stream.get_ref().1.alpn_protocol() == Some(tls::HTTP2) {
            return streams::serve(stream, &self.limits, stop, |request| self.answer(&peer, request)).await;
        }
        let service = hyper::service::service_fn(|request| {
            let answer = self.answer(&peer, request);
            async move { Ok::<_, std::convert::Infallible>(answer.await) }
        });
        let mut connection = std::pin::pin!(
            hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(self.limits.head)
                .max_buf_size(64 * 1024)
                .serve_connection(TokioIo::new(stream), service)
        );
        tokio::select! {
            _ = &mut connection => return,
            () = stop.told() => connection.as_mut().graceful_shutdown(),
        }
        let _ = tokio::time::timeout(self.limits.request, connection).await;
    }

    fn answer(
        &self,
        peer: &Peer,
        mut request: Request<Incoming>,
    ) -> impl Future<Output = Response<Body>> + Send + 'static + use<> {
        request.extensions_mut().insert(peer.clone());
        let answer = tokio::time::timeout(self.limits.request, self.router.clone().call(request));
        async move {
            match answer.await {
                Ok(Ok(response)) => response,
                Ok(Err(never)) => match never {},
                Err(_) => StatusCode::REQUEST_TIMEOUT.into_response(),
            }
        }
    }
}

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL, a header or the server's name is not well formed.
    #[error("the request cannot be made: {0}")]
    Request(String),
    /// No connection, a refused certificate, or a connection that broke.
    #[error("{url}: {reason}")]
    Transport {
        /// Where it was sent.
        url: String,
        /// What happened.
        reason: String,
    },
    /// No whole answer in time.
    #[error("{url}: no answer within {seconds} s")]
    Slow {
        /// Where it was sent.
        url: String,
        /// The limit in seconds.
        seconds: u64,
    },
}

/// A client for servers that speak TLS 1.3.
#[derive(Debug, Clone)]
pub struct Client {
    inner: hyper_util::client::legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

const ANSWER_LIMIT: usize = 1024 * 1024;

impl Client {
    /// With `server_name`, the certificate has to be valid for that name instead of the URL's host.
    ///
    /// # Errors
    /// [`ClientError::Request`] when the name is not a DNS name or an address.
    pub fn new(tls: rustls::ClientConfig, server_name: Option<&str>) -> Result<Self, ClientError> {
        let builder = HttpsConnectorBuilder::new().with_tls_config(tls).https_only();
        let connector = match server_name {
            None => builder.enable_http1().build(),
            Some(name) => {
                let name =
                    ServerName::try_from(name.to_owned()).map_err(|e| ClientError::Request(format!("{name}: {e}")))?;
                builder.with_server_name_resolver(FixedServerNameResolver::new(name)).enable_http1().build()
            }
        };
        let inner = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(5))
            .build(connector);
        Ok(Self { inner })
    }

    /// Sends one request and reads the whole answer, at most 1 MiB, within `limit`.
    ///
    /// # Errors
    /// [`ClientError`]. A status of any kind is an answer, not an error.
    pub async fn send(
        &self,
        method: Method,
        url: &str,
        headers: HeaderMap,
        body: Vec<u8>,
        limit: Duration,
    ) -> Result<Response<Bytes>, ClientError> {
        let request = request(method, url, headers, body)?;
        let transport = |reason: String| ClientError::Transport { url: url.to_owned(), reason };
        let exchange = async {
            let answer = self.inner.request(request).await.map_err(|error| transport(chain(&error)))?;
            let (parts, body) = answer.into_parts();
            let body = Limited::new(body, ANSWER_LIMIT).collect().await.map_err(|e| transport(e.to_string()))?;
            Ok(Response::from_parts(parts, body.to_bytes()))
        };
        tokio::time::timeout(limit, exchange)
            .await
            .unwrap_or_else(|_| Err(ClientError::Slow { url: url.to_owned(), seconds: limit.as_secs() }))
    }

    /// Sends one request without a body, and gives the answer as soon as its head is there, within `limit`; how long its
    /// body may take, and how long it may be, is the caller's to say.
    ///
    /// # Errors
    /// [`ClientError`]. A status of any kind is an answer, not an error.
    pub async fn open(
        &self,
        method: Method,
        url: &str,
        headers: HeaderMap,
        limit: Duration,
    ) -> Result<Response<Body>, ClientError> {
        let asked = self.inner.request(request(method, url, headers, Vec::new())?);
        match tokio::time::timeout(limit, asked).await {
            Ok(Ok(answer)) => Ok(answer.map(Body::new)),
            Ok(Err(error)) => Err(ClientError::Transport { url: url.to_owned(), reason: chain(&error) }),
            Err(_) => Err(ClientError::Slow { url: url.to_owned(), seconds: limit.as_secs() }),
        }
    }

    /// Posts JSON.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn post_json<T: serde::Serialize>(
        &self,
        url: &str,
        mut headers: HeaderMap,
        value: &T,
        limit: Duration,
    ) -> Result<Response<Bytes>, ClientError> {
        let body = serde_json::to_vec(value).map_err(|e| ClientError::Request(e.to_string()))?;
        headers.insert(axum::http::header::CONTENT_TYPE, axum::http::HeaderValue::from_static("application/json"));
        self.send(Method::POST, url, headers, body, limit).await
    }
}

fn request(method: Method, url: &str, headers: HeaderMap, body: Vec<u8>) -> Result<Request<Full<Bytes>>, ClientError> {
    let request = Request::builder().method(method).uri(url).body(Full::new(Bytes::from(body)));
    let mut request = request.map_err(|error| ClientError::Request(error.to_string()))?;
    request.headers_mut().extend(headers);
    Ok(request)
}

/// An error with everything that caused it, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// The body of an error answer: `{"error":{"code":…,"message":…,"field":…}}`.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Refusal {
    #[serde(skip)]
    status: StatusCode,
    error: RefusalBody,
}

#[derive(Debug, Clone, serde::Serialize)]
struct RefusalBody {
    code: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
}

impl Refusal {
    /// An answer of `status` with a code for programs and a message for people.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, error: RefusalBody { code, message: message.into(), field: None } }
    }

    /// Names the field of the request that is wrong.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.error.field = Some(field.into());
        self
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response<Body> {
        (self.status, axum::Json(self)).into_response()
    }
}

/// What stands behind the path, read strictly; what cannot be read is a 400 [`Refusal`] with code `invalid_query`.
#[derive(Debug, Clone, Copy)]
pub struct Query<T>(pub T);

impl<T: serde::de::DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let read = axum::extract::Query::from_request_parts(parts, state).await;
        read.map(|axum::extract::Query(value)| Self(value))
            .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, "invalid_query", error.body_text()))
    }
}

/// Reads a JSON body strictly; the error names the place.
///
/// # Errors
/// A 400 [`Refusal`] with code `invalid_json`.
pub fn json<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body)
        .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, "invalid_json", error.to_string()))
}
