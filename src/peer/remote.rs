//! The coordinator's API over HTTP.

use std::path::Path;

use async_trait::async_trait;

use super::api::{ApiFailure, CoordinatorApi, DownloadProgress, TicketOffer, WantedAggregate};
use crate::http::client::{ClientError, CoordinatorClient, Progress, TicketReply};
use crate::protocol::api::{ContributionView, RegistrationView, RoundView, RunView};
use crate::protocol::ids::{Blake3Hash, ContributionId, RoundNumber};
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
        let told = |done: Progress| progress(done.done_bytes, done.total_bytes);
        self.fetch_aggregate(round, next_checkpoint, max_bytes, path, told).await?;
        Ok(())
    }

    async fn download(&self, blob: Blake3Hash, path: &Path, progress: DownloadProgress<'_>) -> Result<(), ApiFailure> {
        self.fetch_blob(blob, path, |done| progress(done.done_bytes, done.total_bytes)).await?;
        Ok(())
    }
}
