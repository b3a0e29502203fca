//! The coordinator, seen from the peer: the API's calls and how they fail. Whoever implements this does no retries.

use std::path::{Path, PathBuf};

use async_trait::async_trait;

use crate::protocol::api::{
    BountyView, ContributionView, PostAnswer, PostRequest, RegistrationView, RoundView, RunView, Ticket,
};
use crate::protocol::bounty::statements::SponsorRequest;
use crate::protocol::ids::{Blake3Hash, ContributionId, RoundNumber};
use crate::protocol::l402::{ChallengeParams, Credentials};
use crate::protocol::sign::Signed;
use crate::protocol::statements::{Commitment, InvoiceSubmission, PeerRegistration};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiFailure {
    /// No answer, or one that says to come back later: worth another try.
    #[error("{0}")]
    Unreachable(String),
    /// Understood and refused: the same again will be refused again.
    #[error("{message} ({code})")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Stable, snake_case.
        code: String,
        /// What failed.
        message: String,
        /// What to do.
        fix: String,
    },
    /// An answer that makes no sense: not the API's JSON, a blob that is not what its name says.
    #[error("{0}")]
    Garbled(String),
    /// A download can't be written.
    #[error("could not write {path}: {source}")]
    Disk {
        /// Where to.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// The answer to a ticket request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TicketOffer {
    /// It is sold.
    Sold(Box<Ticket>),
    /// Pay this first.
    PaymentRequired(ChallengeParams),
}

/// An aggregate to download.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedAggregate {
    /// Of which round.
    pub round: RoundNumber,
    /// What it is to make: the next round's checkpoint.
    pub next_checkpoint: Blake3Hash,
    /// The most that it may have.
    pub max_bytes: u64,
}

/// Told how a download goes: bytes so far, bytes in all.
pub type DownloadProgress<'a> = &'a (dyn Fn(u64, u64) + Send + Sync);

/// The coordinator's API.
#[async_trait]
pub trait CoordinatorApi: Send + Sync + std::fmt::Debug {
    /// The run.
    async fn run(&self) -> Result<RunView, ApiFailure>;

    /// A round.
    async fn round(&self, round: RoundNumber) -> Result<RoundView, ApiFailure>;

    /// Makes this peer's node known.
    async fn register(&self, registration: &Signed<PeerRegistration>) -> Result<RegistrationView, ApiFailure>;

    /// Asks for a ticket.
    async fn ticket(
        &self,
        commitment: &Signed<Commitment>,
        credentials: Option<&Credentials>,
    ) -> Result<TicketOffer, ApiFailure>;

    /// Hands in the hold invoices.
    async fn submit_invoices(&self, submission: &Signed<InvoiceSubmission>) -> Result<ContributionView, ApiFailure>;

    /// Hands in the payload.
    async fn upload(&self, contribution: ContributionId, payload: &[u8]) -> Result<ContributionView, ApiFailure>;

    /// A contribution.
    async fn contribution(&self, contribution: ContributionId) -> Result<ContributionView, ApiFailure>;

    /// Downloads a closed round's aggregate of at most `max_bytes` to `path`, going on where an earlier attempt stopped. Its
    /// bytes are not verified.
    async fn aggregate(
        &self,
        wanted: &WantedAggregate,
        path: &Path,
        progress: DownloadProgress<'_>,
    ) -> Result<(), ApiFailure>;

    /// Downloads a blob to `path` unless it is there, going on where an earlier attempt stopped. The file is there only
    /// once its digest is right.
    async fn download(&self, blob: Blake3Hash, path: &Path, progress: DownloadProgress<'_>) -> Result<(), ApiFailure>;
}

/// What a bounty has beside the calls of every run.
#[async_trait]
pub trait BountyApi: Send + Sync + std::fmt::Debug {
    /// The bounty.
    async fn bounty(&self) -> Result<BountyView, ApiFailure>;

    /// The newest round. Where none is open, one is opened for whoever asks.
    async fn current_round(&self) -> Result<RoundView, ApiFailure>;

    /// Posts it. The same posting again gets the same answer.
    async fn post(&self, request: &PostRequest) -> Result<PostAnswer, ApiFailure>;

    /// What only its sponsor may ask for.
    async fn ask(&self, request: &Signed<SponsorRequest>) -> Result<BountyView, ApiFailure>;
}
