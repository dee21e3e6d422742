//! The layer between HTTP/2 and the services of the client port: meters the bytes of request bodies as they
//! arrive, and gives a message over the size limit the same typed answer as every other refusal.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use futures::future::BoxFuture;
use tonic::body::Body;
use tonic::codegen::{Bytes, http};
use tonic::{Code, Status};

use super::admission::{Budget, Held};
use super::errors::{DETAIL_METADATA, Refused};
use super::listener::Connection;

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct IntakeLayer {
    pub all: Arc<Budget>,
    pub max_request_bytes: usize,
    /// Requests that no service ever saw: too long, or not decodable.
    pub malformed: Arc<AtomicU64>,
}

impl<S> tower::Layer<S> for IntakeLayer {
    type Service = Intake<S>;

    fn layer(&self, inner: S) -> Intake<S> {
        Intake { inner, settings: self.clone() }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Intake<S> {
    inner: S,
    settings: IntakeLayer,
}

impl<S> tower::Service<http::Request<Body>> for Intake<S>
where
    S: tower::Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<http::Response<Body>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        let connection = parts.extensions.get::<Connection>().map(|connection| Arc::clone(&connection.budget));
        // Without a connection (a test that calls the service directly) only the common bound holds.
        let connection = connection.unwrap_or_else(|| Budget::new(usize::MAX));
        let held = Held::new(connection, Arc::clone(&self.settings.all));
        parts.extensions.insert(Arc::clone(&held));
        let body = Body::new(MeteredBody { inner: body, held: Arc::clone(&held) });
        let answer = self.inner.call(http::Request::from_parts(parts, body));
        let (limit, malformed) = (self.settings.max_request_bytes, Arc::clone(&self.settings.malformed));
        Box::pin(async move {
            let response = answer.await?;
            // Held until the service has answered: the decoded message lives that long.
            drop(held);
            Ok(retell(response, limit, &malformed))
        })
    }
}

/// Counts and types what the codec refused before any service saw it.
fn retell(response: http::Response<Body>, limit: usize, malformed: &AtomicU64) -> http::Response<Body> {
    let headers = response.headers();
    let Some(status) = headers.get("grpc-status") else { return response };
    if headers.contains_key(DETAIL_METADATA) {
        return response;
    }
    match Code::from_bytes(status.as_bytes()) {
        Code::OutOfRange => {
            malformed.fetch_add(1, Ordering::Relaxed);
            Refused::too_large("request", limit as u64).into_status().into_http()
        }
        Code::Internal => {
            malformed.fetch_add(1, Ordering::Relaxed);
            response
        }
        _ => response,
    }
}

/// A request body that takes what it delivers from the budgets.
struct MeteredBody {
    inner: Body,
    held: Arc<Held>,
}

impl http_body::Body for MeteredBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let frame = match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            other => return Poll::Ready(other),
        };
        if let Some(data) = frame.data_ref()
            && let Err(why) = this.held.take(data.len())
        {
            return Poll::Ready(Some(Err(Refused::overloaded(why).into_status())));
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
}
