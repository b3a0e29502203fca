//! Postings whose budget is not locked yet, and which of them gives way to a newcomer.
//!
//! Nobody has paid for such a posting, so it must not keep others out for as long as its sponsor may take. What gives way
//! is ended by its own engine, as if its time were over: that cancels the invoices before anything else, and gives back what
//! was locked in between.

use std::sync::Arc;

use super::super::core::Core;
use super::super::engine::Shared;
use super::super::error::CoordinatorError;
use crate::ln::InvoiceStatus;
use crate::protocol::api::BountyPhase;
use crate::protocol::ids::UnixMs;

/// For so long a posting keeps its place whoever else comes: its sponsor has just got the invoices, and pays the first one.
const PLACE_MS: u64 = 60_000;
/// How often, and for how long, an engine is looked at that has been told to end a posting.
const LOOKS: u32 = 200;
const LOOK_MS: u64 = 50;

const WHY: &str = "none of the budget was locked, and it gave way to another posting";

/// The oldest of these postings that has had its time and has nothing locked.
pub(super) async fn gives_way(
    mut waiting: Vec<Arc<Shared>>,
    now: UnixMs,
) -> Result<Option<Arc<Shared>>, CoordinatorError> {
    waiting.sort_by_key(|shared| shared.run.bounty().map(|task| task.manifest.body.created_ms));
    for shared in waiting {
        let task = shared.run.bounty_task()?;
        if now > task.manifest.body.created_ms.plus_ms(PLACE_MS) && shared.has_nothing_locked().await? {
            return Ok(Some(shared));
        }
    }
    Ok(None)
}

impl Shared {
    async fn has_nothing_locked(&self) -> Result<bool, CoordinatorError> {
        for part in &self.run.bounty_task()?.manifest.body.escrow {
            match self.ln.invoice(part.payment_hash).await? {
                InvoiceStatus::NotFound | InvoiceStatus::Open | InvoiceStatus::Canceled => {}
                InvoiceStatus::Accepted { .. } | InvoiceStatus::Settled { .. } => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Has the engine end the waiting for the budget. False if all of it was locked just before, or the node is slow: then
    /// it still has its place.
    pub(super) async fn give_way(&self) -> Result<bool, CoordinatorError> {
        let end = |core: &mut Core| match core.bounty_state()?.escrow.phase {
            BountyPhase::AwaitingEscrow => core.stop_taking(WHY),
            BountyPhase::Checking
            | BountyPhase::Open
            | BountyPhase::Closing
            | BountyPhase::Closed
            | BountyPhase::Refused => Ok(()),
        };
        self.with(end).await?;
        self.wake();
        for _ in 0..LOOKS {
            match self.read(|core| Ok(core.bounty_state()?.escrow.phase)).await? {
                BountyPhase::Refused => return Ok(true),
                BountyPhase::AwaitingEscrow => self.clock.sleep(LOOK_MS).await,
                BountyPhase::Checking | BountyPhase::Open | BountyPhase::Closing | BountyPhase::Closed => break,
            }
        }
        Ok(false)
    }
}
