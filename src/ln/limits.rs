//! Bounds that every node keeps, so that what one implementation takes another takes too.

use super::{InvoiceRequest, LnError};
use crate::protocol::amount::Msat;

/// Longest description of an invoice, in bytes.
pub const MAX_DESCRIPTION_BYTES: usize = 100;

/// A payee gives a locked HTLC back this many blocks before it could be timed out on chain, so as to never claim too
/// late (LDK's `HTLC_FAIL_BACK_BUFFER`).
pub const FAIL_BACK_BLOCKS: u32 = 39;

/// Fewest blocks that a hold invoice may ask for: three more than [`FAIL_BACK_BLOCKS`]. Also what ordinary invoices ask.
pub const MIN_FINAL_CLTV_BLOCKS: u32 = 42;

/// Most blocks that a hold invoice may ask for. Payers refuse routes of 1,008 blocks and more.
pub const MAX_HOLD_CLTV_BLOCKS: u32 = 1_000;

/// Longest life of an invoice: a week, in seconds.
pub const MAX_EXPIRY_S: u32 = 7 * 24 * 3_600;

/// Refuses a request that no node would take.
pub(super) fn check_request(request: &InvoiceRequest, final_cltv_blocks: u32) -> Result<(), LnError> {
    let refuse = |what: String| Err(LnError::Refused(what));
    if request.amount == Msat::ZERO || request.amount > Msat::MAX_MONEY {
        return refuse(format!("can't ask for {}", request.amount));
    }
    if request.description.len() > MAX_DESCRIPTION_BYTES {
        return refuse(format!(
            "a description of {} bytes, more than {MAX_DESCRIPTION_BYTES}",
            request.description.len()
        ));
    }
    if request.expiry_s == 0 || request.expiry_s > MAX_EXPIRY_S {
        return refuse(format!("an expiry of {} s is not within 1 ..= {MAX_EXPIRY_S}", request.expiry_s));
    }
    if !(MIN_FINAL_CLTV_BLOCKS..=MAX_HOLD_CLTV_BLOCKS).contains(&final_cltv_blocks) {
        return refuse(format!(
            "{final_cltv_blocks} blocks for the last hop are not within {MIN_FINAL_CLTV_BLOCKS} ..= {MAX_HOLD_CLTV_BLOCKS}"
        ));
    }
    Ok(())
}
