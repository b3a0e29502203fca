//! The way from a peer to the coordinator: requests that are late, lost or doubled, answers that are lost.

use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use l402t::coordinator::handle::{CoordinatorHandle, Refusal, TicketAnswer};
use l402t::peer::api::{ApiFailure, CoordinatorApi, DownloadProgress, TicketOffer, WantedAggregate};
use l402t::protocol::api::{ContributionView, RegistrationView, RoundView, RunView};
use l402t::protocol::ids::{Blake3Hash, ContributionId, RoundNumber};
use l402t::protocol::l402::{ChallengeParams, Credentials, Scheme};
use l402t::protocol::sign::Signed;
use l402t::protocol::statements::{Commitment, InvoiceSubmission, PeerRegistration};
use tokio::sync::oneshot;

use crate::life::Life;
use crate::plan::WireFaults;
use crate::sim::Sim;

/// The coordinator that runs now, if one does.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slot(Arc<Mutex<Option<Serving>>>);

/// The process that serves, and what it serves.
type Serving = (Arc<Life>, Arc<dyn CoordinatorHandle>);

impl Slot {
    pub(crate) fn put(&self, life: &Arc<Life>, handle: Arc<dyn CoordinatorHandle>) {
        *self.0.lock().expect("not poisoned") = Some((Arc::clone(life), handle));
    }

    pub(crate) fn clear(&self) {
        *self.0.lock().expect("not poisoned") = None;
    }

    /// Is a coordinator there?
    pub(crate) fn is_taken(&self) -> bool {
        self.get().is_some()
    }

    fn get(&self) -> Option<Serving> {
        self.0.lock().expect("not poisoned").clone().filter(|(life, _)| !life.is_dead())
    }
}

/// A peer's client.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) sim: Arc<Sim>,
    pub(crate) who: &'static str,
    pub(crate) slot: Slot,
    pub(crate) faults: WireFaults,
    /// Whether payloads get through.
    pub(crate) uploads: bool,
}

type Handle = Arc<dyn CoordinatorHandle>;

impl Wire {
    async fn ask<T: Send + 'static>(
        &self,
        name: &str,
        request: impl Fn(Handle) -> BoxFuture<'static, Result<T, Refusal>> + Send + Sync,
    ) -> Result<T, ApiFailure> {
        let answer = self.try_ask(request).await;
        match &answer {
            Ok(_) => self.sim.note(self.who, format_args!("{name} is answered")),
            Err(failure) => self.sim.note(self.who, format_args!("{name}: {failure}")),
        }
        answer
    }

    async fn try_ask<T: Send + 'static>(
        &self,
        request: impl Fn(Handle) -> BoxFuture<'static, Result<T, Refusal>> + Send + Sync,
    ) -> Result<T, ApiFailure> {
        let unreachable = |why: &str| Err(ApiFailure::Unreachable(why.to_owned()));
        let WireFaults { delay_ms_max, requests_lost, requests_doubled, answers_lost } = self.faults;
        let throw = |ppm| self.sim.dice(|dice| dice.happens(ppm));
        let delay_ms = self.sim.dice(|dice| dice.between(0, delay_ms_max));
        self.sim.sleep(delay_ms).await;
        if throw(requests_lost) {
            return unreachable("the request was lost");
        }
        let Some((life, handle)) = self.slot.get() else { return unreachable("connection refused") };
        if throw(requests_doubled) {
            let again = request(Arc::clone(&handle));
            self.sim.spawn(&life, async move { drop(again.await) });
        }
        let (sender, receiver) = oneshot::channel();
        let first = request(handle);
        self.sim.spawn(&life, async move { drop(sender.send(first.await)) });
        let Ok(answer) = receiver.await else { return unreachable("connection reset") };
        let delay_ms = self.sim.dice(|dice| dice.between(0, delay_ms_max));
        self.sim.sleep(delay_ms).await;
        if throw(answers_lost) {
            return unreachable("the answer was lost");
        }
        answer.map_err(|refusal| match refusal.status {
            408 | 429 | 500..=599 => ApiFailure::Unreachable(refusal.to_string()),
            status => {
                let error = refusal.error;
                ApiFailure::Refused { status, code: error.code, message: error.message, fix: error.fix }
            }
        })
    }
}

#[async_trait]
impl CoordinatorApi for Wire {
    async fn run(&self) -> Result<RunView, ApiFailure> {
        self.ask("run", |c| Box::pin(async move { c.run().await })).await
    }

    async fn round(&self, round: RoundNumber) -> Result<RoundView, ApiFailure> {
        self.ask("round", move |c| Box::pin(async move { c.round(Some(round)).await })).await
    }

    async fn register(&self, registration: &Signed<PeerRegistration>) -> Result<RegistrationView, ApiFailure> {
        let ask = |c: Handle| -> BoxFuture<'static, _> {
            let registration = registration.clone();
            Box::pin(async move { c.register(registration).await })
        };
        self.ask("register", ask).await
    }

    async fn ticket(
        &self,
        commitment: &Signed<Commitment>,
        credentials: Option<&Credentials>,
    ) -> Result<TicketOffer, ApiFailure> {
        let header = credentials.map(Credentials::to_header);
        let ask = |c: Handle| -> BoxFuture<'static, _> {
            let (commitment, header) = (commitment.clone(), header.clone());
            Box::pin(async move { c.ticket(commitment.body.round, commitment, header).await })
        };
        Ok(match self.ask("ticket", ask).await? {
            TicketAnswer::Ticket(ticket) => TicketOffer::Sold(ticket),
            TicketAnswer::PaymentRequired(challenge) => TicketOffer::PaymentRequired(ChallengeParams {
                scheme: Scheme::L402,
                macaroon: challenge.macaroon,
                invoice: challenge.invoice,
            }),
        })
    }

    async fn submit_invoices(&self, submission: &Signed<InvoiceSubmission>) -> Result<ContributionView, ApiFailure> {
        let ask = |c: Handle| -> BoxFuture<'static, _> {
            let submission = submission.clone();
            Box::pin(async move { c.submit_invoices(submission.body.contribution, submission).await })
        };
        self.ask("submit_invoices", ask).await
    }

    async fn upload(&self, contribution: ContributionId, payload: &[u8]) -> Result<ContributionView, ApiFailure> {
        if !self.uploads {
            return Err(ApiFailure::Unreachable("too large for this line".into()));
        }
        let ask = |c: Handle| -> BoxFuture<'static, _> {
            let payload = payload.to_vec();
            Box::pin(async move { c.upload(contribution, payload).await })
        };
        self.ask("upload", ask).await
    }

    async fn contribution(&self, contribution: ContributionId) -> Result<ContributionView, ApiFailure> {
        self.ask("contribution", move |c| Box::pin(async move { c.contribution(contribution).await })).await
    }

    async fn aggregate(
        &self,
        wanted: &WantedAggregate,
        path: &Path,
        _: DownloadProgress<'_>,
    ) -> Result<(), ApiFailure> {
        let round = wanted.round;
        let found = self.ask("aggregate", move |c| Box::pin(async move { c.aggregate(round).await })).await?;
        let copied = std::fs::copy(found.path, path);
        copied.map(drop).map_err(|source| ApiFailure::Disk { path: path.to_path_buf(), source })
    }

    async fn download(&self, blob: Blake3Hash, path: &Path, _: DownloadProgress<'_>) -> Result<(), ApiFailure> {
        if path.exists() {
            return Ok(());
        }
        let from = self.ask("download", move |c| Box::pin(async move { c.blob(blob).await })).await?;
        let copied = std::fs::copy(from, path);
        copied.map(drop).map_err(|source| ApiFailure::Disk { path: path.to_path_buf(), source })
    }
}
