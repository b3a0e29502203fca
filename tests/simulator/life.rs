//! A process that can be killed: at its n-th moment, or by the dice. A moment is before or after a commit or a call to its
//! node. From then on nothing that it does has any effect.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use async_trait::async_trait;
use l402t::ln::{
    ChannelRequest, ChannelState, Invoice, InvoiceRequest, InvoiceStatus, Lightning, LnError, LnEvent, NodeInfo,
    PayLimits, PaymentStatus,
};
use l402t::protocol::ids::{PaymentHash, Preimage};
use l402t::store::StoreError;
use l402t::store::database::CommitObserver;
use tokio::sync::broadcast;

use crate::sim::Sim;

/// From start to crash, or to the end.
#[derive(Debug)]
pub(crate) struct Life {
    sim: Arc<Sim>,
    name: &'static str,
    dead: AtomicBool,
    moments_left: AtomicI64,
    moments: Arc<AtomicU64>,
    crash_ppm: u32,
}

/// What may end a life.
#[derive(Clone, Debug)]
pub(crate) struct Fate {
    /// After so many moments.
    pub(crate) moments: i64,
    /// At any moment.
    pub(crate) crash_ppm: u32,
    /// Counts the moments of every life of the process.
    pub(crate) counter: Arc<AtomicU64>,
}

impl Fate {
    pub(crate) fn none() -> Self {
        Self { moments: i64::MAX, crash_ppm: 0, counter: Arc::default() }
    }
}

impl Life {
    pub(crate) fn begin(sim: &Arc<Sim>, name: &'static str, fate: &Fate) -> Arc<Self> {
        sim.note(name, "starts");
        Arc::new(Self {
            sim: Arc::clone(sim),
            name,
            dead: AtomicBool::new(false),
            moments_left: AtomicI64::new(fate.moments),
            moments: Arc::clone(&fate.counter),
            crash_ppm: fate.crash_ppm,
        })
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// Ends it, whatever it is doing.
    pub(crate) fn kill(&self) {
        if !self.dead.swap(true, Ordering::Relaxed) {
            self.sim.note(self.name, "is killed");
        }
    }

    /// Is it dead by now?
    fn moment(&self, what: &str) -> bool {
        if self.is_dead() {
            return true;
        }
        self.moments.fetch_add(1, Ordering::Relaxed);
        let over = self.moments_left.fetch_sub(1, Ordering::Relaxed) <= 1;
        if over || self.sim.dice(|dice| dice.happens(self.crash_ppm)) {
            self.sim.note(self.name, format_args!("dies {what}"));
            self.dead.store(true, Ordering::Relaxed);
        }
        self.is_dead()
    }
}

impl CommitObserver for Life {
    fn before_commit(&self) -> Result<(), StoreError> {
        if self.moment("before a commit") {
            return Err(StoreError::Halted);
        }
        if self.sim.disk_is_full(self.name) { Err(StoreError::Full("its folder".into())) } else { Ok(()) }
    }

    fn after_commit(&self) -> Result<(), StoreError> {
        if self.moment("after a commit") { Err(StoreError::Halted) } else { Ok(()) }
    }
}

/// A process's node: calls take a while, and may be the last thing that it does.
#[derive(Debug)]
pub(crate) struct Mortal {
    pub(crate) life: Arc<Life>,
    pub(crate) node: Arc<dyn Lightning>,
}

impl Mortal {
    async fn call<T: std::fmt::Debug>(
        &self,
        name: &str,
        call: impl Future<Output = Result<T, LnError>> + Send,
    ) -> Result<T, LnError> {
        let Life { sim, name: who, .. } = &*self.life;
        if self.life.moment(&format!("before {name}")) {
            std::future::pending::<()>().await;
        }
        sim.give_way().await;
        let answer = call.await;
        match &answer {
            Ok(value) => sim.note(who, format_args!("{name} {value:?}")),
            Err(error) => sim.note(who, format_args!("{name}: {error}")),
        }
        if self.life.moment(&format!("after {name}")) {
            std::future::pending::<()>().await;
        }
        sim.give_way().await;
        answer
    }
}

#[async_trait]
impl Lightning for Mortal {
    async fn info(&self) -> Result<NodeInfo, LnError> {
        self.node.info().await
    }

    async fn create_invoice(&self, request: &InvoiceRequest) -> Result<Invoice, LnError> {
        self.call("create_invoice", self.node.create_invoice(request)).await
    }

    async fn create_hold_invoice(&self, hash: PaymentHash, r: &InvoiceRequest, cltv: u32) -> Result<String, LnError> {
        self.call("create_hold_invoice", self.node.create_hold_invoice(hash, r, cltv)).await
    }

    async fn pay(&self, bolt11: &str, limits: PayLimits) -> Result<PaymentHash, LnError> {
        self.call("pay", self.node.pay(bolt11, limits)).await
    }

    async fn payment(&self, payment_hash: PaymentHash) -> Result<PaymentStatus, LnError> {
        self.call("payment", self.node.payment(payment_hash)).await
    }

    async fn invoice(&self, payment_hash: PaymentHash) -> Result<InvoiceStatus, LnError> {
        self.call("invoice", self.node.invoice(payment_hash)).await
    }

    async fn settle(&self, preimage: Preimage) -> Result<(), LnError> {
        self.call("settle", self.node.settle(preimage)).await
    }

    async fn cancel(&self, payment_hash: PaymentHash) -> Result<(), LnError> {
        self.call("cancel", self.node.cancel(payment_hash)).await
    }

    async fn channel_state(&self, node_id: &str) -> Result<ChannelState, LnError> {
        self.call("channel_state", self.node.channel_state(node_id)).await
    }

    async fn open_channel(&self, request: &ChannelRequest) -> Result<(), LnError> {
        self.call("open_channel", self.node.open_channel(request)).await
    }

    fn events(&self) -> broadcast::Receiver<LnEvent> {
        self.node.events()
    }

    async fn stop(&self) {
        self.node.stop().await;
    }
}
