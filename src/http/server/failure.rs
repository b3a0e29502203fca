//! Every answer that isn't a success: a status, an [`ErrorBody`], and the headers that go with it.

use std::time::Duration;

use axum::Json;
use axum::http::header::{CACHE_CONTROL, CONNECTION, CONTENT_RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use super::retry_after_s;
use crate::coordinator::handle::{Challenge, Refusal};
use crate::protocol::api::{ApiError, ErrorBody};
use crate::protocol::l402::challenge_header;

/// A failed request.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    error: ApiError,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Failure {
    pub(super) fn new(status: StatusCode, code: &str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        let error = ApiError { code: code.into(), message: message.into(), fix: fix.into() };
        Self { status, error, headers: Vec::new() }
    }

    /// 402 with a fresh challenge. Clients pay again only on 402, so bad credentials get one too.
    pub(super) fn payment_required(challenge: &Challenge, what: &str) -> Self {
        let Ok(header) = HeaderValue::try_from(challenge_header(&challenge.macaroon, &challenge.invoice)) else {
            return Self::internal("the challenge is not a valid header");
        };
        let failure = match &challenge.refused {
            None => Self::new(
                StatusCode::PAYMENT_REQUIRED,
                "payment_required",
                what,
                "pay the invoice in the WWW-Authenticate header, then repeat the request with the macaroon and the preimage",
            ),
            Some(error) => Self::new(
                StatusCode::PAYMENT_REQUIRED,
                error.code(),
                error.to_string(),
                "check the credentials; if they are lost or used up, pay the new invoice in the WWW-Authenticate header",
            ),
        };
        failure.with(WWW_AUTHENTICATE, header)
    }

    pub(super) fn too_many_requests(wait: Duration) -> Self {
        let seconds = retry_after_s(wait);
        let message = "this address sends more requests than it may";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", message, format!("wait {seconds} s"))
            .with(RETRY_AFTER, seconds.into())
    }

    pub(super) fn busy() -> Self {
        let message = "the coordinator is serving as many requests as it can";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message, "try again in a few seconds")
            .with(RETRY_AFTER, 3.into())
    }

    pub(super) fn timed_out() -> Self {
        let message = "the coordinator did not answer in time; it may still complete what was asked";
        Self::new(StatusCode::GATEWAY_TIMEOUT, "timed_out", message, "repeat the same request: it takes effect once")
    }

    /// The body came too slowly. The rest of it is not worth reading.
    pub(super) fn slow_body() -> Self {
        let message = "the request's body did not arrive in time";
        Self::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message, "send it again over a faster connection")
            .with(CONNECTION, HeaderValue::from_static("close"))
    }

    pub(super) fn too_large(limit_bytes: u64) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            format!("the request's body is longer than {limit_bytes} bytes"),
            "send what was committed to, and nothing more",
        )
        .with(CONNECTION, HeaderValue::from_static("close"))
    }

    pub(super) fn range_not_satisfiable(length: u64) -> Self {
        let message = format!("the range begins past the end; there are {length} bytes");
        let failure =
            Self::new(StatusCode::RANGE_NOT_SATISFIABLE, "range_not_satisfiable", message, "ask for bytes that exist");
        match HeaderValue::try_from(format!("bytes */{length}")) {
            Ok(value) => failure.with(CONTENT_RANGE, value),
            Err(_) => failure,
        }
    }

    /// A bug or a broken disk: the cause is for the operator's log, not for strangers.
    pub(super) fn internal(cause: &str) -> Self {
        tracing::error!(cause, "a request failed inside the server");
        let fix = "try again; if it stays, tell the coordinator's operator";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the coordinator could not answer", fix)
    }

    /// Whether the request was at fault, and so nothing was done for it.
    pub(super) fn is_refusal(&self) -> bool {
        self.status.is_client_error()
    }

    fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let status = StatusCode::from_u16(refusal.status).ok();
        // A 402 without a challenge would send clients round in circles.
        let allowed = status.filter(|s| {
            (s.is_client_error() && *s != StatusCode::PAYMENT_REQUIRED) || *s == StatusCode::SERVICE_UNAVAILABLE
        });
        match allowed {
            Some(StatusCode::SERVICE_UNAVAILABLE) => {
                let failure =
                    Self { status: StatusCode::SERVICE_UNAVAILABLE, error: refusal.error, headers: Vec::new() };
                failure.with(RETRY_AFTER, 3.into())
            }
            Some(status) => Self { status, error: refusal.error, headers: Vec::new() },
            None => Self::internal(&refusal.to_string()),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(ErrorBody { error: self.error })).into_response();
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        for (name, value) in self.headers {
            headers.insert(name, value);
        }
        response
    }
}
