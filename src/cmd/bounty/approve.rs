//! What is shown to whoever decides whether something is paid for.

use async_trait::async_trait;
use serde::Serialize;

use crate::peer::error::PeerError;
use crate::peer::submit::Consent;
use crate::protocol::amount::Msat;
use crate::protocol::ids::{Blake3Hash, BountyId};

/// Something that is about to be paid for.
#[derive(Clone, Debug, Serialize)]
pub(in crate::cmd) struct Quote {
    pub(in crate::cmd) bounty: BountyId,
    /// Its sponsor's words, without control characters.
    pub(in crate::cmd) title: String,
    /// Where.
    pub(in crate::cmd) coordinator: String,
    /// What it costs, routing aside.
    pub(in crate::cmd) fee_msat: Msat,
    pub(in crate::cmd) order: Order,
}

/// What is paid for.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::cmd) enum Order {
    /// What the bounty gives its agents.
    Package,
    /// A submission.
    Submission {
        /// As a decimal number.
        claim: String,
        /// The files that it may change: names of the sponsor's, without control characters.
        files: Vec<String>,
        /// Hash of the change.
        diff: Blake3Hash,
        /// How long the change is.
        diff_bytes: usize,
        /// It is to be paid for even if it was decided before.
        again: bool,
    },
}

/// Whoever decides whether something is paid for.
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

/// Asks about one payment, when it is certain that it would be made.
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
