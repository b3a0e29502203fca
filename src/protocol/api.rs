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
//! | GET /v1/openapi.json | the API's OpenAPI description |

use serde::{Deserialize, Serialize};

use super::ids::{Blake3Hash, ContributionId, RoundNumber, RunId, UnixMs};
use super::manifest::RunManifest;
use super::sign::Signed;
use super::statements::{Receipt, RewardTerms, RoundOpening};
use super::verdict::VerdictRecord;

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
    pub verdict: Option<VerdictRecord>,
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
