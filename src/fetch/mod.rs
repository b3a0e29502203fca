//! `l402t fetch`: downloads what a server sells by L402, and pays for it.
//!
//! A purchase is written down before the node is asked to pay, and found again after a crash: it must never pay one
//! challenge twice, never pay more than it was allowed, and never pay again for a token that was bought and then not taken.

mod challenge;
mod download;
mod error;
mod purchase;
mod session;
mod store;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

pub use error::{Blame, FetchError, WalletError};
pub use session::Session;
pub use store::{Bought, TokenStore, purchases};

use crate::http::client::web::WebUrl;
use crate::ln::Lightning;
use crate::protocol::amount::Msat;
use crate::protocol::ids::{Blake3Hash, PaymentHash};

/// What is wanted, and what it may cost.
#[derive(Clone, Debug)]
pub struct Request {
    /// Where it is.
    pub url: WebUrl,
    /// Where it goes. Must not exist yet.
    pub output: PathBuf,
    /// The most that is paid to the server.
    pub max_price: Msat,
    /// The most that is paid to nodes on the way.
    pub max_routing_fee: Msat,
    /// The most bytes that it may have.
    pub max_bytes: u64,
    /// What it has to be. A token counts as accepted once it has brought that; without a digest, once the server has taken it.
    pub digest: Option<Blake3Hash>,
    /// What to do about a token that was bought here and never taken.
    pub unaccepted: Unaccepted,
    /// Which tokens are shown before another is bought.
    pub tokens: Tokens,
}

impl Request {
    /// Are tokens of that path shown?
    fn shows(&self, path: &str) -> bool {
        self.tokens == Tokens::OfOrigin || path == self.url.path()
    }
}

/// Which tokens are shown to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tokens {
    /// All that were bought there: what they are good for is the server's affair.
    OfOrigin,
    /// Those that were bought for the same path.
    OfPath,
}

/// What there is already for a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing: it will have to be bought, unless it is free.
    Nothing,
    /// A purchase whose end isn't known: its money may be gone.
    Begun,
    /// A token.
    Bought,
}

/// What to do where the server doesn't take a token that it sold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unaccepted {
    /// Pay nothing more.
    Refuse,
    /// Buy another one.
    PayAgain,
}

/// How a download was paid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payment {
    /// The server asked for nothing.
    Free,
    /// With a token that was bought before.
    Reused {
        /// Its payment.
        payment_hash: PaymentHash,
    },
    /// With a token that was bought for it.
    Bought {
        /// Its payment.
        payment_hash: PaymentHash,
        /// What the server got.
        amount: Msat,
        /// What nodes on the way got.
        routing_fee: Msat,
    },
}

/// A finished download.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Its length.
    pub bytes: u64,
    /// How many of them an earlier try had brought.
    pub resumed_from: u64,
    /// How it was paid for.
    pub payment: Payment,
}

/// Something worth telling while it goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchEvent {
    /// The node is asked to pay.
    Paying {
        /// How much.
        amount: Msat,
        /// Whom: the payee's node.
        payee: String,
    },
    /// The node has paid.
    Paid {
        /// What nodes on the way got.
        routing_fee: Msat,
    },
    /// Bytes have come.
    Progress {
        /// So many are here.
        done_bytes: u64,
        /// Of so many, if the server says it.
        total_bytes: Option<u64>,
    },
    /// A try broke off; another one follows.
    GoingOn {
        /// Why.
        reason: String,
    },
}

/// The node that pays. Opened only where something is to be paid or a payment is to be looked up.
#[async_trait]
pub trait Wallet: Send + Sync {
    /// Opens it, or gives the one that is open.
    async fn open(&self) -> Result<Arc<dyn Lightning>, WalletError>;
}
