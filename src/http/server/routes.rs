//! The table of paths, the router made from it, and what all requests have in common.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::handler::Handler;
use axum::http::header::X_CONTENT_TYPE_OPTIONS;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodFilter, MethodRouter, on};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::failure::Failure;
use super::limits::Limits;
use super::rate::{Client, RateLimiter};
use super::{handlers, page};
use crate::coordinator::handle::{CoordinatorHandle, Refusal};

/// Upload memory is counted in units of this many bytes.
const MEMORY_UNIT_BYTES: u64 = 4_096;

/// What every handler has.
#[derive(Clone, Debug)]
pub(super) struct App {
    coordinator: Arc<dyn CoordinatorHandle>,
    pub(super) limits: Limits,
    requests: Arc<RateLimiter>,
    pub(super) challenges: Arc<RateLimiter>,
    calls: Arc<Semaphore>,
    upload_memory: Arc<Semaphore>,
}

impl App {
    pub(super) fn new(coordinator: Arc<dyn CoordinatorHandle>, limits: Limits) -> Self {
        let now = Instant::now();
        let units = usize::try_from(limits.upload_memory_bytes / MEMORY_UNIT_BYTES).unwrap_or(usize::MAX);
        Self {
            coordinator,
            limits,
            requests: Arc::new(RateLimiter::new(limits.requests, now)),
            challenges: Arc::new(RateLimiter::new(limits.challenges, now)),
            calls: Arc::new(Semaphore::new(limits.calls as usize)),
            upload_memory: Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))),
        }
    }

    /// Asks the coordinator, in a task of its own: a client that hangs up, or a timeout, must not cancel a step that
    /// moves money half-way.
    pub(super) async fn call<T, F, A>(&self, ask: F) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: FnOnce(Arc<dyn CoordinatorHandle>) -> A,
        A: Future<Output = Result<T, Refusal>> + Send + 'static,
    {
        let permit = self.calls.clone().try_acquire_owned().map_err(|_| Failure::busy())?;
        let answer = ask(self.coordinator.clone());
        let task = tokio::spawn(async move {
            let answer = answer.await;
            drop(permit);
            answer
        });
        match timeout(self.limits.call, task).await {
            Ok(Ok(answer)) => Ok(answer?),
            Ok(Err(_)) => Err(Failure::internal("the coordinator panicked")),
            Err(_) => Err(Failure::timed_out()),
        }
    }

    /// Waits until no call of the coordinator is under way.
    pub(super) async fn calls_ended(&self) {
        // The semaphore is never closed, so this can only succeed.
        let _ = self.calls.acquire_many(self.limits.calls).await;
    }

    /// Sets memory aside for an upload.
    pub(super) fn reserve_upload(&self, bytes: u64) -> Result<OwnedSemaphorePermit, Failure> {
        if bytes > self.limits.upload_memory_bytes {
            return Err(Failure::too_large(self.limits.upload_memory_bytes));
        }
        let units = u32::try_from(bytes.div_ceil(MEMORY_UNIT_BYTES)).map_err(|_| Failure::busy())?;
        self.upload_memory.clone().try_acquire_many_owned(units).map_err(|_| Failure::busy())
    }
}

/// One line of the API.
struct Route {
    method: Method,
    path: &'static str,
    serve: MethodRouter<App>,
}

/// Everything that is served.
fn table() -> Vec<Route> {
    vec![
        route(Method::GET, "/", page::serve),
        route(Method::GET, "/v1/run", handlers::run),
        route(Method::GET, "/v1/rounds/current", handlers::current_round),
        route(Method::GET, "/v1/rounds/{round}", handlers::round),
        route(Method::GET, "/v1/rounds/{round}/transcript", handlers::transcript),
        route(Method::GET, "/v1/rounds/{round}/aggregate", handlers::aggregate),
        route(Method::GET, "/v1/blobs/{blake3}", handlers::blob),
        route(Method::POST, "/v1/peers", handlers::register),
        route(Method::POST, "/v1/rounds/{round}/tickets", handlers::ticket),
        route(Method::POST, "/v1/contributions/{id}/invoices", handlers::invoices),
        route(Method::PUT, "/v1/contributions/{id}/payload", handlers::payload),
        route(Method::GET, "/v1/contributions/{id}", handlers::contribution),
        route(Method::GET, "/v1/status", handlers::status),
        route(Method::GET, "/v1/openapi.json", handlers::openapi),
    ]
}

fn route<H, T>(method: Method, path: &'static str, handler: H) -> Route
where
    H: Handler<T, App>,
    T: 'static,
{
    let filter = match method {
        Method::POST => MethodFilter::POST,
        Method::PUT => MethodFilter::PUT,
        // Axum answers HEAD with it too.
        _ => MethodFilter::GET,
    };
    Route { method, path, serve: on(filter, handler) }
}

/// Methods and paths, for the test that compares them with the API's description.
#[cfg(test)]
pub(super) fn methods_and_paths() -> Vec<(Method, &'static str)> {
    table().into_iter().map(|route| (route.method, route.path)).collect()
}

/// The router. Requests must carry their [`Client`] as an extension.
pub(super) fn router(app: App) -> Router {
    let mut router = Router::new();
    for Route { method, path, serve } in table() {
        tracing::trace!(%method, path, "serving");
        router = router.route(path, serve);
    }
    router
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(middleware::from_fn_with_state(app.clone(), limit))
        .with_state(app)
}

async fn limit(State(app): State<App>, request: Request, next: Next) -> Response {
    let Some(client) = request.extensions().get::<Client>().copied() else {
        return Failure::internal("a request without an address").into_response();
    };
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = match app.requests.take(client, Instant::now()) {
        Ok(()) => next.run(request).await,
        Err(wait) => Failure::too_many_requests(wait).into_response(),
    };
    tracing::debug!(%method, path, status = response.status().as_u16(), "answered");
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn not_found(request: Request) -> Failure {
    let path: String = request.uri().path().chars().take(200).collect();
    let fix = "the paths are listed in /v1/openapi.json";
    Failure::new(StatusCode::NOT_FOUND, "not_found", format!("there is nothing at {path}"), fix)
}

async fn method_not_allowed(request: Request) -> Failure {
    let message = format!("{} is not served here", request.method());
    let fix = "the methods are listed in /v1/openapi.json";
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message, fix)
}
