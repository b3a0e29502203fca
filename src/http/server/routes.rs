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
use super::limits::{Limits, POSTING_COPIES, SHORT_POSTING_BYTES};
use super::rate::{Client, RateLimiter};
use super::services::Services;
use super::{bounties, discovery, handlers, page};
use crate::coordinator::handle::Refusal;

/// Upload memory is counted in units of this many bytes.
const MEMORY_UNIT_BYTES: u64 = 4_096;

/// What every handler has.
#[derive(Clone, Debug)]
pub(super) struct App {
    pub(super) services: Services,
    pub(super) limits: Limits,
    requests: Arc<RateLimiter>,
    challenges: Arc<RateLimiter>,
    pub(super) postings: Arc<RateLimiter>,
    calls: Arc<Semaphore>,
    upload_memory: Arc<Memory>,
    posting_memory: Arc<Memory>,
    short_posting_memory: Arc<Memory>,
}

impl App {
    pub(super) fn new(services: Services, limits: Limits) -> Self {
        let now = Instant::now();
        Self {
            services,
            limits,
            requests: Arc::new(RateLimiter::new(limits.requests, now)),
            challenges: Arc::new(RateLimiter::new(limits.challenges, now)),
            postings: Arc::new(RateLimiter::new(limits.postings, now)),
            calls: Arc::new(Semaphore::new(limits.calls as usize)),
            upload_memory: Arc::new(Memory::new(limits.upload_memory_bytes)),
            posting_memory: Arc::new(Memory::new(limits.posting_memory_bytes)),
            short_posting_memory: Arc::new(Memory::new(limits.short_posting_memory_bytes)),
        }
    }

    /// Asks the coordinator, in a task of its own: a client that hangs up, or a timeout, must not cancel a step that
    /// moves money half-way.
    pub(super) async fn call<T, A>(&self, answer: A) -> Result<T, Failure>
    where
        T: Send + 'static,
        A: Future<Output = Result<T, Refusal>> + Send + 'static,
    {
        let permit = self.calls.clone().try_acquire_owned().map_err(|_| Failure::busy())?;
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

    /// Asks for what is sold. A challenge makes an invoice, so a client gets only so many of them.
    pub(super) async fn call_sold<T, A>(
        &self,
        client: Client,
        answer: A,
        is_challenge: impl FnOnce(&T) -> bool,
    ) -> Result<T, Failure>
    where
        T: Send + 'static,
        A: Future<Output = Result<T, Refusal>> + Send + 'static,
    {
        // Whether it will be a challenge is known only afterwards, when its invoice has been made: take first, give back.
        self.challenges.take(client, Instant::now()).map_err(Failure::too_many_requests)?;
        let answer = self.call(answer).await;
        let made_an_invoice = match &answer {
            Ok(answer) => is_challenge(answer),
            // After a timeout it may still be made.
            Err(failure) => !failure.is_refusal(),
        };
        if !made_an_invoice {
            self.challenges.give_back(client, Instant::now());
        }
        answer
    }

    /// Waits until no call of the coordinator is under way.
    pub(super) async fn calls_ended(&self) {
        // The semaphore is never closed, so this can only succeed.
        let _ = self.calls.acquire_many(self.limits.calls).await;
    }

    /// Sets memory aside for an upload.
    pub(super) fn reserve_upload(&self, bytes: u64) -> Result<Reserved, Failure> {
        self.upload_memory.reserve(bytes)
    }

    /// Sets memory aside for a posting of so many bytes: they, and what is read out of them.
    pub(super) fn reserve_posting(&self, bytes: u64) -> Result<Reserved, Failure> {
        let memory = if bytes <= SHORT_POSTING_BYTES { &self.short_posting_memory } else { &self.posting_memory };
        memory.reserve(bytes.saturating_mul(POSTING_COPIES))
    }
}

/// Memory that requests set aside before they take it.
#[derive(Debug)]
struct Memory {
    bytes: u64,
    units: Arc<Semaphore>,
}

/// Given back by drop.
pub(super) type Reserved = OwnedSemaphorePermit;

impl Memory {
    fn new(bytes: u64) -> Self {
        let units = usize::try_from(bytes / MEMORY_UNIT_BYTES).unwrap_or(usize::MAX);
        Self { bytes, units: Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))) }
    }

    fn reserve(&self, bytes: u64) -> Result<Reserved, Failure> {
        if bytes > self.bytes {
            return Err(Failure::too_large(self.bytes));
        }
        let units = u32::try_from(bytes.div_ceil(MEMORY_UNIT_BYTES)).map_err(|_| Failure::busy())?;
        self.units.clone().try_acquire_many_owned(units).map_err(|_| Failure::busy())
    }
}

/// One line of the API.
struct Route {
    method: Method,
    path: String,
    serve: MethodRouter<App>,
}

/// Everything that is served.
fn table() -> Vec<Route> {
    let mut table = vec![
        route(Method::GET, "/", page::serve),
        route(Method::GET, discovery::LLMS, discovery::llms),
        route(Method::GET, discovery::AI, discovery::ai),
        route(Method::GET, discovery::STATUS, discovery::status),
        route(Method::GET, "/v1/run", handlers::run),
    ];
    table.extend(run_routes("/v1"));
    table.extend([
        // A bounty has no checkpoint, so nothing leads from one to the next.
        route(Method::GET, "/v1/rounds/{round}/aggregate", handlers::aggregate),
        route(Method::GET, "/v1/bounties", bounties::list),
        route(Method::POST, "/v1/bounties", bounties::post),
        route(Method::GET, "/v1/bounties/{bounty}", bounties::bounty),
        route(Method::GET, "/v1/bounties/{bounty}/package", bounties::package),
        route(Method::GET, "/v1/bounties/{bounty}/closing", bounties::closing),
        route(Method::POST, "/v1/bounties/{bounty}/sponsor", bounties::sponsor),
    ]);
    table.extend(run_routes("/v1/bounties/{bounty}"));
    table.extend([
        route(Method::GET, "/v1/status", handlers::status),
        route(Method::GET, "/v1/openapi.json", handlers::openapi),
    ]);
    table
}

/// What the training run and every bounty have alike, under the prefix that tells [`super::extract::Target`] which is meant.
fn run_routes(prefix: &str) -> Vec<Route> {
    let path = |rest: &str| format!("{prefix}{rest}");
    vec![
        route(Method::GET, path("/rounds/current"), handlers::current_round),
        route(Method::GET, path("/rounds/{round}"), handlers::round),
        route(Method::GET, path("/rounds/{round}/transcript"), handlers::transcript),
        route(Method::GET, path("/blobs/{blake3}"), handlers::blob),
        route(Method::POST, path("/peers"), handlers::register),
        route(Method::POST, path("/rounds/{round}/tickets"), handlers::ticket),
        route(Method::POST, path("/contributions/{id}/invoices"), handlers::invoices),
        route(Method::PUT, path("/contributions/{id}/payload"), handlers::payload),
        route(Method::GET, path("/contributions/{id}"), handlers::contribution),
    ]
}

fn route<H, T>(method: Method, path: impl Into<String>, handler: H) -> Route
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
    Route { method, path: path.into(), serve: on(filter, handler) }
}

/// Everything that is served, by name.
pub(super) fn methods_and_paths() -> Vec<(Method, String)> {
    table().into_iter().map(|route| (route.method, route.path)).collect()
}

/// The router. Requests must carry their [`Client`] as an extension.
pub(super) fn router(app: App) -> Router {
    let mut router = Router::new();
    for Route { method, path, serve } in table() {
        tracing::trace!(%method, path, "serving");
        router = router.route(&path, serve);
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
