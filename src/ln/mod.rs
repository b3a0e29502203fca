//! Lightning: one narrow trait, and the nodes behind it.
//!
//! Nothing here knows about rounds or verdicts. Every operation is keyed by payment hash and may be called again after
//! a crash: a second call must find what the first one did, never do it twice.

pub mod bolt11;
#[cfg(feature = "embedded")]
pub mod embedded;
mod limits;
#[cfg(feature = "lnd")]
pub mod lnd;
#[cfg(feature = "embedded")]
pub mod regtest;
pub mod simulated;

use async_trait::async_trait;
pub use limits::{FAIL_BACK_BLOCKS, MAX_DESCRIPTION_BYTES, MAX_EXPIRY_S, MAX_HOLD_CLTV_BLOCKS, MIN_FINAL_CLTV_BLOCKS};
use tokio::sync::broadcast;

use crate::protocol::amount::Msat;
use crate::protocol::ids::{PaymentHash, Preimage};

/// A node, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInfo {
    /// The implementation, for people: `embedded LDK (regtest)`, `simulated`.
    pub implementation: String,
    /// Compressed public key, 66 hex digits.
    pub node_id: String,
    /// `host:port` where it listens, if it does.
    pub address: Option<String>,
    /// `regtest`, `signet`, `testnet`, `bitcoin`.
    pub network: String,
    /// Height of the best block it knows.
    pub block_height: u32,
    /// What it can send over usable channels.
    pub outbound_msat: Msat,
    /// What it can receive over usable channels.
    pub inbound_msat: Msat,
    /// Usable channels.
    pub usable_channels: u32,
}

/// An invoice to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvoiceRequest {
    /// What it asks for.
    pub amount: Msat,
    /// Shown to the payer; at most 100 bytes.
    pub description: String,
    /// From now on, in seconds.
    pub expiry_s: u32,
}

/// An invoice whose preimage this node has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invoice {
    /// BOLT 11.
    pub bolt11: String,
    /// Its payment hash.
    pub payment_hash: PaymentHash,
}

/// What a payment may cost and how long it may be locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayLimits {
    /// Most routing fee.
    pub max_fee: Msat,
    /// Most blocks that the whole route may lock the money.
    pub max_cltv_blocks: u32,
}

/// An outgoing payment. `Unknown` is for a node that can't say: ask again, never resend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PaymentStatus {
    /// This node never tried to pay this hash.
    NotFound,
    /// Locked or on its way.
    InFlight,
    /// Paid.
    Succeeded {
        /// The proof.
        preimage: Preimage,
        /// Routing fee, on top of the amount.
        fee: Msat,
    },
    /// Not paid, and the money is back: no HTLC is left of this attempt.
    Failed {
        /// Whether another attempt may end otherwise.
        why: PaymentFailure,
        /// For people.
        reason: String,
    },
    /// The node could not say.
    Unknown,
}

/// Why a payment failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PaymentFailure {
    /// It never reached the payee, which is offline or to which there was no route within the limits: later there may be.
    NotReached,
    /// The payee or this node would not have it, and would not have it later either. A node that can't tell the two
    /// apart says [`PaymentFailure::NotReached`].
    Refused,
}

/// An incoming payment, by the states of a hold invoice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InvoiceStatus {
    /// No invoice of this node has this hash.
    NotFound,
    /// Not paid yet.
    Open,
    /// The HTLC is locked to this node.
    Accepted {
        /// What is locked.
        amount: Msat,
        /// The node fails it back at this block height, if it knows one.
        expiry_height: Option<u32>,
    },
    /// The money is this node's.
    Settled {
        /// What was received.
        amount: Msat,
    },
    /// Failed back or expired.
    Canceled,
}

/// A channel to be opened to a peer's node, so that it can receive (and, by the push, pay its first fees).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelRequest {
    /// The other node, compressed public key, 66 hex digits.
    pub node_id: String,
    /// Where it listens, `host:port`.
    pub address: String,
    /// Channel size in sat.
    pub capacity_sat: u64,
    /// Given to the other side at once.
    pub push: Msat,
}

/// What there is between this node and another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelState {
    /// No channel.
    None,
    /// One that can't be used yet, or not now.
    Pending,
    /// One that can be used now.
    Usable,
}

/// Something changed about a payment or an invoice. A hint to look, not a fact: it may be lost or repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LnEvent {
    /// An outgoing payment changed.
    Payment(PaymentHash),
    /// An incoming payment changed.
    Invoice(PaymentHash),
    /// A channel opened, closed or became usable.
    Channels,
}

/// Why a Lightning call failed. None of these says whether money moved: ask for the status.
#[derive(Debug, thiserror::Error)]
pub enum LnError {
    /// The node can't be reached or gave no answer in time.
    #[error("the Lightning node does not answer: {0}. Check that it runs, then try again")]
    Unavailable(String),
    /// The node refused, and will refuse again.
    #[error("the Lightning node refused: {0}")]
    Refused(String),
    /// The text is not a payable BOLT 11 invoice on this node's network.
    #[error("not a payable invoice: {0}")]
    BadInvoice(String),
    /// There is nothing under this payment hash.
    #[error("no invoice or payment with hash {0}")]
    UnknownHash(PaymentHash),
    /// The preimage is not this hash's.
    #[error("the preimage does not belong to payment hash {0}")]
    WrongPreimage(PaymentHash),
}

/// A Lightning node. Every method may be called again after a crash.
#[async_trait]
pub trait Lightning: Send + Sync + std::fmt::Debug {
    /// The node as it is now.
    async fn info(&self) -> Result<NodeInfo, LnError>;

    /// Makes an ordinary invoice (BOLT 11) with a preimage of the node's own.
    async fn create_invoice(&self, request: &InvoiceRequest) -> Result<Invoice, LnError>;

    /// Makes a hold invoice on a hash whose preimage this node doesn't have. `final_cltv_blocks` is the CLTV delta that
    /// the payer must leave (BOLT 11 `c`). A second call with the same hash returns the first invoice.
    async fn create_hold_invoice(
        &self,
        payment_hash: PaymentHash,
        request: &InvoiceRequest,
        final_cltv_blocks: u32,
    ) -> Result<String, LnError>;

    /// Starts to pay an invoice in one part. Returns once the node has taken charge of it; follow it with
    /// [`Lightning::payment`]. A second call for the same hash does nothing unless the first attempt has failed for good.
    async fn pay(&self, bolt11: &str, limits: PayLimits) -> Result<PaymentHash, LnError>;

    /// The state of an outgoing payment.
    async fn payment(&self, payment_hash: PaymentHash) -> Result<PaymentStatus, LnError>;

    /// The state of an incoming payment.
    async fn invoice(&self, payment_hash: PaymentHash) -> Result<InvoiceStatus, LnError>;

    /// Claims the HTLC locked on the preimage's hash. `Ok` means that the node has the preimage and will claim; poll
    /// [`Lightning::invoice`] for `Settled`. Idempotent.
    async fn settle(&self, preimage: Preimage) -> Result<(), LnError>;

    /// Fails the HTLC locked on the hash back to the payer, or withdraws the open invoice. Idempotent.
    async fn cancel(&self, payment_hash: PaymentHash) -> Result<(), LnError>;

    /// The best channel with a node.
    async fn channel_state(&self, node_id: &str) -> Result<ChannelState, LnError>;

    /// Opens a channel, unless there is one with that node already (usable or not). Returns once it is under way.
    async fn open_channel(&self, request: &ChannelRequest) -> Result<(), LnError>;

    /// Hints that something changed.
    fn events(&self) -> broadcast::Receiver<LnEvent>;

    /// Stops the node, flushing its state. Call before the process exits.
    async fn stop(&self);
}
