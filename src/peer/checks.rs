//! What the peer believes: every statement of the coordinator is checked here before it is acted on. Pure.

mod bounty;

pub use bounty::{NotWorthIt, check_bounty, check_bounty_limits, worth};

use super::error::PeerError;
use super::stage::{Entry, Fee, Judged, Offer};
use super::terms::{RunKind, RunTerms};
use crate::ln::bolt11::{self, Network};
use crate::protocol::amount::Msat;
use crate::protocol::api::{RunView, Ticket};
use crate::protocol::codec;
use crate::protocol::hold::MIN_HOLD_BLOCKS;
use crate::protocol::ids::{RoundNumber, UnixMs};
use crate::protocol::l402::{ChallengeParams, Identifier, Macaroon};
use crate::protocol::manifest::{MAX_CONTRIBUTIONS, RunManifest};
use crate::protocol::reward::tranche_amounts;
use crate::protocol::shards::MAX_SHARDS;
use crate::protocol::sign::Signed;
use crate::protocol::statements::{Commitment, Receipt, RoundOpening};
use crate::protocol::verdict::Verdict;

/// The manifest and codec versions that this program speaks.
const MANIFEST_VERSION: u32 = 1;
const CODEC_VERSION: u32 = codec::VERSION as u32;

/// What the peer's owner allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most that one submission fee may be.
    pub max_fee: Msat,
    /// The least that must be locked for one contribution.
    pub min_reward: Msat,
    /// The most blocks that a reward may stay locked.
    pub max_hold_blocks: u32,
}

fn untrusted(what: impl Into<String>) -> PeerError {
    PeerError::Untrusted(what.into())
}

/// The run: who signs it, what it pays.
pub fn check_run<'a>(view: &'a RunView, limits: &Limits) -> Result<&'a RunManifest, PeerError> {
    let manifest = &view.manifest.body;
    view.manifest.verify(&manifest.coordinator).map_err(|error| untrusted(format!("the run's manifest: {error}")))?;
    if view.run != manifest.run_id() {
        return Err(untrusted(format!("run {} has the manifest of run {}", view.run, manifest.run_id())));
    }
    if manifest.version != MANIFEST_VERSION || manifest.codec.version != CODEC_VERSION {
        return Err(PeerError::Terms(format!(
            "it has manifest version {} and codec version {}, this l402t speaks {MANIFEST_VERSION} and {CODEC_VERSION}",
            manifest.version, manifest.codec.version
        )));
    }
    let shards = manifest.training_data.shards.len();
    if !(1..=MAX_SHARDS).contains(&shards) || manifest.training_data.shards_per_round == 0 {
        return Err(PeerError::Terms(format!(
            "its training data are {shards} shards, {} a round; 1 ..= {MAX_SHARDS} are possible, and 1 or more a round",
            manifest.training_data.shards_per_round
        )));
    }
    let contributions = manifest.timing.max_contributions;
    if !(1..=MAX_CONTRIBUTIONS).contains(&contributions) {
        return Err(PeerError::Terms(format!(
            "its rounds take {contributions} contributions; 1 ..= {MAX_CONTRIBUTIONS} are possible"
        )));
    }
    let reward = &manifest.reward;
    if reward.fee_msat > limits.max_fee {
        return Err(PeerError::Terms(format!("its fee of {} is more than {}", reward.fee_msat, limits.max_fee)));
    }
    if !(MIN_HOLD_BLOCKS..=limits.max_hold_blocks).contains(&reward.hold_blocks) {
        return Err(PeerError::Terms(format!(
            "rewards are locked for {} blocks, not within {MIN_HOLD_BLOCKS} ..= {}",
            reward.hold_blocks, limits.max_hold_blocks
        )));
    }
    let amounts = tranche_amounts(reward);
    let locked = Msat::checked_sum(amounts.iter().copied()).unwrap_or(Msat::MAX_MONEY);
    if amounts.contains(&Msat::ZERO) || amounts.is_empty() || locked < limits.min_reward {
        return Err(PeerError::Terms(format!("it locks {locked} a contribution, less than {}", limits.min_reward)));
    }
    Ok(manifest)
}

/// A round's opening: the coordinator's, of this run, of the round that was asked for.
pub(super) fn check_opening(
    opening: &Signed<RoundOpening>,
    terms: &RunTerms,
    round: RoundNumber,
) -> Result<(), PeerError> {
    opening.verify(&terms.coordinator).map_err(|error| untrusted(format!("the opening of round {round}: {error}")))?;
    let body = &opening.body;
    if body.run != terms.run || body.round != round {
        return Err(untrusted(format!("asked for round {round}, got the opening of round {}", body.round)));
    }
    if let RunKind::Training(manifest) = &terms.kind
        && round == RoundNumber(0)
        && body.checkpoint != manifest.initial_checkpoint
    {
        return Err(untrusted("round 0 does not start from the run's initial checkpoint"));
    }
    Ok(())
}

/// An L402 challenge: one payment hash in macaroon and invoice, the agreed fee, this network. `None` if it came too late to
/// be paid. `now` is the coordinator's: an invoice is dated by its payee's clock.
pub(super) fn check_challenge(
    challenge: &ChallengeParams,
    terms: &RunTerms,
    limits: &Limits,
    network: Network,
    now: UnixMs,
) -> Result<Option<Fee>, PeerError> {
    let macaroon =
        Macaroon::from_base64(&challenge.macaroon).map_err(|error| untrusted(format!("the challenge: {error}")))?;
    let identifier = Identifier::of(&macaroon).map_err(|error| untrusted(format!("the challenge: {error}")))?;
    let invoice = bolt11::parse(&challenge.invoice, network)
        .map_err(|error| untrusted(format!("the challenge's invoice: {error}")))?;
    if identifier.payment_hash != invoice.payment_hash {
        return Err(untrusted("the challenge's invoice pays for another token"));
    }
    if invoice.amount != terms.fee || invoice.amount > limits.max_fee {
        return Err(untrusted(format!(
            "the challenge asks for {} where the run's fee is {}",
            invoice.amount, terms.fee
        )));
    }
    Ok((!invoice.is_expired(now)).then(|| Fee {
        macaroon: challenge.macaroon.clone(),
        invoice: invoice.bolt11.clone(),
        payment_hash: invoice.payment_hash,
        amount_msat: invoice.amount,
    }))
}

/// Reward terms: the coordinator's, for this contribution, exactly what the manifest promises, each tranche on a payment
/// hash of its own that isn't the fee's.
pub(super) fn check_terms(
    ticket: &Ticket,
    commitment: &Commitment,
    run: &RunTerms,
    fee: Option<&Fee>,
) -> Result<(), PeerError> {
    let contribution = commitment.contribution_id();
    let terms =
        ticket.terms.verify(&run.coordinator).map_err(|error| untrusted(format!("the reward terms: {error}")))?;
    if ticket.contribution != contribution || terms.contribution != contribution {
        return Err(untrusted("the ticket is for another contribution"));
    }
    let offered: Vec<Msat> = terms.tranches.iter().map(|tranche| tranche.amount_msat).collect();
    match &run.kind {
        RunKind::Training(manifest) if offered == tranche_amounts(&manifest.reward) => {}
        RunKind::Training(_) => {
            return Err(untrusted("the reward terms offer other tranches than the run's manifest"));
        }
        RunKind::Bounty(manifest) => bounty::check_offer(&offered, commitment.claim, manifest)?,
    }
    if terms.hold_blocks != run.hold_blocks {
        return Err(untrusted(format!(
            "the reward terms lock for {} blocks, the manifest says {}",
            terms.hold_blocks, run.hold_blocks
        )));
    }
    let mut hashes: Vec<_> = terms.tranches.iter().map(|tranche| tranche.payment_hash).collect();
    hashes.extend(fee.map(|fee| fee.payment_hash));
    hashes.sort_unstable();
    if hashes.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(untrusted("the reward terms use a payment hash twice"));
    }
    Ok(())
}

/// A receipt: the coordinator's, for this contribution and verdict, with the preimages of exactly the tranches that the
/// verdict pays.
pub(super) fn check_receipt(
    entry: &Entry,
    offer: &Offer,
    receipt: &Signed<Receipt>,
    verdict: &Verdict,
    run: &RunTerms,
) -> Result<Judged, PeerError> {
    let body = receipt.verify(&run.coordinator).map_err(|error| untrusted(format!("the receipt: {error}")))?;
    if body.contribution != entry.contribution || verdict.contribution() != entry.contribution {
        return Err(untrusted("the receipt is for another contribution"));
    }
    match (&run.kind, verdict) {
        (RunKind::Training(_), Verdict::Training(_)) | (RunKind::Bounty(_), Verdict::Bounty(_)) => {}
        (RunKind::Training(_), Verdict::Bounty(_)) | (RunKind::Bounty(_), Verdict::Training(_)) => {
            return Err(untrusted("the verdict is of another kind of run"));
        }
    }
    if body.verdict != verdict.digest() {
        return Err(untrusted("the receipt is for another verdict than the one shown"));
    }
    let tranches = &offer.ticket.terms.body.tranches;
    if body.preimages.len() != tranches.len() {
        return Err(untrusted(format!(
            "the receipt has {} preimages for {} tranches",
            body.preimages.len(),
            tranches.len()
        )));
    }
    let mut paid_mask = 0u32;
    let mut paid = Msat::ZERO;
    for (place, (preimage, tranche)) in body.preimages.iter().zip(tranches).enumerate() {
        let Some(preimage) = preimage else { continue };
        if preimage.payment_hash() != tranche.payment_hash {
            return Err(untrusted(format!("the receipt's preimage of tranche {place} is wrong")));
        }
        // At most 10 tranches (checked with the terms), so neither overflows.
        paid_mask |= 1 << place;
        paid = paid.checked_add(tranche.amount_msat).ok_or_else(|| untrusted("the receipt pays more than there is"))?;
    }
    // A fee that comes back is no reward.
    let is_worth = paid == verdict.reward() || verdict.returns_fee();
    if paid_mask != verdict.tranches_paid() || !is_worth {
        return Err(untrusted(format!(
            "the verdict pays {} in tranches {:b}, the receipt's preimages are worth {paid} in tranches {paid_mask:b}",
            verdict.reward(),
            verdict.tranches_paid()
        )));
    }
    Ok(Judged { offer: offer.clone(), receipt: receipt.clone(), verdict: verdict.clone() })
}
