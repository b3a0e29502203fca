//! L402 software that others wrote, over real Lightning nodes. Ignored by default: `./x foreign` fetches and builds what
//! they need and runs these.
#![cfg(all(feature = "embedded", feature = "lnd"))]

mod aperture;
mod live;
mod paid;
mod speed;

use std::path::PathBuf;

/// What `./x foreign` has fetched or built.
#[allow(clippy::disallowed_methods, reason = "what `./x foreign` hands over")]
fn given(variable: &str) -> PathBuf {
    PathBuf::from(
        std::env::var_os(variable).unwrap_or_else(|| panic!("run this with ./x foreign: {variable} is not set")),
    )
}
