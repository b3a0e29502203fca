//! Kills a peer at its n-th call to the outside: before the call, or after it has had its effect.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use tokio::sync::{Notify, broadcast};

use crate::ln::{
    ChannelRequest, ChannelState, Invoice, InvoiceRequest, InvoiceStatus, Lightning, LnError, LnEvent, NodeInfo,
    PayLimits, PaymentStatus,
};
use crate::peer::api::{ApiFailure, BountyApi, CoordinatorApi, DownloadProgress, TicketOffer, WantedAggregate};
use crate::protocol::api::{
    BountyView, ContributionView, PostAnswer, PostRequest, RegistrationView, RoundView, RunView,
};
use crate::protocol::bounty::statements::SponsorRequest;
use crate::protocol::ids::{Blake3Hash, ContributionId, PaymentHash, Preimage, RoundNumber};
use crate::protocol::l402::Credentials;
use crate::protocol::sign::Signed;
use crate::protocol::statements::{Commitment, InvoiceSubmission, PeerRegistration};

/// Burns down with every call; then nothing returns any more.
#[derive(Debug)]
pub(super) struct Fuse {
    left: AtomicI64,
    blown: Notify,
}

impl Fuse {
    pub(super) fn new(length: i64) -> Arc<Self> {
        Arc::new(Self { left: AtomicI64::new(length), blown: Notify::new() })
    }

    pub(super) fn endless() -> Arc<Self> {
        Self::new(i64::MAX)
    }

    pub(super) async fn blown(&self) {
        self.blown.notified().await;
    }

    async fn burn(&self) {
        if self.left.fetch_sub(1, Ordering::SeqCst) <= 1 {
            self.blown.notify_one();
            std::future::pending::<()>().await;
        }
    }
}

/// Something that is only reached while the fuse burns.
#[derive(Debug)]
pub(super) struct Fused<T: ?Sized> {
    pub(super) fuse: Arc<Fuse>,
    pub(super) inner: Arc<T>,
}

macro_rules! fused {
    ($self:ident, $call:expr) => {{
        $self.fuse.burn().await;
        let result = $call.await;
        $self.fuse.burn().await;
        result
    }};
}

#[async_trait]
impl Lightning for Fused<dyn Lightning> {
    async fn info(&self) -> Result<NodeInfo, LnError> {
        self.inner.info().await
    }

    async fn create_invoice(&self, request: &InvoiceRequest) -> Result<Invoice, LnError> {
        fused!(self, self.inner.create_invoice(request))
    }

    async fn create_hold_invoice(
        &self,
        payment_hash: PaymentHash,
        request: &InvoiceRequest,
        final_cltv_blocks: u32,
    ) -> Result<String, LnError> {
        fused!(self, self.inner.create_hold_invoice(payment_hash, request, final_cltv_blocks))
    }

    async fn pay(&self, bolt11: &str, limits: PayLimits) -> Result<PaymentHash, LnError> {
        fused!(self, self.inner.pay(bolt11, limits))
    }

    async fn payment(&self, payment_hash: PaymentHash) -> Result<PaymentStatus, LnError> {
        self.inner.payment(payment_hash).await
    }

    async fn invoice(&self, payment_hash: PaymentHash) -> Result<InvoiceStatus, LnError> {
        self.inner.invoice(payment_hash).await
    }

    async fn settle(&self, preimage: Preimage) -> Result<(), LnError> {
        fused!(self, self.inner.settle(preimage))
    }

    async fn cancel(&self, payment_hash: PaymentHash) -> Result<(), LnError> {
        fused!(self, self.inner.cancel(payment_hash))
    }

    async fn channel_state(&self, node_id: &str) -> Result<ChannelState, LnError> {
        self.inner.channel_state(node_id).await
    }

    async fn open_channel(&self, request: &ChannelRequest) -> Result<(), LnError> {
        self.inner.open_channel(request).await
    }

    fn events(&self) -> broadcast::Receiver<LnEvent> {
        self.inner.events()
    }

    async fn stop(&self) {
        self.inner.stop().await;
    }
}

#[async_trait]
impl CoordinatorApi for Fused<dyn CoordinatorApi> {
    async fn run(&self) -> Result<RunView, ApiFailure> {
        self.inner.run().await
    }

    async fn round(&self, round: RoundNumber) -> Result<RoundView, ApiFailure> {
        self.inner.round(round).await
    }

    async fn register(&self, registration: &Signed<PeerRegistration>) -> Result<RegistrationView, ApiFailure> {
        fused!(self, self.inner.register(registration))
    }

    async fn ticket(
        &self,
        commitment: &Signed<Commitment>,
        credentials: Option<&Credentials>,
    ) -> Result<TicketOffer, ApiFailure> {
        fused!(self, self.inner.ticket(commitment, credentials))
    }

    async fn submit_invoices(&self, submission: &Signed<InvoiceSubmission>) -> Result<ContributionView, ApiFailure> {
        fused!(self, self.inner.submit_invoices(submission))
    }

    async fn upload(&self, contribution: ContributionId, payload: &[u8]) -> Result<ContributionView, ApiFailure> {
        fused!(self, self.inner.upload(contribution, payload))
    }

    async fn contribution(&self, contribution: ContributionId) -> Result<ContributionView, ApiFailure> {
        fused!(self, self.inner.contribution(contribution))
    }

    async fn aggregate(
        &self,
        wanted: &WantedAggregate,
        path: &Path,
        progress: DownloadProgress<'_>,
    ) -> Result<(), ApiFailure> {
        fused!(self, self.inner.aggregate(wanted, path, progress))
    }

    async fn download(&self, blob: Blake3Hash, path: &Path, progress: DownloadProgress<'_>) -> Result<(), ApiFailure> {
        fused!(self, self.inner.download(blob, path, progress))
    }
}

#[async_trait]
impl BountyApi for Fused<dyn BountyApi> {
    async fn bounty(&self) -> Result<BountyView, ApiFailure> {
        self.inner.bounty().await
    }

    async fn current_round(&self) -> Result<RoundView, ApiFailure> {
        fused!(self, self.inner.current_round())
    }

    async fn post(&self, request: &PostRequest) -> Result<PostAnswer, ApiFailure> {
        fused!(self, self.inner.post(request))
    }

    async fn ask(&self, request: &Signed<SponsorRequest>) -> Result<BountyView, ApiFailure> {
        fused!(self, self.inner.ask(request))
    }
}
