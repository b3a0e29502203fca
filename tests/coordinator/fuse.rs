//! Stops a coordinator at its n-th moment: a commit or a call to the node, before or after it has been carried out.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use l402t::ln::{
    ChannelRequest, ChannelState, Invoice, InvoiceRequest, InvoiceStatus, Lightning, LnError, LnEvent, NodeInfo,
    PayLimits, PaymentStatus,
};
use l402t::protocol::ids::{PaymentHash, Preimage};
use l402t::store::StoreError;
use l402t::store::database::CommitObserver;
use tokio::sync::broadcast;

/// Blows at its n-th moment. From then on nothing the coordinator does has any effect.
#[derive(Debug, Default)]
pub(crate) struct Fuse {
    left: AtomicI64,
    seen: AtomicU64,
    blown: AtomicBool,
    /// How often the node says of a claim that it is still under way.
    late_looks: AtomicU32,
    late: Mutex<BTreeMap<PaymentHash, u32>>,
}

impl Fuse {
    pub(crate) fn after(moments: i64) -> Arc<Self> {
        Arc::new(Self { left: AtomicI64::new(moments), ..Self::default() })
    }

    pub(crate) fn never() -> Arc<Self> {
        Self::after(i64::MAX)
    }

    /// From now on every claim takes so many looks.
    #[allow(dead_code, reason = "fetch's tests, which share this file, claim nothing")]
    pub(crate) fn make_claims_late(&self, looks: u32) {
        self.late_looks.store(looks, Ordering::SeqCst);
    }

    fn is_late(&self, hash: &PaymentHash) -> bool {
        let mut late = self.late.lock().expect("whole");
        let Some(left) = late.get_mut(hash).filter(|left| **left > 0) else { return false };
        *left -= 1;
        true
    }

    pub(crate) fn is_blown(&self) -> bool {
        self.blown.load(Ordering::SeqCst)
    }

    pub(crate) fn moments(&self) -> u64 {
        self.seen.load(Ordering::SeqCst)
    }

    /// One moment passes. Is the coordinator dead?
    fn burn(&self) -> bool {
        if self.is_blown() {
            return true;
        }
        self.seen.fetch_add(1, Ordering::SeqCst);
        let dead = self.left.fetch_sub(1, Ordering::SeqCst) <= 1;
        self.blown.store(dead, Ordering::SeqCst);
        dead
    }
}

impl CommitObserver for Fuse {
    fn before_commit(&self) -> Result<(), StoreError> {
        if self.burn() { Err(StoreError::Halted) } else { Ok(()) }
    }

    fn after_commit(&self) -> Result<(), StoreError> {
        if self.burn() { Err(StoreError::Halted) } else { Ok(()) }
    }
}

/// A node whose calls are moments.
#[derive(Debug)]
pub(crate) struct FusedLightning {
    pub(crate) node: Arc<dyn Lightning>,
    pub(crate) fuse: Arc<Fuse>,
}

impl FusedLightning {
    fn moment(&self) -> Result<(), LnError> {
        if self.fuse.burn() { Err(LnError::Unavailable("the coordinator is dead".into())) } else { Ok(()) }
    }

    async fn call<T>(&self, call: impl Future<Output = Result<T, LnError>> + Send) -> Result<T, LnError> {
        self.moment()?;
        let answer = call.await?;
        self.moment()?;
        Ok(answer)
    }
}

#[async_trait]
impl Lightning for FusedLightning {
    async fn info(&self) -> Result<NodeInfo, LnError> {
        self.node.info().await
    }

    async fn create_invoice(&self, request: &InvoiceRequest) -> Result<Invoice, LnError> {
        self.call(self.node.create_invoice(request)).await
    }

    async fn create_hold_invoice(&self, hash: PaymentHash, r: &InvoiceRequest, cltv: u32) -> Result<String, LnError> {
        self.call(self.node.create_hold_invoice(hash, r, cltv)).await
    }

    async fn pay(&self, bolt11: &str, limits: PayLimits) -> Result<PaymentHash, LnError> {
        self.call(self.node.pay(bolt11, limits)).await
    }

    async fn payment(&self, payment_hash: PaymentHash) -> Result<PaymentStatus, LnError> {
        self.call(self.node.payment(payment_hash)).await
    }

    async fn invoice(&self, payment_hash: PaymentHash) -> Result<InvoiceStatus, LnError> {
        match self.call(self.node.invoice(payment_hash)).await? {
            InvoiceStatus::Settled { amount } if self.fuse.is_late(&payment_hash) => {
                Ok(InvoiceStatus::Accepted { amount, expiry_height: None })
            }
            status => Ok(status),
        }
    }

    async fn settle(&self, preimage: Preimage) -> Result<(), LnError> {
        let late = self.fuse.late_looks.load(Ordering::SeqCst);
        self.fuse.late.lock().expect("whole").entry(preimage.payment_hash()).or_insert(late);
        self.call(self.node.settle(preimage)).await
    }

    async fn cancel(&self, payment_hash: PaymentHash) -> Result<(), LnError> {
        self.call(self.node.cancel(payment_hash)).await
    }

    async fn channel_state(&self, node_id: &str) -> Result<ChannelState, LnError> {
        self.call(self.node.channel_state(node_id)).await
    }

    async fn open_channel(&self, request: &ChannelRequest) -> Result<(), LnError> {
        self.call(self.node.open_channel(request)).await
    }

    fn events(&self) -> broadcast::Receiver<LnEvent> {
        self.node.events()
    }

    async fn stop(&self) {
        self.node.stop().await;
    }
}
