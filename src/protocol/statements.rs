//! What coordinator and peer say to each other under their signatures in the course of a round.

use serde::{Deserialize, Serialize};

use super::amount::Msat;
use super::bounty::score::Score;
use super::ids::{Blake3Hash, ContributionId, PaymentHash, PeerId, Preimage, RoundNumber, RunId, UnixMs};
use super::sign::Statement;

/// The coordinator opens a round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoundOpening {
    /// The run.
    pub run: RunId,
    /// Which round.
    pub round: RoundNumber,
    /// Digest of the previous round's transcript body; `None` in round 0.
    pub previous_transcript: Option<Blake3Hash>,
    /// The checkpoint that everyone starts from.
    pub checkpoint: Blake3Hash,
    /// `held_out::secret_commitment` of the secret that will help to choose the held-out batch.
    pub secret_commitment: Blake3Hash,
    /// When the round opened.
    pub opened_ms: UnixMs,
    /// No commitment is taken after this.
    pub commit_deadline_ms: UnixMs,
    /// No payload is taken after this.
    pub upload_deadline_ms: UnixMs,
}

impl Statement for RoundOpening {
    const CONTEXT: &'static str = "l402t round opening v1";
}

/// A peer commits to its payload before anyone can see it. Signed by `peer`; its digest is the contribution's id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commitment {
    /// The run.
    pub run: RunId,
    /// The round.
    pub round: RoundNumber,
    /// Digest of the round's opening.
    pub opening: Blake3Hash,
    /// Who commits.
    pub peer: PeerId,
    /// BLAKE3 of the encoded sparse update, or of a bounty's [`super::bounty::payload`].
    pub payload: Blake3Hash,
    /// Its length in bytes.
    pub payload_bytes: u64,
    /// To a bounty only: what the payload's diff scores at least. Fixes what it is paid, and pays nothing where it is too much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Score>,
}

impl Statement for Commitment {
    const CONTEXT: &'static str = "l402t commitment v1";
}

impl Commitment {
    /// The contribution's id.
    pub fn contribution_id(&self) -> ContributionId {
        ContributionId::from_bytes(*self.digest().as_bytes())
    }
}

/// One hold invoice of a reward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tranche {
    /// Its preimage is the coordinator's until the verdict.
    pub payment_hash: PaymentHash,
    /// What it pays.
    pub amount_msat: Msat,
}

/// The coordinator's offer to a ticket holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewardTerms {
    /// For which contribution.
    pub contribution: ContributionId,
    /// Its place in the order of commitments, from 0: of two copies, the later one is the copy.
    pub sequence: u32,
    /// Smallest first: 1, 2, 4 … units.
    pub tranches: Vec<Tranche>,
    /// CLTV delta of the hold invoices, in blocks.
    pub hold_blocks: u32,
    /// Until when the invoices must be sent.
    pub invoices_deadline_ms: UnixMs,
}

impl Statement for RewardTerms {
    const CONTEXT: &'static str = "l402t reward terms v1";
}

/// The peer accepts the terms: one BOLT 11 hold invoice a tranche, in the terms' order. Signed by the peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InvoiceSubmission {
    /// For which contribution.
    pub contribution: ContributionId,
    /// Digest of the terms.
    pub terms: Blake3Hash,
    /// BOLT 11 invoices.
    pub invoices: Vec<String>,
}

impl Statement for InvoiceSubmission {
    const CONTEXT: &'static str = "l402t invoice submission v1";
}

/// The coordinator's final word on a contribution: the verdict's digest, and the preimages it earned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// For which contribution.
    pub contribution: ContributionId,
    /// Digest of its [`super::verdict::VerdictRecord`].
    pub verdict: Blake3Hash,
    /// One entry a tranche, in the terms' order: the preimage where the tranche was earned; the peer cancels the others.
    pub preimages: Vec<Option<Preimage>>,
}

impl Statement for Receipt {
    const CONTEXT: &'static str = "l402t receipt v1";
}

/// A peer asks the coordinator to know its Lightning node (and, where the coordinator does that, to open a channel to it).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerRegistration {
    /// The run.
    pub run: RunId,
    /// Who asks.
    pub peer: PeerId,
    /// Its Lightning node's public key, 66 hex digits.
    pub node_id: String,
    /// Where its node listens, `host:port`; `None` if it can't be reached.
    pub address: Option<String>,
}

impl Statement for PeerRegistration {
    const CONTEXT: &'static str = "l402t peer registration v1";
}
