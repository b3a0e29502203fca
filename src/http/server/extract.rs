//! From a request to trusted types: path parameters, signed JSON bodies, payloads. Bounds come before bytes.

use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use futures_util::StreamExt as _;
use tokio::time::{Instant, timeout};

use super::failure::Failure;
use super::limits::MAX_JSON_BYTES;
use super::routes::App;
use crate::coordinator::handle::CoordinatorHandle;
use crate::protocol::ids::RoundNumber;
use crate::protocol::sign::{SignatureError, Signed, Statement};

/// What route paths call a bounty's id.
const BOUNTY: &str = "bounty";

/// The path's last parameter.
pub(super) struct PathParam<T>(pub(super) T);

impl<T> FromRequestParts<App> for PathParam<T>
where
    T: FromStr<Err: Display>,
{
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Failure> {
        let params = path_params(parts, app).await?;
        let (name, value) = params.iter().last().ok_or_else(|| bad_path("the path lacks a parameter"))?;
        parse_param(name, value).map(Self)
    }
}

/// Whose rounds, blobs and contributions a path means: those of the bounty that it names, or the training run's.
pub(super) struct Target(pub(super) Arc<dyn CoordinatorHandle>);

impl FromRequestParts<App> for Target {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Failure> {
        let params = path_params(parts, app).await?;
        match params.iter().find(|(name, _)| *name == BOUNTY) {
            Some((name, value)) => Ok(Self(app.services.need_bounty(&parse_param(name, value)?)?)),
            None => app.services.need_training().map(Self),
        }
    }
}

async fn path_params(parts: &mut Parts, app: &App) -> Result<RawPathParams, Failure> {
    RawPathParams::from_request_parts(parts, app).await.map_err(|_| bad_path("the path is not UTF-8"))
}

fn parse_param<T: FromStr<Err: Display>>(name: &str, value: &str) -> Result<T, Failure> {
    value.parse().map_err(|error| bad_path(format!("{name} in the path can't be read: {error}")))
}

fn bad_path(message: impl Into<String>) -> Failure {
    Failure::new(StatusCode::BAD_REQUEST, "bad_path", message, "check the URL's path")
}

/// A round's number as a path shows it: plain digits, without zeros before them.
pub(super) struct RoundParam(pub(super) RoundNumber);

impl FromStr for RoundParam {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = text.parse().ok().filter(|number: &u32| number.to_string() == text);
        number.map(|number| Self(RoundNumber(number))).ok_or("expected a round's number")
    }
}

/// A signed statement in its canonical JSON. The signature is for the coordinator to check.
pub(super) struct SignedBody<T>(pub(super) Signed<T>);

impl<T: Statement> FromRequest<App> for SignedBody<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, app: &App) -> Result<Self, Failure> {
        require_content_type(request.headers(), "application/json")?;
        require_length(request.headers(), MAX_JSON_BYTES)?;
        let bytes = read_body(request.into_body(), MAX_JSON_BYTES, |_| app.limits.json_body).await?;
        let signed = Signed::from_bytes(&bytes).map_err(|error| {
            let (code, fix) = match error {
                SignatureError::NotCanonical => ("not_canonical", "send exactly the bytes that were signed"),
                SignatureError::Malformed(_) | SignatureError::Mismatch(_) => {
                    ("malformed_body", "compare the body with /v1/openapi.json")
                }
            };
            Failure::new(StatusCode::BAD_REQUEST, code, error.to_string(), fix)
        })?;
        Ok(Self(signed))
    }
}

/// 415 unless the body is declared as `expected` (parameters such as a charset aside).
pub(super) fn require_content_type(headers: &HeaderMap, expected: &str) -> Result<(), Failure> {
    let declared = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = declared.split(';').next().unwrap_or("").trim();
    if essence.eq_ignore_ascii_case(expected) {
        return Ok(());
    }
    let message = format!("the body's Content-Type is {:?}", declared.chars().take(80).collect::<String>());
    let fix = format!("send {expected}");
    Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message, fix))
}

/// 413 if the declared length is over the limit, before a byte of the body is read.
pub(super) fn require_length(headers: &HeaderMap, limit_bytes: u64) -> Result<(), Failure> {
    match declared_length(headers) {
        Some(length) if length > limit_bytes => Err(Failure::too_large(limit_bytes)),
        _ => Ok(()),
    }
}

/// `Content-Length`, if there is one.
pub(super) fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Reads a body of at most `limit_bytes`. Once n bytes are here, the next one or the end must come within `time(n)` from the
/// start.
pub(super) async fn read_body(
    body: Body,
    limit_bytes: u64,
    time: impl Fn(u64) -> Duration,
) -> Result<Vec<u8>, Failure> {
    let (start, mut bytes) = (Instant::now(), Vec::new());
    let mut stream = body.into_data_stream();
    loop {
        let left = time(bytes.len() as u64).saturating_sub(start.elapsed());
        let Ok(chunk) = timeout(left, stream.next()).await else { return Err(Failure::slow_body()) };
        let Some(chunk) = chunk else { return Ok(bytes) };
        let chunk = chunk.map_err(|_| {
            let message = format!("the request's body broke off after {} bytes", bytes.len());
            Failure::new(StatusCode::BAD_REQUEST, "body_truncated", message, "send the whole body")
        })?;
        if (bytes.len() as u64).saturating_add(chunk.len() as u64) > limit_bytes {
            return Err(Failure::too_large(limit_bytes));
        }
        bytes.extend_from_slice(&chunk);
    }
}
