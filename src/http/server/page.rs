//! The status page: one file, no external assets, fed by /v1/status.

use std::sync::LazyLock;

use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

const PAGE: &str = include_str!("status.html");

/// Only the page's own script and style run, and only this coordinator is asked.
static POLICY: LazyLock<Option<HeaderValue>> = LazyLock::new(|| {
    let hash = |tag: &str| {
        let inside = PAGE.split_once(&format!("<{tag}>"))?.1.split_once(&format!("</{tag}>"))?.0;
        Some(STANDARD.encode(Sha256::digest(inside)))
    };
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash("script")?,
        hash("style")?
    );
    HeaderValue::try_from(policy).ok()
});

pub(super) async fn serve() -> Response {
    let policy = POLICY.clone().unwrap_or(HeaderValue::from_static("default-src 'none'"));
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (CONTENT_SECURITY_POLICY, policy),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (headers, PAGE).into_response()
}
