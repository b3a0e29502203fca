//! Whether a node's channels can move what a run locks and asks for. Rewards flow from the coordinator to its peers, fees
//! the other way.

use crate::protocol::amount::Msat;
use crate::protocol::manifest::RewardParams;
use crate::protocol::reward::tranche_amounts;

/// Whose node it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// It pays rewards.
    Coordinator,
    /// It pays fees.
    Peer,
}

/// What a node's channels can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Channels {
    /// How many of them are in use.
    pub(super) count: u32,
    /// What they can send.
    pub(super) outbound: Msat,
    /// What they can receive.
    pub(super) inbound: Msat,
}

/// What is too little of something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shortage {
    /// Stable, snake_case.
    pub(super) code: &'static str,
    /// What there is, and what is needed.
    pub(super) message: String,
    /// What to do.
    pub(super) fix: &'static str,
}

/// How many contributions fit at once, in words, or what is short.
pub(super) fn check(side: Side, channels: &Channels, reward: &RewardParams) -> Result<String, Shortage> {
    let locked = Msat::checked_sum(tranche_amounts(reward)).unwrap_or(Msat::MAX_MONEY);
    let fee = reward.fee_msat;
    let Channels { count, outbound, inbound } = *channels;
    let found = format!(
        "{count} usable channels, can send {outbound} and receive {inbound}; one contribution locks {locked}, its fee is {fee}"
    );
    let (rewards, fees) = match side {
        Side::Coordinator => (outbound, inbound),
        Side::Peer => (inbound, outbound),
    };
    if rewards >= locked && fees >= fee {
        let fit = rewards.msat().checked_div(locked.msat()).unwrap_or(u64::MAX);
        return Ok(format!("{found}, so {fit} fit at once"));
    }
    let (code, fix) = match side {
        _ if count == 0 => ("no_channel", no_channel(side)),
        Side::Coordinator if rewards < locked => (
            "too_little_outbound",
            "Open channels to the peers (l402t does where [coordinator.channels] says so), or refill them",
        ),
        Side::Coordinator => {
            ("too_little_inbound", "Push a little to the peers when opening channels, so that they can pay their fee")
        }
        Side::Peer if rewards < locked => ("too_little_inbound", no_channel(side)),
        Side::Peer => {
            ("too_little_outbound", "Open a channel, or ask the coordinator to push enough for the first fees")
        }
    };
    Err(Shortage { code, message: found, fix })
}

fn no_channel(side: Side) -> &'static str {
    match side {
        Side::Coordinator => {
            "Open channels to the peers, with something pushed for their fees (l402t does where [coordinator.channels] says so)"
        }
        Side::Peer => {
            "Ask the coordinator to open a channel to this node (many do by themselves at the first registration): a \
             channel that this node opened gives it no inbound capacity"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_can_not_move_a_reward_or_a_fee_is_told_in_which_direction() {
        let reward = RewardParams::default();
        let locked = Msat::checked_sum(tranche_amounts(&reward)).expect("small").msat();
        let fee = reward.fee_msat.msat();
        let with = |side, count, outbound, inbound| {
            let channels = Channels { count, outbound: Msat::new(outbound), inbound: Msat::new(inbound) };
            check(side, &channels, &reward).map_err(|short| (short.code, short.fix))
        };
        let code = |side, count, outbound, inbound| with(side, count, outbound, inbound).err().map(|(code, _)| code);
        assert_eq!(code(Side::Coordinator, 1, locked, fee), None);
        assert_eq!(code(Side::Coordinator, 1, locked - 1, fee), Some("too_little_outbound"));
        assert_eq!(code(Side::Coordinator, 1, locked, fee - 1), Some("too_little_inbound"));
        assert_eq!(code(Side::Coordinator, 0, 0, 0), Some("no_channel"));
        assert_eq!(code(Side::Peer, 1, fee, locked), None);
        assert_eq!(code(Side::Peer, 1, locked, 0), Some("too_little_inbound"));
        assert_eq!(code(Side::Peer, 1, 0, locked), Some("too_little_outbound"));
        let (code, fix) = with(Side::Peer, 0, 0, 0).expect_err("nothing");
        assert!(code == "no_channel" && fix.contains("no inbound capacity"));
    }
}
