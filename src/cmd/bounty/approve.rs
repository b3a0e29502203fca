//! What is shown to whoever decides whether a submission is paid for.

use async_trait::async_trait;
use serde::Serialize;

use crate::peer::error::PeerError;
use crate::peer::submit::Consent;
use crate::protocol::amount::Msat;
use crate::protocol::ids::{Blake3Hash, BountyId};

/// A submission that is about to be paid for.
#[derive(Clone, Debug, Serialize)]
pub(in crate::cmd) struct Quote {
    pub(in crate::cmd) bounty: BountyId,
    /// Its sponsor's words, without control characters.
    pub(in crate::cmd) title: String,
    /// Where.
    pub(in crate::cmd) coordinator: String,
    /// As a decimal number.
    pub(in crate::cmd) claim: String,
    /// What it costs, routing aside.
    pub(in crate::cmd) fee_msat: Msat,
    /// The files that it may change: names of the sponsor's, without control characters.
    pub(in crate::cmd) files: Vec<String>,
    /// Hash of the change.
    pub(in crate::cmd) diff: Blake3Hash,
    /// How long the change is.
    pub(in crate::cmd) diff_bytes: usize,
    /// It is to be paid for even if it was decided before.
    pub(in crate::cmd) again: bool,
}

/// Whoever decides whether a submission is paid for.
#[async_trait]
pub(in crate::cmd) trait Approve: Send + Sync {
    /// An error: it isn't.
    async fn approve(&self, quote: &Quote) -> Result<(), PeerError>;
}

/// Somebody who typed the command has said yes by that.
#[derive(Clone, Copy, Debug)]
pub(super) struct Typed;

#[async_trait]
impl Approve for Typed {
    async fn approve(&self, _: &Quote) -> Result<(), PeerError> {
        Ok(())
    }
}

/// Asks about one submission, when it is certain that it would cost something.
pub(super) struct Asking<'a> {
    pub(super) approve: &'a dyn Approve,
    pub(super) quote: Quote,
}

#[async_trait]
impl Consent for Asking<'_> {
    async fn ask(&self) -> Result<(), PeerError> {
        self.approve.approve(&self.quote).await
    }
}
