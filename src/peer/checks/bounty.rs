//! What is believed of a bounty: its two signatures, its escrow, and what it offers for a claim.

use std::collections::BTreeSet;

use super::{Limits, untrusted};
use crate::peer::error::PeerError;
use crate::protocol::amount::Msat;
use crate::protocol::api::{BountyPhase, BountyView};
use crate::protocol::bounty::offer::{LEAST_TRANCHE, Offer};
use crate::protocol::bounty::score::Score;
use crate::protocol::bounty::statements::BountyManifest;
use crate::protocol::hold::MIN_HOLD_BLOCKS;

/// The manifest version that this program speaks.
const MANIFEST_VERSION: u32 = 1;
/// More hold invoices than this for one budget are nobody's.
const MOST_ESCROW: usize = 256;

/// A bounty: posted by its sponsor, taken on by its coordinator, with an escrow that is the budget, and rules that can be kept.
pub fn check_bounty(view: &BountyView) -> Result<&BountyManifest, PeerError> {
    let manifest = &view.manifest.body;
    let posting = &manifest.posting.body;
    let signed = |what: &str, error| untrusted(format!("the bounty's {what}: {error}"));
    manifest.posting.verify(&posting.sponsor).map_err(|error| signed("posting", error))?;
    view.manifest.verify(&posting.coordinator).map_err(|error| signed("manifest", error))?;
    if view.bounty != posting.bounty_id() {
        return Err(untrusted(format!("bounty {} has the posting of bounty {}", view.bounty, posting.bounty_id())));
    }
    if view.run != manifest.run_id() {
        return Err(untrusted(format!("run {} has the manifest of run {}", view.run, manifest.run_id())));
    }
    if manifest.version != MANIFEST_VERSION {
        let version = manifest.version;
        let message = format!("it has manifest version {version}, this l402t speaks {MANIFEST_VERSION}");
        return Err(PeerError::Terms(message));
    }
    posting.rules.scale().map_err(|error| untrusted(format!("the bounty's rules can't be kept: {error}")))?;
    let amounts = || manifest.escrow.iter().map(|tranche| tranche.amount_msat);
    let hashes: BTreeSet<_> = manifest.escrow.iter().map(|tranche| tranche.payment_hash).collect();
    if hashes.len() != manifest.escrow.len() || hashes.len() > MOST_ESCROW || amounts().any(|msat| msat == Msat::ZERO) {
        return Err(untrusted("the escrow has a payment hash twice, an empty tranche, or far too many"));
    }
    if Msat::checked_sum(amounts()) != Some(posting.rules.budget_msat) {
        return Err(untrusted(format!("the escrow is not the budget, {}", posting.rules.budget_msat)));
    }
    if manifest.hold_blocks < MIN_HOLD_BLOCKS {
        let blocks = manifest.hold_blocks;
        return Err(PeerError::Terms(format!("rewards are locked for {blocks} blocks, fewer than {MIN_HOLD_BLOCKS}")));
    }
    Ok(manifest)
}

/// Does an agent's owner allow what it asks for?
pub fn check_bounty_limits(manifest: &BountyManifest, limits: &Limits) -> Result<(), PeerError> {
    let rules = &manifest.posting.body.rules;
    if rules.fee_msat > limits.max_fee {
        return Err(PeerError::Terms(format!("its fee of {} is more than {}", rules.fee_msat, limits.max_fee)));
    }
    if manifest.hold_blocks > limits.max_hold_blocks {
        return Err(PeerError::Terms(format!(
            "rewards are locked for {} blocks, more than {}",
            manifest.hold_blocks, limits.max_hold_blocks
        )));
    }
    Ok(())
}

/// Why a claim isn't worth its fee, or can't be submitted now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotWorthIt {
    /// It isn't open.
    #[error("the bounty takes no submissions: it is {}", .0.name())]
    NotOpen(BountyPhase),
    /// Its deadline is over.
    #[error("the bounty's deadline is over")]
    Late,
    /// All were taken.
    #[error("the bounty has taken all of its {0} submissions")]
    Full(u32),
    /// The target is reached.
    #[error("nothing is left of the budget")]
    NothingLeft,
    /// No step from the best so far.
    #[error("a claim must be at least {least}: {best} was reached already")]
    ClaimTooSmall {
        /// As a decimal number.
        least: String,
        /// The same.
        best: String,
    },
    /// Less than the owner wants.
    #[error("the claim is worth {worth} now, and {least} is the least that is taken")]
    TooLittle {
        /// What it would pay.
        worth: Msat,
        /// What it must.
        least: Msat,
    },
}

impl NotWorthIt {
    /// Stable, snake_case.
    pub fn code(&self) -> &'static str {
        match self {
            NotWorthIt::NotOpen(_) => "bounty_not_open",
            NotWorthIt::Late => "deadline_past",
            NotWorthIt::Full(_) => "cap_reached",
            NotWorthIt::NothingLeft => "nothing_left",
            NotWorthIt::ClaimTooSmall { .. } => "claim_too_small",
            NotWorthIt::TooLittle { .. } => "reward_too_small",
        }
    }

    /// What to do.
    pub fn fix(&self) -> &'static str {
        match self {
            NotWorthIt::NotOpen(_) | NotWorthIt::Late | NotWorthIt::Full(_) | NotWorthIt::NothingLeft => {
                "Choose another one: l402t bounty list"
            }
            NotWorthIt::ClaimTooSmall { .. } => "Improve the change until it scores that, then claim what it scores",
            NotWorthIt::TooLittle { .. } => "Claim more if it scores more, or lower [bounty] min_reward_sat",
        }
    }
}

/// What a claim would pay if it were committed to now. The view's own figures are nobody's promise: they only save a fee.
pub fn worth(view: &BountyView, claim: Score, limits: &Limits) -> Result<Msat, NotWorthIt> {
    let rules = &view.manifest.body.posting.body.rules;
    if view.phase != BountyPhase::Open {
        return Err(NotWorthIt::NotOpen(view.phase));
    }
    if view.now_ms > rules.deadline_ms {
        return Err(NotWorthIt::Late);
    }
    if view.submissions >= rules.submission_cap {
        return Err(NotWorthIt::Full(rules.submission_cap));
    }
    let least = view.least_claim.ok_or(NotWorthIt::NothingLeft)?;
    if rules.direction.improvement(least, claim) < 0 {
        let shown = |score: Score| score.shown(rules.decimals).to_string();
        return Err(NotWorthIt::ClaimTooSmall { least: shown(least), best: shown(view.best) });
    }
    let scale = rules.scale().map_err(|_| NotWorthIt::NothingLeft)?;
    let worth = scale.payout(rules.budget_msat, claim, view.best);
    if worth < limits.min_reward.max(LEAST_TRANCHE) {
        return Err(NotWorthIt::TooLittle { worth, least: limits.min_reward.max(LEAST_TRANCHE) });
    }
    Ok(worth)
}

/// What is offered for a claim: the tranches of one amount, which is no more than the claim can be worth. How much less it may
/// be is the owner's to say: others may have come first.
pub(super) fn check_offer(offered: &[Msat], claim: Option<Score>, manifest: &BountyManifest) -> Result<(), PeerError> {
    let rules = &manifest.posting.body.rules;
    let claim = claim.ok_or_else(|| untrusted("a ticket for a submission without a claim"))?;
    let scale = rules.scale().map_err(|error| untrusted(error.to_string()))?;
    let offer = Offer::read(offered, rules.fee_msat)
        .ok_or_else(|| untrusted("the reward terms are not the tranches of one reward and the fee"))?;
    let worth = scale.payout(rules.budget_msat, claim, rules.baseline);
    if offer.most() > worth {
        return Err(untrusted(format!("the reward terms offer more than the {worth} that the claim can be worth")));
    }
    Ok(())
}
