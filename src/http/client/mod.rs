//! The client of a coordinator's HTTP API: typed calls, and downloads that resume and are verified.
//!
//! It decides nothing and pays nothing. Whatever the other side sends, it must hold no more of it than [`Policy`] says,
//! wait no longer, and never hand on a blob whose bytes aren't those of its hash. Statements come back unverified: their
//! signatures are the caller's to check.

mod download;
mod error;
mod transport;
pub mod web;

#[cfg(test)]
mod tests;

use std::time::Duration;

use reqwest::{Method, Url};

pub use download::Progress;
pub use error::ClientError;

use crate::protocol::api::{
    ApiError, BountyList, BountyView, ContributionView, PostAnswer, PostRequest, RegistrationView, RoundView, RunView,
    Ticket,
};
use crate::protocol::bounty::statements::SponsorRequest;
use crate::protocol::ids::{BountyId, ContributionId, RoundNumber};
use crate::protocol::l402::{ChallengeParams, Credentials};
use crate::protocol::sign::{Signed, canonical_json};
use crate::protocol::statements::{Commitment, InvoiceSubmission, PeerRegistration};

/// How long to wait, how often to try, how much to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// For a connection.
    pub connect: Duration,
    /// For a whole request, downloads and uploads aside. Longer than a coordinator takes to give up itself.
    pub request: Duration,
    /// For the next bytes of an answer.
    pub stall: Duration,
    /// The least speed of an upload or a download, in bytes a second, on top of `request`.
    pub slowest_bytes_per_s: u64,
    /// Tries of a call, or of a download without progress, in all.
    pub tries: u32,
    /// Before the second try; doubled before each further one.
    pub first_wait: Duration,
    /// The most before any try, whatever the coordinator asks for.
    pub longest_wait: Duration,
    /// The most bytes of a JSON answer.
    pub max_json_bytes: u64,
    /// The most bytes of a transcript.
    pub max_transcript_bytes: u64,
    /// The most bytes of a blob.
    pub max_blob_bytes: u64,
    /// How often a finished download may turn out to have the wrong bytes before the coordinator is given up on.
    pub wrong_downloads: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            request: Duration::from_secs(75),
            stall: Duration::from_secs(45),
            slowest_bytes_per_s: 16 * 1_024,
            tries: 6,
            first_wait: Duration::from_millis(250),
            longest_wait: Duration::from_secs(15),
            max_json_bytes: 4 * 1_024 * 1_024,
            max_transcript_bytes: 256 * 1_024 * 1_024,
            max_blob_bytes: 64 * 1_024 * 1_024 * 1_024,
            wrong_downloads: 2,
        }
    }
}

impl Policy {
    /// How long a request may take that moves so many bytes.
    fn time_for(&self, bytes: u64) -> Duration {
        self.request.saturating_add(Duration::from_secs(bytes / self.slowest_bytes_per_s.max(1)))
    }
}

/// The answer to a ticket request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TicketReply {
    /// Paid.
    Ticket(Box<Ticket>),
    /// Pay this first, once it has been checked.
    Challenge {
        /// What to pay, unchecked.
        params: ChallengeParams,
        /// `payment_required`, or what was wrong with the credentials.
        reason: ApiError,
    },
}

/// The calls of the training run, and those about all bounties, are under this.
const ROOT: &str = "v1";

/// A coordinator, seen from outside: its training run, or one of its bounties.
#[derive(Clone, Debug)]
pub struct CoordinatorClient {
    http: reqwest::Client,
    base: Url,
    policy: Policy,
    /// What the run's calls are under: [`ROOT`], or a bounty's place below it.
    run_path: String,
}

impl CoordinatorClient {
    /// For the coordinator at `url`: `http://host:port` or `https://host`, with a path if it is served under one.
    pub fn new(url: &str) -> Result<Self, ClientError> {
        Self::with_policy(url, Policy::default())
    }

    /// With another policy.
    pub fn with_policy(url: &str, policy: Policy) -> Result<Self, ClientError> {
        let (http, base) = transport::connect_to(url, &policy)?;
        Ok(Self { http, base, policy, run_path: ROOT.to_owned() })
    }

    /// The coordinator's URL.
    pub fn url(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// The same coordinator; rounds, blobs, peers, tickets and contributions are the bounty's from here on.
    pub fn of_bounty(&self, bounty: BountyId) -> Self {
        Self { run_path: format!("{ROOT}/bounties/{bounty}"), ..self.clone() }
    }

    /// Where a bounty's package is: sold by L402.
    pub fn package_url(&self, bounty: BountyId) -> String {
        format!("{}/{ROOT}/bounties/{bounty}/package", self.url())
    }

    /// `GET /v1/bounties`
    pub async fn bounties(&self) -> Result<BountyList, ClientError> {
        self.call(Method::GET, self.url_of(&[ROOT, "bounties"])?, None).await
    }

    /// `GET /v1/bounties/{id}`
    pub async fn bounty(&self, bounty: BountyId) -> Result<BountyView, ClientError> {
        self.call(Method::GET, self.url_of(&[ROOT, "bounties", &bounty.to_string()])?, None).await
    }

    /// `POST /v1/bounties`. Takes effect once: the same posting gets the same answer.
    pub async fn post_bounty(&self, request: &PostRequest) -> Result<PostAnswer, ClientError> {
        let body = transport::Body::json(canonical_json(request));
        self.call(Method::POST, self.url_of(&[ROOT, "bounties"])?, Some(body)).await
    }

    /// `POST /v1/bounties/{id}/sponsor`
    pub async fn ask_as_sponsor(&self, request: &Signed<SponsorRequest>) -> Result<BountyView, ClientError> {
        let url = self.url_of(&[ROOT, "bounties", &request.body.bounty.to_string(), "sponsor"])?;
        self.call(Method::POST, url, Some(transport::Body::json(request.to_bytes()))).await
    }

    /// `GET /v1/run`
    pub async fn run(&self) -> Result<RunView, ClientError> {
        self.get(&["run"]).await
    }

    /// `GET /v1/rounds/{round}`; the current one for `None`.
    pub async fn round(&self, round: Option<RoundNumber>) -> Result<RoundView, ClientError> {
        let round = round.map_or_else(|| "current".to_owned(), |round| round.to_string());
        self.get(&["rounds", &round]).await
    }

    /// `GET /v1/contributions/{id}`
    pub async fn contribution(&self, contribution: ContributionId) -> Result<ContributionView, ClientError> {
        self.get(&["contributions", &contribution.to_string()]).await
    }

    /// `GET /v1/status`
    pub async fn status(&self) -> Result<serde_json::Value, ClientError> {
        self.get(&["status"]).await
    }

    /// `POST /v1/peers`
    pub async fn register(&self, registration: &Signed<PeerRegistration>) -> Result<RegistrationView, ClientError> {
        self.post(&["peers"], registration.to_bytes()).await
    }

    /// `POST /v1/contributions/{id}/invoices`
    pub async fn submit_invoices(
        &self,
        contribution: ContributionId,
        submission: &Signed<InvoiceSubmission>,
    ) -> Result<ContributionView, ClientError> {
        self.post(&["contributions", &contribution.to_string(), "invoices"], submission.to_bytes()).await
    }

    /// `POST /v1/rounds/{round}/tickets`. With credentials it may be repeated: the same ticket comes back, uncharged.
    pub async fn ticket(
        &self,
        round: RoundNumber,
        commitment: &Signed<Commitment>,
        credentials: Option<&Credentials>,
    ) -> Result<TicketReply, ClientError> {
        self.post_ticket(&["rounds", &round.to_string(), "tickets"], commitment.to_bytes(), credentials).await
    }

    /// `PUT /v1/contributions/{id}/payload`
    pub async fn upload(&self, contribution: ContributionId, payload: &[u8]) -> Result<ContributionView, ClientError> {
        let url = self.endpoint(&["contributions", &contribution.to_string(), "payload"])?;
        let body = transport::Body::binary(payload.to_vec());
        self.call(Method::PUT, url, Some(body)).await
    }
}
