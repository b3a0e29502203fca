//! What the HTTP server may ask of the coordinator.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

use crate::protocol::api::{
    ApiError, BountyList, BountyView, ContributionView, PostAnswer, PostRequest, RegistrationView, RoundView, RunView,
    Ticket,
};
use crate::protocol::bounty::statements::SponsorRequest;
use crate::protocol::ids::{Blake3Hash, BountyId, ContributionId, RoundNumber};
use crate::protocol::l402::TokenError;
use crate::protocol::sign::Signed;
use crate::protocol::statements::{Commitment, InvoiceSubmission, PeerRegistration};

/// A request that was understood and refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {}", error.code, error.message)]
pub struct Refusal {
    /// The HTTP status: 4xx, or 503 while the coordinator can't serve.
    pub status: u16,
    /// What and why.
    pub error: ApiError,
}

/// A fresh L402 challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// The macaroon, standard base64.
    pub macaroon: String,
    /// The BOLT 11 invoice that pays for it.
    pub invoice: String,
    /// Why the request's credentials were not taken; `None` where it had none.
    pub refused: Option<TokenError>,
}

/// A round's aggregate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AggregateFile {
    /// Where it is.
    pub path: PathBuf,
    /// What it leads to. Of one run and round there is one aggregate, so this names its bytes.
    pub next_checkpoint: Blake3Hash,
}

/// A bounty's package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackageFile {
    /// Where it is.
    pub path: PathBuf,
    /// What it has to be.
    pub hash: Blake3Hash,
}

/// The answer to a request for a bounty's package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PackageAnswer {
    /// Paid for, or free.
    File(PackageFile),
    /// Pay this first. Given without credentials, and for bad, expired or unpaid ones.
    PaymentRequired(Challenge),
}

/// The answer to a ticket request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TicketAnswer {
    /// Paid (now, or before: the identical retry gets the same ticket).
    Ticket(Box<Ticket>),
    /// Pay this first. Given without credentials, and for bad, expired or unpaid ones.
    PaymentRequired(Challenge),
}

/// The coordinator, seen from the server. Every call may be repeated.
#[async_trait]
pub trait CoordinatorHandle: Send + Sync + std::fmt::Debug {
    /// The run.
    async fn run(&self) -> Result<RunView, Refusal>;

    /// A round; the current one for `None`.
    async fn round(&self, round: Option<RoundNumber>) -> Result<RoundView, Refusal>;

    /// The bytes of a closed round's signed transcript.
    async fn transcript(&self, round: RoundNumber) -> Result<Vec<u8>, Refusal>;

    /// The file of a closed round's aggregate, if the round is not too long ago.
    async fn aggregate(&self, round: RoundNumber) -> Result<AggregateFile, Refusal>;

    /// The file of a published blob: config, training data, checkpoints, and payloads of closed rounds only.
    async fn blob(&self, hash: Blake3Hash) -> Result<PathBuf, Refusal>;

    /// Notes a peer's node, and opens a channel to it where the operator allows that.
    async fn register(&self, registration: Signed<PeerRegistration>) -> Result<RegistrationView, Refusal>;

    /// Sells a ticket. `credentials` is the request's `Authorization` header, if there was one.
    async fn ticket(
        &self,
        round: RoundNumber,
        commitment: Signed<Commitment>,
        credentials: Option<String>,
    ) -> Result<TicketAnswer, Refusal>;

    /// Takes the hold invoices and starts to lock the reward.
    async fn submit_invoices(
        &self,
        contribution: ContributionId,
        submission: Signed<InvoiceSubmission>,
    ) -> Result<ContributionView, Refusal>;

    /// The committed payload length of a ticket that may upload now; checked before the body is read.
    async fn upload_allowance(&self, contribution: ContributionId) -> Result<u64, Refusal>;

    /// Takes the payload.
    async fn upload(&self, contribution: ContributionId, payload: Vec<u8>) -> Result<ContributionView, Refusal>;

    /// A contribution.
    async fn contribution(&self, contribution: ContributionId) -> Result<ContributionView, Refusal>;

    /// What the status page shows: one JSON object (rounds, losses, payments).
    async fn status(&self) -> Result<serde_json::Value, Refusal>;
}

/// A bounty's coordinator, seen from the server. Rounds, tickets and contributions are as those of training.
#[async_trait]
pub trait BountyHandle: CoordinatorHandle {
    /// The bounty.
    async fn bounty(&self) -> Result<BountyView, Refusal>;

    /// What the bounty gives its agents. `credentials` is the request's `Authorization` header, if there was one.
    async fn package(&self, credentials: Option<String>) -> Result<PackageAnswer, Refusal>;

    /// The bytes of a closed bounty's signed closing.
    async fn closing(&self) -> Result<Vec<u8>, Refusal>;

    /// What its sponsor asks for.
    async fn sponsor(&self, request: Signed<SponsorRequest>) -> Result<BountyView, Refusal>;
}

/// All bounties of a coordinator, seen from the server.
#[async_trait]
pub trait BountyBoard: Send + Sync + std::fmt::Debug {
    /// Every bounty, the newest first.
    async fn list(&self) -> Result<BountyList, Refusal>;

    /// Takes a posting on. The same again gets the same answer.
    async fn post(&self, request: PostRequest) -> Result<PostAnswer, Refusal>;

    /// A bounty.
    fn find(&self, bounty: &BountyId) -> Option<Arc<dyn BountyHandle>>;
}
