//! One request after another until one is answered: URLs, retries, bounded bodies, errors.

use std::error::Error as _;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};
use serde::de::DeserializeOwned;

use super::{ClientError, CoordinatorClient, Policy, TicketReply};
use crate::protocol::api::{ApiError, ErrorBody};
use crate::protocol::l402::{Credentials, parse_challenge};

/// Idle connections are closed before the server does it, which would fail the request that comes just then.
const POOL_IDLE: Duration = Duration::from_secs(10);

/// A request's body, kept so that it can be sent again.
pub(super) struct Body {
    content_type: &'static str,
    bytes: Vec<u8>,
}

impl Body {
    pub(super) fn json(bytes: Vec<u8>) -> Self {
        Self { content_type: "application/json", bytes }
    }

    pub(super) fn binary(bytes: Vec<u8>) -> Self {
        Self { content_type: "application/octet-stream", bytes }
    }
}

/// Which failures are worth another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Every passing one: the request takes effect once.
    Freely,
    /// Only those before the coordinator has worked on it: each challenge costs it an invoice.
    IfUnserved,
}

/// Reads the URL and sets up the HTTP client for it.
pub(super) fn connect_to(url: &str, policy: &Policy) -> Result<(Client, Url), ClientError> {
    let bad = |reason: &str| ClientError::BadUrl { url: url.chars().take(200).collect(), reason: reason.into() };
    let mut base = Url::parse(url.trim()).map_err(|error| bad(&error.to_string()))?;
    if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
        return Err(bad("the scheme is neither http nor https"));
    }
    if base.query().is_some() || base.fragment().is_some() || !base.username().is_empty() || base.password().is_some() {
        return Err(bad("it has a user, a query or a fragment"));
    }
    if !base.path().ends_with('/') {
        base.set_path(&format!("{}/", base.path()));
    }
    // An error means that a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder()
        .user_agent(concat!("l402t/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(policy.connect)
        .read_timeout(policy.stall)
        .pool_idle_timeout(POOL_IDLE)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy();
    if base.scheme() == "http" {
        // Without TLS no certificates are needed: a machine that has none can still reach a coordinator.
        builder = builder.tls_certs_only([]);
    }
    let client = builder.build().map_err(|error| ClientError::SetUp(describe(&error)))?;
    Ok((client, base))
}

impl CoordinatorClient {
    /// The URL of one of the run's calls.
    pub(super) fn endpoint(&self, segments: &[&str]) -> Result<Url, ClientError> {
        self.url_of(&[&[self.run_path.as_str()], segments].concat())
    }

    /// The URL of a path at the coordinator.
    pub(super) fn url_of(&self, segments: &[&str]) -> Result<Url, ClientError> {
        let path = segments.join("/");
        let bad = |error: &dyn std::fmt::Display| ClientError::BadUrl { url: path.clone(), reason: error.to_string() };
        self.base.join(&path).map_err(|error| bad(&error))
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, segments: &[&str]) -> Result<T, ClientError> {
        self.call(Method::GET, self.endpoint(segments)?, None).await
    }

    pub(super) async fn post<T: DeserializeOwned>(&self, segments: &[&str], json: Vec<u8>) -> Result<T, ClientError> {
        self.call(Method::POST, self.endpoint(segments)?, Some(Body::json(json))).await
    }

    /// A call that takes effect once however often it is sent.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        url: Url,
        body: Option<Body>,
    ) -> Result<T, ClientError> {
        let request = || self.request(method.clone(), url.clone(), body.as_ref());
        let answer = self.answer(request, Repeat::Freely, self.policy.max_json_bytes).await?;
        answer.success()?.json()
    }

    pub(super) async fn post_ticket(
        &self,
        segments: &[&str],
        json: Vec<u8>,
        credentials: Option<&Credentials>,
    ) -> Result<TicketReply, ClientError> {
        let (url, body) = (self.endpoint(segments)?, Body::json(json));
        let request = || {
            let request = self.request(Method::POST, url.clone(), Some(&body));
            match credentials {
                Some(credentials) => request.header(AUTHORIZATION, credentials.to_header()),
                None => request,
            }
        };
        let repeat = if credentials.is_some() { Repeat::Freely } else { Repeat::IfUnserved };
        let answer = self.answer(request, repeat, self.policy.max_json_bytes).await?;
        if answer.status != StatusCode::PAYMENT_REQUIRED {
            return Ok(TicketReply::Ticket(Box::new(answer.success()?.json()?)));
        }
        let headers = answer.challenges.iter().map(String::as_str);
        let params = parse_challenge(headers).map_err(|error| answer.bad(&error.to_string()))?;
        // A reverse proxy that sells tokens in the coordinator's place has no error of this API to give.
        let reason = serde_json::from_slice(&answer.body).map_or_else(|_| by_proxy(), |ErrorBody { error }| error);
        Ok(TicketReply::Challenge { params, reason })
    }

    fn request(&self, method: Method, url: Url, body: Option<&Body>) -> RequestBuilder {
        let bytes = body.map_or(0, |body| body.bytes.len() as u64);
        let request = self.http.request(method, url).timeout(self.policy.time_for(bytes));
        let Some(body) = body else { return request };
        request.header(CONTENT_TYPE, body.content_type).body(body.bytes.clone())
    }

    /// Sends until there is an answer that more tries won't change.
    pub(super) async fn answer(
        &self,
        request: impl Fn() -> RequestBuilder,
        repeat: Repeat,
        limit_bytes: u64,
    ) -> Result<Answer, ClientError> {
        let mut tries = Tries::new(&self.policy);
        loop {
            let outcome = match request().send().await {
                Ok(response) => Answer::read(response, limit_bytes).await,
                Err(error) => Err(self.transport_error(&error)),
            };
            let wait = match &outcome {
                Ok(answer) => answer.passing().filter(|_| answer.is_worth_repeating(repeat)),
                Err(error) => is_passing(error, repeat).then_some(Duration::ZERO),
            };
            let Some(asked_wait) = wait else { return outcome };
            let Some(wait) = tries.next_wait(asked_wait) else { return outcome };
            tracing::debug!(url = self.url(), wait_ms = wait.as_millis(), "trying again");
            tokio::time::sleep(wait).await;
        }
    }

    /// What a transport error means.
    pub(super) fn transport_error(&self, error: &reqwest::Error) -> ClientError {
        let (url, reason) = (self.url().to_owned(), describe(error));
        if error.is_connect() {
            ClientError::Unreachable { url, reason }
        } else {
            ClientError::Interrupted { url, reason }
        }
    }
}

/// The reason for a challenge that came without one.
fn by_proxy() -> ApiError {
    ApiError {
        code: "payment_required".into(),
        message: "a reverse proxy in front of the coordinator asks for payment".into(),
        fix: "pay the invoice in the WWW-Authenticate header".into(),
    }
}

fn is_passing(error: &ClientError, repeat: Repeat) -> bool {
    match error {
        ClientError::Unreachable { .. } => true,
        ClientError::Interrupted { .. } => repeat == Repeat::Freely,
        ClientError::BadUrl { .. }
        | ClientError::SetUp(_)
        | ClientError::Refused { .. }
        | ClientError::BadAnswer { .. }
        | ClientError::TooLarge { .. }
        | ClientError::WrongBytes { .. }
        | ClientError::Disk { .. } => false,
    }
}

/// Counts tries and doubles the waits between them.
#[derive(Debug)]
pub(super) struct Tries {
    left: u32,
    wait: Duration,
    longest: Duration,
}

impl Tries {
    pub(super) fn new(policy: &Policy) -> Self {
        Self { left: policy.tries.saturating_sub(1), wait: policy.first_wait, longest: policy.longest_wait }
    }

    /// How long to wait before the next try, at least as long as asked; `None` when there is none left.
    pub(super) fn next_wait(&mut self, asked: Duration) -> Option<Duration> {
        self.left = self.left.checked_sub(1)?;
        let wait = self.wait.max(asked).min(self.longest);
        self.wait = self.wait.saturating_mul(2);
        Some(wait)
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub(super) struct Answer {
    url: String,
    status: StatusCode,
    challenges: Vec<String>,
    retry_after: Option<Duration>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// Reads at most `limit_bytes`.
    pub(super) async fn read(mut response: Response, limit_bytes: u64) -> Result<Self, ClientError> {
        let url = response.url().to_string();
        let too_large = || ClientError::TooLarge { url: url.clone(), limit_bytes };
        if response.content_length().is_some_and(|length| length > limit_bytes) {
            return Err(too_large());
        }
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(None) => break,
                Ok(Some(chunk)) if (body.len() + chunk.len()) as u64 > limit_bytes => return Err(too_large()),
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Err(error) => return Err(ClientError::Interrupted { url, reason: describe(&error) }),
            }
        }
        let text = |value: &reqwest::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        Ok(Self {
            status: response.status(),
            challenges: response.headers().get_all(WWW_AUTHENTICATE).iter().map(text).collect(),
            retry_after: retry_after(&response),
            url,
            body,
        })
    }

    /// For a passing failure: how long the coordinator asks to wait.
    fn passing(&self) -> Option<Duration> {
        is_passing_status(self.status).then(|| self.retry_after.unwrap_or_default())
    }

    /// A timeout of the coordinator may have made an invoice; being turned away didn't.
    fn is_worth_repeating(&self, repeat: Repeat) -> bool {
        match repeat {
            Repeat::Freely => true,
            Repeat::IfUnserved => {
                matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
            }
        }
    }

    /// The answer, if it is a success, or what the coordinator says is wrong.
    pub(super) fn success(self) -> Result<Self, ClientError> {
        if self.status.is_success() {
            return Ok(self);
        }
        match serde_json::from_slice(&self.body) {
            Ok(ErrorBody { error }) => Err(ClientError::Refused { status: self.status.as_u16(), error }),
            Err(_) => Err(self.bad(&format!("status {} without an error of the API", self.status))),
        }
    }

    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_slice(&self.body).map_err(|error| self.bad(&error.to_string()))
    }

    fn bad(&self, what: &str) -> ClientError {
        ClientError::BadAnswer { url: self.url.clone(), what: what.into() }
    }
}

/// Statuses after which the same request may succeed.
pub(super) fn is_passing_status(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}

/// `Retry-After` in seconds.
pub(super) fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// The innermost causes: the outer ones only say that a request failed.
pub(super) fn describe(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".into();
    }
    let mut cause = error.source();
    let mut innermost = error.to_string();
    while let Some(inner) = cause {
        innermost = inner.to_string();
        cause = inner.source();
    }
    innermost
}
