//! Listens to LND and passes on hints; claims what a kept preimage is for as soon as it is here.
//!
//! Every stream is opened again when it breaks, and what may have changed in the meantime is hinted at. LND tells of
//! accepted hold invoices only one by one, so there is a stream for each that has not ended, up to a bound.

use std::collections::HashSet;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fedimint_tonic_lnd::invoicesrpc::SubscribeSingleInvoiceRequest;
use fedimint_tonic_lnd::lnrpc::invoice::InvoiceState;
use fedimint_tonic_lnd::lnrpc::payment::PaymentStatus as LndStatus;
use fedimint_tonic_lnd::lnrpc::{ChannelEventSubscription, Invoice, InvoiceSubscription};
use fedimint_tonic_lnd::routerrpc::TrackPaymentsRequest;
use fedimint_tonic_lnd::tonic::{Response, Status, Streaming};
use tokio::task::JoinSet;

use super::client::{Trouble, sort};
use super::core::Core;
use crate::ln::LnEvent;
use crate::protocol::ids::PaymentHash;

/// Most hold invoices that are listened to at once. Beyond that their changes are found by asking.
const MAX_WATCHED: usize = 4_096;
/// Most payments that are hinted at after a break.
const MAX_IN_FLIGHT: usize = 65_536;
/// Between two tries to open a stream.
const PAUSE: Duration = Duration::from_millis(500);
/// From asking for a stream until LND has certainly begun to fill it.
const SETTLING_IN: Duration = Duration::from_millis(500);
/// How often kept preimages are tried.
const SWEEP_PAUSE: Duration = Duration::from_secs(5);

/// What is listened to.
#[derive(Debug, Default)]
pub(super) struct Watch {
    watched: Mutex<HashSet<PaymentHash>>,
    in_flight: Mutex<HashSet<PaymentHash>>,
    tasks: Mutex<JoinSet<()>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Sets of hashes and tasks: consistent whatever happened to the thread that held them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// A payment that has not ended.
    pub(super) fn is_in_flight(&self, hash: PaymentHash) {
        let mut in_flight = locked(&self.in_flight);
        if in_flight.len() < MAX_IN_FLIGHT {
            in_flight.insert(hash);
        }
    }

    fn has_ended(&self, hash: PaymentHash) {
        locked(&self.in_flight).remove(&hash);
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = locked(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    /// Stops listening.
    pub(super) fn stop(&self) {
        locked(&self.tasks).abort_all();
    }
}

/// Starts to listen, for as long as the node lives.
pub(super) fn start(core: &Arc<Core>) {
    core.watch.spawn(payments(Arc::clone(core)));
    core.watch.spawn(received(Arc::clone(core)));
    core.watch.spawn(channels(Arc::clone(core)));
    core.watch.spawn(sweep(Arc::clone(core)));
}

/// Listens to one hold invoice until it has ended.
pub(super) fn invoice(core: &Arc<Core>, hash: PaymentHash) {
    let mut watched = locked(&core.watch.watched);
    if watched.len() < MAX_WATCHED && watched.insert(hash) {
        drop(watched);
        core.watch.spawn(one_invoice(Arc::clone(core), hash));
    }
}

/// A stream that LND fills.
struct Stream<T> {
    method: &'static str,
    messages: Streaming<T>,
}

impl<T> Stream<T> {
    async fn open(
        method: &'static str,
        answer: impl Future<Output = Result<Response<Streaming<T>>, Status>>,
    ) -> Result<Self, Trouble> {
        let messages = answer.await.map_err(|status| sort(method, &status))?.into_inner();
        Ok(Self { method, messages })
    }

    /// None once LND has ended it.
    async fn next(&mut self) -> Result<Option<T>, Trouble> {
        self.messages.message().await.map_err(|status| sort(self.method, &status))
    }
}

/// Payments that end. LND does not repeat an end that nobody listened to: after a break all are hinted at.
async fn payments(core: Arc<Core>) {
    loop {
        let ended = tokio::select! {
            ended = listen_to_payments(&core) => ended,
            () = hint_at_payments(&core) => Ok(()),
        };
        broke("payments", ended);
        tokio::time::sleep(PAUSE).await;
    }
}

async fn listen_to_payments(core: &Core) -> Result<(), Trouble> {
    let mut router = core.client.router();
    let request = TrackPaymentsRequest { no_inflight_updates: true };
    let mut stream = Stream::open("TrackPayments", router.track_payments(request)).await?;
    while let Some(payment) = stream.next().await? {
        let Ok(hash) = payment.payment_hash.parse::<PaymentHash>() else { continue };
        match payment.status() {
            LndStatus::Succeeded | LndStatus::Failed => core.watch.has_ended(hash),
            #[allow(deprecated, reason = "LND still names it")]
            LndStatus::Unknown | LndStatus::InFlight | LndStatus::Initiated => {}
        }
        core.tell(LnEvent::Payment(hash));
    }
    Ok(())
}

async fn hint_at_payments(core: &Core) {
    tokio::time::sleep(SETTLING_IN).await;
    let all: Vec<PaymentHash> = locked(&core.watch.in_flight).iter().copied().collect();
    all.into_iter().for_each(|hash| core.tell(LnEvent::Payment(hash)));
    std::future::pending::<()>().await;
}

/// Settled invoices of every kind. LND goes on from the last one that was heard of.
async fn received(core: Arc<Core>) {
    let mut settle_index = 0;
    loop {
        broke("invoices", listen_to_received(&core, &mut settle_index).await);
        tokio::time::sleep(PAUSE).await;
    }
}

async fn listen_to_received(core: &Core, settle_index: &mut u64) -> Result<(), Trouble> {
    let mut lightning = core.client.lightning();
    let from = InvoiceSubscription { add_index: 0, settle_index: *settle_index };
    let mut stream = Stream::open("SubscribeInvoices", lightning.subscribe_invoices(from)).await?;
    while let Some(invoice) = stream.next().await? {
        *settle_index = invoice.settle_index.max(*settle_index);
        match (invoice.state(), hash_of(&invoice)) {
            (InvoiceState::Settled | InvoiceState::Canceled, Some(hash)) => core.tell(LnEvent::Invoice(hash)),
            (InvoiceState::Open | InvoiceState::Accepted, _) | (_, None) => {}
        }
    }
    Ok(())
}

async fn channels(core: Arc<Core>) {
    loop {
        broke("channels", listen_to_channels(&core).await);
        core.tell(LnEvent::Channels);
        tokio::time::sleep(PAUSE).await;
    }
}

async fn listen_to_channels(core: &Core) -> Result<(), Trouble> {
    let mut lightning = core.client.lightning();
    let request = ChannelEventSubscription {};
    let mut stream = Stream::open("SubscribeChannelEvents", lightning.subscribe_channel_events(request)).await?;
    while let Some(update) = stream.next().await? {
        // LND also tells of every new balance, in a form that this client does not know: only that is left out.
        if update.channel.is_some() {
            core.tell(LnEvent::Channels);
        }
    }
    Ok(())
}

/// One hold invoice. LND begins with its present state, so nothing is missed in a break.
async fn one_invoice(core: Arc<Core>, hash: PaymentHash) {
    loop {
        match listen_to_invoice(&core, hash).await {
            Ok(Progress::Over) | Err(Trouble::NotFound) => break,
            Ok(Progress::Open) => broke("an invoice", Ok(())),
            Err(trouble) => broke("an invoice", Err(trouble)),
        }
        tokio::time::sleep(PAUSE).await;
    }
    locked(&core.watch.watched).remove(&hash);
}

/// How far an invoice is.
enum Progress {
    Open,
    Over,
}

async fn listen_to_invoice(core: &Core, hash: PaymentHash) -> Result<Progress, Trouble> {
    let mut invoices = core.client.invoices();
    let request = SubscribeSingleInvoiceRequest { r_hash: hash.as_bytes().to_vec() };
    let mut stream = Stream::open("SubscribeSingleInvoice", invoices.subscribe_single_invoice(request)).await?;
    while let Some(invoice) = stream.next().await? {
        if let Progress::Over = changed(core, hash, invoice.state()).await {
            return Ok(Progress::Over);
        }
    }
    Ok(Progress::Open)
}

async fn changed(core: &Core, hash: PaymentHash, state: InvoiceState) -> Progress {
    let progress = match state {
        InvoiceState::Open => return Progress::Open,
        InvoiceState::Accepted => {
            core.settle_kept(hash).await;
            Progress::Open
        }
        InvoiceState::Settled | InvoiceState::Canceled => {
            if let Err(error) = core.records.let_go(hash).await {
                tracing::warn!(payment_hash = %hash, %error, "a preimage that is no longer needed stays on disk");
            }
            Progress::Over
        }
    };
    core.tell(LnEvent::Invoice(hash));
    progress
}

/// Listens to every invoice that a preimage is kept for, and tries it now and then: an order may have got no answer.
async fn sweep(core: Arc<Core>) {
    loop {
        match core.records.all_kept().await {
            Ok(hashes) => {
                for hash in hashes {
                    invoice(&core, hash);
                    core.settle_kept(hash).await;
                }
            }
            Err(error) => tracing::warn!(%error, "kept preimages are tried again later"),
        }
        tokio::time::sleep(SWEEP_PAUSE).await;
    }
}

fn hash_of(invoice: &Invoice) -> Option<PaymentHash> {
    invoice.r_hash.as_slice().try_into().ok().map(PaymentHash::from_bytes)
}

fn broke(what: &'static str, ended: Result<(), Trouble>) {
    match ended {
        Ok(()) => tracing::debug!(what, "LND ended a stream; listening again"),
        Err(trouble) => tracing::warn!(what, ?trouble, "LND is not heard; trying again"),
    }
}
