//! What a peer may be told. `cmd` fills this from the configuration.

use super::checks::Limits;
use crate::ln::MAX_HOLD_CLTV_BLOCKS;
use crate::protocol::amount::Msat;

/// How long and how often a peer tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerSettings {
    /// What the owner allows.
    pub limits: Limits,
    /// The most that bounties may cost within 24 hours, packages and submissions, with their routing; `None`: no such limit.
    pub max_daily_fees: Option<Msat>,
    /// How long a coordinator may stay unreachable, in ms.
    pub give_up_after_ms: u64,
    /// How long to wait for a usable channel, in ms.
    pub channel_wait_ms: u64,
    /// How long past the round's last deadline to wait for a receipt before going on with the next round, in ms. The
    /// contribution is not forgotten: it is looked at again before each round.
    pub receipt_wait_ms: u64,
    /// Time between two looks at something that changes without a hint, in ms.
    pub poll_ms: u64,
}

impl Default for PeerSettings {
    fn default() -> Self {
        Self {
            limits: Limits {
                max_fee: Msat::new(10_000),
                min_reward: Msat::ZERO,
                max_hold_blocks: MAX_HOLD_CLTV_BLOCKS,
            },
            max_daily_fees: None,
            give_up_after_ms: 300_000,
            channel_wait_ms: 120_000,
            receipt_wait_ms: 600_000,
            poll_ms: 200,
        }
    }
}
