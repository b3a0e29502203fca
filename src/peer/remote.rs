//! The coordinator's API over HTTP.

use std::path::Path;

use async_trait::async_trait;

use super::api::{ApiFailure, BountyApi, CoordinatorApi, DownloadProgress, TicketOffer, WantedAggregate};
use crate::http::client::{ClientError, CoordinatorClient, Progress, TicketReply};
use crate::protocol::api::{
    BountyView, ContributionView, PostAnswer, PostRequest, RegistrationView, RoundView, RunView,
};
use crate::protocol::bounty::statements::SponsorRequest;
use crate::protocol::ids::{Blake3Hash, BountyId, ContributionId, RoundNumber};
use crate::protocol::l402::Credentials;
use crate::protocol::sign::Signed;
use crate::protocol::statements::{Commitment, InvoiceSubmission, PeerRegistration};

/// Statuses that say "not now" rather than "no".
const REQUEST_TIMEOUT: u16 = 408;
const TOO_MANY_REQUESTS: u16 = 429;
const SERVER_ERRORS: std::ops::RangeInclusive<u16> = 500..=599;

impl From<ClientError> for ApiFailure {
    fn from(error: ClientError) -> Self {
        let text = error.to_string();
        match error {
            ClientError::Refused { status: REQUEST_TIMEOUT | TOO_MANY_REQUESTS, .. }
            | ClientError::Unreachable { .. }
            | ClientError::Interrupted { .. } => ApiFailure::Unreachable(text),
            ClientError::Refused { status, .. } if SERVER_ERRORS.contains(&status) => ApiFailure::Unreachable(text),
            ClientError::Refused { status, error } => {
                ApiFailure::Refused { status, code: error.code, message: error.message, fix: error.fix }
            }
            ClientError::BadUrl { .. }
            | ClientError::SetUp(_)
            | ClientError::BadAnswer { .. }
            | ClientError::TooLarge { .. }
            | ClientError::WrongBytes { .. } => ApiFailure::Garbled(text),
            ClientError::Disk { path, source } => ApiFailure::Disk { path, source },
        }
    }
}

/// A download's progress as the client tells it.
fn told(progress: DownloadProgress<'_>) -> impl FnMut(Progress) + Send {
    move |done| progress(done.done_bytes, done.total_bytes)
}

#[async_trait]
impl CoordinatorApi for CoordinatorClient {
    async fn run(&self) -> Result<RunView, ApiFailure> {
        Ok(CoordinatorClient::run(self).await?)
    }

    async fn round(&self, round: RoundNumber) -> Result<RoundView, ApiFailure> {
        Ok(CoordinatorClient::round(self, Some(round)).await?)
    }

    async fn register(&self, registration: &Signed<PeerRegistration>) -> Result<RegistrationView, ApiFailure> {
        Ok(CoordinatorClient::register(self, registration).await?)
    }

    async fn ticket(
        &self,
        commitment: &Signed<Commitment>,
        credentials: Option<&Credentials>,
    ) -> Result<TicketOffer, ApiFailure> {
        match CoordinatorClient::ticket(self, commitment.body.round, commitment, credentials).await? {
            TicketReply::Ticket(ticket) => Ok(TicketOffer::Sold(ticket)),
            TicketReply::Challenge { params, reason } => {
                tracing::debug!(code = %reason.code, "a challenge");
                Ok(TicketOffer::PaymentRequired(params))
            }
        }
    }

    async fn submit_invoices(&self, submission: &Signed<InvoiceSubmission>) -> Result<ContributionView, ApiFailure> {
        Ok(CoordinatorClient::submit_invoices(self, submission.body.contribution, submission).await?)
    }

    async fn upload(&self, contribution: ContributionId, payload: &[u8]) -> Result<ContributionView, ApiFailure> {
        Ok(CoordinatorClient::upload(self, contribution, payload).await?)
    }

    async fn contribution(&self, contribution: ContributionId) -> Result<ContributionView, ApiFailure> {
        Ok(CoordinatorClient::contribution(self, contribution).await?)
    }

    async fn aggregate(
        &self,
        wanted: &WantedAggregate,
        path: &Path,
        progress: DownloadProgress<'_>,
    ) -> Result<(), ApiFailure> {
        let WantedAggregate { round, next_checkpoint, max_bytes } = *wanted;
        self.fetch_aggregate(round, next_checkpoint, max_bytes, path, told(progress)).await?;
        Ok(())
    }

    async fn download(&self, blob: Blake3Hash, path: &Path, progress: DownloadProgress<'_>) -> Result<(), ApiFailure> {
        self.fetch_blob(blob, path, told(progress)).await?;
        Ok(())
    }
}

/// A run's API for a journal that has contributions to other runs, too: whoever guards what is held asks about those where they
/// are. Everything else goes to the run's own coordinator.
#[derive(Clone, Debug)]
pub struct WithOthers {
    own: CoordinatorClient,
    others: Vec<CoordinatorClient>,
}

impl WithOthers {
    /// `others` are asked only about contributions that `own` doesn't know.
    pub fn new(own: CoordinatorClient, others: Vec<CoordinatorClient>) -> Self {
        Self { own, others }
    }
}

#[async_trait]
impl CoordinatorApi for WithOthers {
    async fn run(&self) -> Result<RunView, ApiFailure> {
        CoordinatorApi::run(&self.own).await
    }

    async fn round(&self, round: RoundNumber) -> Result<RoundView, ApiFailure> {
        CoordinatorApi::round(&self.own, round).await
    }

    async fn register(&self, registration: &Signed<PeerRegistration>) -> Result<RegistrationView, ApiFailure> {
        CoordinatorApi::register(&self.own, registration).await
    }

    async fn ticket(
        &self,
        commitment: &Signed<Commitment>,
        credentials: Option<&Credentials>,
    ) -> Result<TicketOffer, ApiFailure> {
        CoordinatorApi::ticket(&self.own, commitment, credentials).await
    }

    async fn submit_invoices(&self, submission: &Signed<InvoiceSubmission>) -> Result<ContributionView, ApiFailure> {
        CoordinatorApi::submit_invoices(&self.own, submission).await
    }

    async fn upload(&self, contribution: ContributionId, payload: &[u8]) -> Result<ContributionView, ApiFailure> {
        CoordinatorApi::upload(&self.own, contribution, payload).await
    }

    async fn contribution(&self, contribution: ContributionId) -> Result<ContributionView, ApiFailure> {
        let answer = CoordinatorApi::contribution(&self.own, contribution).await;
        if !matches!(answer, Err(ApiFailure::Refused { .. })) {
            return answer;
        }
        for other in &self.others {
            if let Ok(view) = CoordinatorApi::contribution(other, contribution).await {
                return Ok(view);
            }
        }
        answer
    }

    async fn aggregate(
        &self,
        wanted: &WantedAggregate,
        path: &Path,
        progress: DownloadProgress<'_>,
    ) -> Result<(), ApiFailure> {
        self.own.aggregate(wanted, path, progress).await
    }

    async fn download(&self, blob: Blake3Hash, path: &Path, progress: DownloadProgress<'_>) -> Result<(), ApiFailure> {
        self.own.download(blob, path, progress).await
    }
}

/// One bounty over HTTP.
#[derive(Clone, Debug)]
pub struct RemoteBounty {
    client: CoordinatorClient,
    bounty: BountyId,
}

impl RemoteBounty {
    /// A coordinator's bounty.
    pub fn new(client: &CoordinatorClient, bounty: BountyId) -> Self {
        Self { client: client.of_bounty(bounty), bounty }
    }

    /// The calls that it has in common with every run.
    pub fn run_api(&self) -> &CoordinatorClient {
        &self.client
    }
}

#[async_trait]
impl BountyApi for RemoteBounty {
    async fn bounty(&self) -> Result<BountyView, ApiFailure> {
        Ok(self.client.bounty(self.bounty).await?)
    }

    async fn current_round(&self) -> Result<RoundView, ApiFailure> {
        Ok(self.client.round(None).await?)
    }

    async fn post(&self, request: &PostRequest) -> Result<PostAnswer, ApiFailure> {
        Ok(self.client.post_bounty(request).await?)
    }

    async fn ask(&self, request: &Signed<SponsorRequest>) -> Result<BountyView, ApiFailure> {
        Ok(self.client.ask_as_sponsor(request).await?)
    }
}
