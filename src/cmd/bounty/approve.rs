//! Who is asked before a submission may cost anything.

use async_trait::async_trait;
use serde::Serialize;

use super::super::Failure;
use crate::protocol::amount::Msat;
use crate::protocol::ids::BountyId;

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
    /// How long the change is.
    pub(in crate::cmd) diff_bytes: usize,
}

/// Whoever decides whether a submission is paid for.
#[async_trait]
pub(in crate::cmd) trait Approve: Send + Sync {
    /// An error: it isn't.
    async fn approve(&self, quote: &Quote) -> Result<(), Failure>;
}

/// Somebody who typed the command has said yes by that.
#[derive(Clone, Copy, Debug)]
pub(super) struct Typed;

#[async_trait]
impl Approve for Typed {
    async fn approve(&self, _: &Quote) -> Result<(), Failure> {
        Ok(())
    }
}
