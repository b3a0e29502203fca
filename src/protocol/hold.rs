//! How long a reward stays locked, in blocks: when a preimage may still be revealed, and when a tranche is given back.
//!
//! ```text
//!  locked                          upload    reveal   give back   node gives back        timeout on chain
//!    |------------------------------|---------|---------|-----------|--------------------------|
//!    lock height                   −8        −6        −2      expiry height            + 39 at most
//! ```
//!
//! Both sides read the same chain but not at the same moment: each margin leaves the other side blocks to act in.

/// A payee's node gives an HTLC back so many blocks before it could be timed out on chain, or fewer (LDK 39, LND 18).
pub const NODE_MARGIN_BLOCKS: u32 = 39;

/// The payee gives a tranche back itself, on the record, so many blocks before its node would, if no preimage has come.
pub const GIVE_BACK_MARGIN_BLOCKS: u32 = 2;

/// The coordinator reveals no preimage with fewer blocks left: the peer has to fetch and claim in them.
pub const REVEAL_MARGIN_BLOCKS: u32 = 6;

/// A peer sends no payload with fewer blocks left: it could not be judged in time.
pub const UPLOAD_MARGIN_BLOCKS: u32 = 8;

/// With fewer blocks left a peer looks for its receipt whatever else it is doing.
pub const LOOK_MARGIN_BLOCKS: u32 = 24;

/// Fewest blocks for which a run may lock rewards.
pub const MIN_HOLD_BLOCKS: u32 = NODE_MARGIN_BLOCKS + UPLOAD_MARGIN_BLOCKS + 1;

/// The earliest height at which the payee's node may give back what was sent at `sent_height` or later.
pub fn expiry_height(sent_height: u32, hold_blocks: u32) -> u32 {
    sent_height.saturating_add(hold_blocks.saturating_sub(NODE_MARGIN_BLOCKS))
}

/// May preimages still be revealed?
pub fn may_reveal(tip: u32, expiry_height: u32) -> bool {
    tip.saturating_add(REVEAL_MARGIN_BLOCKS) <= expiry_height
}

/// May a payload still be sent?
pub fn may_upload(tip: u32, expiry_height: u32) -> bool {
    tip.saturating_add(UPLOAD_MARGIN_BLOCKS) <= expiry_height
}

/// Does the payee have what settles a tranche?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knowledge {
    /// The preimage is in its journal.
    Preimage,
    /// It isn't, and may still come.
    Nothing,
}

/// What a payee must do about a tranche that its node holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Nothing yet.
    Wait,
    /// Claim, again if need be.
    Claim,
    /// Ask for the receipt.
    LookForReceipt,
    /// Give it back before the node does.
    GiveBack,
}

/// What a payee must do at height `tip` about a tranche that its node gives back at `expiry_height`; `None` if the node
/// doesn't know when.
pub fn duty(tip: u32, expiry_height: Option<u32>, knows: Knowledge) -> Duty {
    let within = |margin: u32| expiry_height.is_some_and(|expiry| tip.saturating_add(margin) >= expiry);
    match knows {
        Knowledge::Preimage => Duty::Claim,
        Knowledge::Nothing if within(GIVE_BACK_MARGIN_BLOCKS) => Duty::GiveBack,
        Knowledge::Nothing if within(LOOK_MARGIN_BLOCKS) => Duty::LookForReceipt,
        Knowledge::Nothing => Duty::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tranche_without_a_preimage_is_given_back_two_blocks_before_the_node_would() {
        let at = |tip| duty(tip, Some(1_000), Knowledge::Nothing);
        assert_eq!(at(975), Duty::Wait);
        assert_eq!(at(976), Duty::LookForReceipt);
        assert_eq!(at(997), Duty::LookForReceipt);
        assert_eq!(at(998), Duty::GiveBack);
        // Late, or after blocks that came all at once.
        assert_eq!(at(1_500), Duty::GiveBack);
        assert_eq!(duty(1_500, None, Knowledge::Nothing), Duty::Wait);
    }

    #[test]
    fn what_can_be_claimed_is_claimed_at_any_height() {
        for tip in [0, 997, 998, 1_000, 1_039] {
            assert_eq!(duty(tip, Some(1_000), Knowledge::Preimage), Duty::Claim);
        }
    }

    #[test]
    fn what_is_revealed_in_time_can_be_claimed_in_time() {
        // Sent at 100 for 144 blocks: a node may give it back from 205 on.
        let expiry = expiry_height(100, 144);
        assert_eq!(expiry, 205);
        assert!(may_upload(197, expiry) && !may_upload(198, expiry));
        assert!(may_reveal(199, expiry) && !may_reveal(200, expiry));
        let last = (0..300).filter(|tip| may_reveal(*tip, expiry)).max().expect("some");
        // Even then the peer has blocks to fetch the receipt in before it gives back.
        let blocks = (last..).take_while(|tip| duty(*tip, Some(expiry), Knowledge::Nothing) != Duty::GiveBack).count();
        assert_eq!(blocks, 4);
    }

    #[test]
    fn the_shortest_hold_leaves_room_for_an_upload() {
        assert!(may_upload(500, expiry_height(500, MIN_HOLD_BLOCKS)));
    }
}
