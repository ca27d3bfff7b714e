//! A connection of HTTP/2 (RFC 9113): many requests at once over one connection, whose answers share TLS records.
//!
//! Bounded beside what [`Limits`] says: the octets of a request's head, and those of answers that nobody reads. Requests that
//! are taken back as soon as they are made (CVE-2023-44487) end the connection: that is the library's part. A connection that
//! asks nothing is ended as one of HTTP/1.1 is.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{Request, Response};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http2::Builder;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Limits;
use crate::stop::Stop;

/// Octets of a request's head.
const HEAD: u32 = 16 * 1024;
/// Octets of one request's body, and of one answer, that may wait.
const UNREAD: u32 = 64 * 1024;

/// Serves one connection to its end.
pub(super) async fn serve<S, F>(stream: S, limits: &Limits, stop: &Stop, answer: impl Fn(Request<Incoming>) -> F)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    // How many requests there were; each that is not answered to its end holds it.
    let asked = Arc::new(AtomicU64::new(0));
    let service = hyper::service::service_fn(|request| {
        asked.fetch_add(1, Ordering::Relaxed);
        let (answer, open) = (answer(request), asked.clone());
        async move { Ok::<_, std::convert::Infallible>(answer.await.map(|body| Body::new(Open { body, _open: open }))) }
    });
    let mut connection = std::pin::pin!(
        Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams)
            .max_header_list_size(HEAD)
            .initial_stream_window_size(UNREAD)
            .initial_connection_window_size(UNREAD * 4)
            .max_send_buf_size(UNREAD as usize)
            .keep_alive_interval(limits.head)
            .keep_alive_timeout(limits.request)
            .serve_connection(TokioIo::new(stream), service)
    );
    let idle = async {
        let mut known = 0;
        loop {
            tokio::time::sleep(limits.head).await;
            let now = asked.load(Ordering::Relaxed);
            if now == known && Arc::strong_count(&asked) == 1 {
                return;
            }
            known = now;
        }
    };
    tokio::select! {
        _ = &mut connection => return,
        () = stop.told() => {}
        () = idle => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(limits.request, connection).await;
}

/// A body whose request is open until it has been sent.
struct Open {
    body: Body,
    _open: Arc<AtomicU64>,
}

impl HttpBody for Open {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
