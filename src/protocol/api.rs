//! The HTTP API's bodies. All paths are under /v1; every body is JSON; every error is an [`ErrorBody`].
//!
//! | method and path | answers |
//! |---|---|
//! | GET /v1/run | [`RunView`] |
//! | GET /v1/rounds/current | [`RoundView`] |
//! | GET /v1/rounds/{round} | [`RoundView`] |
//! | GET /v1/rounds/{round}/transcript | the signed transcript's bytes |
//! | GET /v1/rounds/{round}/aggregate | the aggregate's bytes |
//! | GET /v1/blobs/{blake3} | the blob (Range) |
//! | POST /v1/peers, `Signed<PeerRegistration>` | [`RegistrationView`] |
//! | POST /v1/rounds/{round}/tickets, `Signed<Commitment>` | 402 with an L402 challenge; paid: [`Ticket`] |
//! | POST /v1/contributions/{id}/invoices, `Signed<InvoiceSubmission>` | [`ContributionView`] |
//! | PUT /v1/contributions/{id}/payload, the encoded sparse update | [`ContributionView`] |
//! | GET /v1/contributions/{id} | [`ContributionView`] |
//! | GET /v1/bounties | [`BountyList`] |
//! | POST /v1/bounties, [`PostRequest`] | [`PostAnswer`] |
//! | GET /v1/bounties/{bounty} | [`BountyView`] |
//! | GET /v1/bounties/{bounty}/package | the package's bytes, or 402 |
//! | GET /v1/bounties/{bounty}/closing | the signed closing's bytes |
//! | POST /v1/bounties/{bounty}/sponsor, `Signed<SponsorRequest>` | [`BountyView`] |
//! | GET /v1/openapi.json | the API's OpenAPI description |
//!
//! Rounds, blobs, peers, tickets and contributions of a bounty are under /v1/bounties/{bounty} as those of the training run are
//! under /v1.

use serde::{Deserialize, Serialize};

use super::amount::Msat;
use super::bounty::score::Score;
use super::bounty::statements::{BountyManifest, Posting};
use super::ids::{Blake3Hash, BountyId, ContributionId, PeerId, RoundNumber, RunId, UnixMs};
use super::manifest::RunManifest;
use super::sign::Signed;
use super::statements::{Receipt, RewardTerms, RoundOpening};
use super::verdict::Verdict;

/// The run, and how to reach the coordinator's Lightning node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunView {
    /// The run's id: the digest of the manifest.
    pub run: RunId,
    /// Signed by the coordinator.
    pub manifest: Signed<RunManifest>,
    /// The coordinator's node.
    pub lightning: LightningView,
    /// The round that is open or being judged; `None` once the run has ended.
    pub current_round: Option<RoundNumber>,
    /// How many rounds have a transcript: rounds 0 .. this.
    pub closed_rounds: u32,
}

/// The coordinator's Lightning node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LightningView {
    /// Compressed public key, 66 hex digits.
    pub node_id: String,
    /// `host:port`; `None` if it doesn't listen.
    pub address: Option<String>,
    /// `regtest`, `signet`, `testnet`, `bitcoin`.
    pub network: String,
    /// On an in-process regtest chain only: where a peer's node on the same machine finds it.
    pub regtest_rpc: Option<String>,
    /// Whether the coordinator opens a channel to a peer that registers.
    pub opens_channels: bool,
}

/// Where a round stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Commitments (and payloads) are taken.
    Committing,
    /// Payloads of sold tickets are taken.
    Uploading,
    /// The judge is at work.
    Judging,
    /// Receipts are out; the transcript is there.
    Closed,
}

/// A round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundView {
    /// Signed by the coordinator.
    pub opening: Signed<RoundOpening>,
    /// Where it stands.
    pub phase: Phase,
    /// Tickets sold.
    pub tickets: u32,
    /// Payloads received.
    pub uploads: u32,
    /// Digest of the transcript's body, once closed.
    pub transcript: Option<Blake3Hash>,
    /// The next round's checkpoint, once closed.
    pub next_checkpoint: Option<Blake3Hash>,
    /// The coordinator's clock, so that peers need not trust theirs for deadlines.
    pub now_ms: UnixMs,
}

/// What a paid submission fee buys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// The contribution.
    pub contribution: ContributionId,
    /// Signed by the coordinator.
    pub terms: Signed<RewardTerms>,
}

/// Where a contribution stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContributionState {
    /// The ticket is sold; the invoices are awaited.
    Ticketed,
    /// The coordinator is paying the hold invoices.
    Locking,
    /// Every tranche is locked: upload.
    Locked,
    /// The payload is here.
    Uploaded,
    /// The receipt is out; tranches are being settled and cancelled.
    Settling,
    /// Every tranche has ended: settled, cancelled or never locked.
    Finished,
}

/// A contribution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContributionView {
    /// Which.
    pub contribution: ContributionId,
    /// Its round.
    pub round: RoundNumber,
    /// Where it stands.
    pub state: ContributionState,
    /// The verdict, once judged.
    pub verdict: Option<Verdict>,
    /// Signed by the coordinator, once judged.
    pub receipt: Option<Signed<Receipt>>,
}

/// The answer to a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelOffer {
    /// A usable channel exists.
    Usable,
    /// The coordinator is opening one.
    Opening,
    /// The coordinator opens none: bring your own inbound capacity.
    BringYourOwn,
}

/// The answer to a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrationView {
    /// The channel between the two nodes.
    pub channel: ChannelOffer,
}

/// Where a bounty stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BountyPhase {
    /// Posted; the sponsor's budget is not locked yet.
    AwaitingEscrow,
    /// The budget is locked; the baseline is being measured.
    Checking,
    /// Submissions are taken.
    Open,
    /// No more are taken; what is under way is decided.
    Closing,
    /// What was sealed is opened.
    Closed,
    /// It never opened, and the budget went back.
    Refused,
}

impl BountyPhase {
    /// As the API spells it.
    pub const fn name(self) -> &'static str {
        match self {
            BountyPhase::AwaitingEscrow => "awaiting_escrow",
            BountyPhase::Checking => "checking",
            BountyPhase::Open => "open",
            BountyPhase::Closing => "closing",
            BountyPhase::Closed => "closed",
            BountyPhase::Refused => "refused",
        }
    }
}

/// A bounty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BountyView {
    /// The bounty's id: the digest of its posting.
    pub bounty: BountyId,
    /// The id of its run: the digest of the manifest.
    pub run: RunId,
    /// Signed by the coordinator.
    pub manifest: Signed<BountyManifest>,
    /// Where it stands.
    pub phase: BountyPhase,
    /// Why it was refused, or is closing.
    pub why: Option<String>,
    /// The best claim that was reached so far; the baseline at first.
    pub best: Score,
    /// What must be claimed at least; `None` where nothing is left to pay.
    pub least_claim: Option<Score>,
    /// Submissions taken.
    pub submissions: u32,
    /// Rewards earned.
    pub paid_msat: Msat,
    /// What its package costs now, through L402; zero: nothing, as for every bounty that has closed.
    pub package_fee_msat: Msat,
    /// Its sponsor marks it as a demonstration: the held-out part is no secret.
    pub demo_only: bool,
    /// Taken of the escrow, and paid to nobody: the sponsor's, once the bounty is closed.
    pub surplus_msat: Msat,
    /// The newest round; `None` before the first.
    pub current_round: Option<RoundNumber>,
    /// How many rounds have a transcript: rounds 0 .. this.
    pub closed_rounds: u32,
    /// The coordinator's node.
    pub lightning: LightningView,
    /// The coordinator's clock.
    pub now_ms: UnixMs,
}

/// Every bounty, and who takes them on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BountyList {
    /// Who signs for bounties: a posting names it.
    pub coordinator: PeerId,
    /// The coordinator's node.
    pub lightning: LightningView,
    /// The newest first.
    pub bounties: Vec<BountyView>,
}

/// A sponsor posts a bounty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostRequest {
    /// By the sponsor.
    pub posting: Signed<Posting>,
    /// The package, standard base64.
    pub package: String,
    /// The held-out part as a package of its own, standard base64.
    pub held_out: String,
    /// What the held-out part was committed with.
    #[serde(with = "hex")]
    pub held_out_salt: [u8; 32],
}

/// What the sponsor pays before the bounty opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostAnswer {
    /// The bounty as it stands.
    pub view: BountyView,
    /// One BOLT 11 hold invoice for each entry of the manifest's escrow.
    pub invoices: Vec<String>,
    /// Until when they must be locked.
    pub pay_until_ms: UnixMs,
}

/// Every error answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error.
    pub error: ApiError,
}

/// An error that a program can act on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// Stable, snake_case: `round_closed`, `wrong_round`, `payload_mismatch` …
    pub code: String,
    /// What failed, with which value.
    pub message: String,
    /// What to do.
    pub fix: String,
}
