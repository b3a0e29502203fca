//! Two nodes with a channel, whatever they are made of.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use l402t::ln::{InvoiceRequest, InvoiceStatus, Lightning, PayLimits, PaymentStatus};
use l402t::protocol::amount::Msat;
use l402t::protocol::ids::{PaymentHash, Preimage};

pub(crate) const LIMITS: PayLimits = PayLimits { max_fee: Msat::ZERO, max_cltv_blocks: 900 };
pub(crate) const FINAL_CLTV_BLOCKS: u32 = 144;
pub(crate) const CAPACITY_SAT: u64 = 10_000_000;
pub(crate) const PUSH: Msat = Msat::new(1_000_000_000);
const WAIT: Duration = Duration::from_secs(30);

/// The coordinator has opened a channel to the peer and pushed some of it.
pub(crate) trait Bench {
    fn coordinator(&self) -> Arc<dyn Lightning>;
    fn peer(&self) -> Arc<dyn Lightning>;
    /// Takes the peer down; `peer` must not be used until it is up again.
    async fn peer_down(&mut self);
    /// Brings the peer back, and returns once the channel can be used again.
    async fn peer_up(&mut self);
    /// Stops the coordinator's node and starts it again.
    async fn restart_coordinator(&mut self);
    /// Mines blocks and returns once both nodes have seen them.
    async fn mine(&mut self, blocks: u32);
    async fn stop(&mut self);
    /// Most HTLCs that the channel can hold from the coordinator to the peer, or as many as are enough to fill it.
    fn slots(&self) -> u32;

    async fn restart_peer(&mut self) {
        self.peer_down().await;
        self.peer_up().await;
    }
}

pub(crate) fn request(amount_msat: u64) -> InvoiceRequest {
    InvoiceRequest { amount: Msat::new(amount_msat), description: "a tranche".into(), expiry_s: 600 }
}

pub(crate) fn preimage(tag: u8) -> (Preimage, PaymentHash) {
    let preimage = Preimage::from_bytes([tag; 32]);
    (preimage, preimage.payment_hash())
}

/// A preimage of many.
#[cfg(any(feature = "embedded", feature = "lnd"))]
pub(crate) fn numbered(group: u16, place: u16) -> Preimage {
    let mut bytes = [7; 32];
    bytes[..2].copy_from_slice(&group.to_le_bytes());
    bytes[2..4].copy_from_slice(&place.to_le_bytes());
    Preimage::from_bytes(bytes)
}

/// The peer holds `amount_msat` of the coordinator's.
pub(crate) async fn hold(bench: &impl Bench, tag: u8, amount_msat: u64) -> (Preimage, PaymentHash) {
    let (preimage, hash) = preimage(tag);
    let invoice = bench.peer().create_hold_invoice(hash, &request(amount_msat), FINAL_CLTV_BLOCKS).await;
    let paid = bench.coordinator().pay(&invoice.expect("made"), LIMITS).await;
    assert_eq!(paid.expect("taken"), hash);
    accepted(bench, hash).await;
    (preimage, hash)
}

pub(crate) async fn accepted(bench: &impl Bench, hash: PaymentHash) {
    let peer = bench.peer();
    until("the HTLC is locked", async || matches!(peer.invoice(hash).await, Ok(InvoiceStatus::Accepted { .. }))).await;
}

/// Both sides agree that it was paid.
pub(crate) async fn settled(bench: &impl Bench, preimage: Preimage, amount_msat: u64) {
    let (hash, amount) = (preimage.payment_hash(), Msat::new(amount_msat));
    let (coordinator, peer) = (bench.coordinator(), bench.peer());
    let succeeded = PaymentStatus::Succeeded { preimage, fee: Msat::ZERO };
    until("the payer sees it paid", async || coordinator.payment(hash).await.ok().as_ref() == Some(&succeeded)).await;
    until("the payee has it", async || peer.invoice(hash).await.ok() == Some(InvoiceStatus::Settled { amount })).await;
}

/// Both sides agree that the money went back.
pub(crate) async fn refunded(bench: &impl Bench, hash: PaymentHash) {
    let (coordinator, peer) = (bench.coordinator(), bench.peer());
    until("the payer has it back", async || {
        matches!(coordinator.payment(hash).await, Ok(PaymentStatus::Failed { .. }))
    })
    .await;
    until("the payee gave it back", async || peer.invoice(hash).await.ok() == Some(InvoiceStatus::Canceled)).await;
}

/// The peer can send this much.
pub(crate) async fn peer_can_send(bench: &impl Bench, amount: Msat) {
    let peer = bench.peer();
    let mut last = None;
    let right = async || {
        last = peer.info().await.ok().map(|info| info.outbound_msat);
        last == Some(amount)
    };
    let waited = AssertUnwindSafe(until("the peer's balance is right", right)).catch_unwind().await;
    assert!(waited.is_ok(), "the peer can send {last:?}, not {amount:?}");
}

pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(WAIT, wait).await.unwrap_or_else(|_| panic!("waited too long until {what}"));
}
