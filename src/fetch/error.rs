//! Why a fetch failed, whose doing it is, and what to do.

use std::io;
use std::path::PathBuf;

use crate::http::client::web::WebError;
use crate::ln::LnError;
use crate::protocol::amount::Msat;
use crate::protocol::ids::PaymentHash;
use crate::store::StoreError;

/// Whose doing a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// This machine's, or how the command was given.
    Local,
    /// The server's, or the network's.
    Remote,
    /// The payment's.
    Payment,
}

/// The wallet can't be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct WalletError {
    /// Stable, for programs.
    pub code: String,
    /// What failed.
    pub message: String,
    /// What to do.
    pub fix: String,
}

/// A failed fetch.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The URL, or the connection.
    #[error(transparent)]
    Web(#[from] WebError),
    /// There is something at the place for the download.
    #[error("{} exists already", .0.display())]
    Exists(PathBuf),
    /// The file can't be written.
    #[error("can't write {}: {source}", path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The tokens can't be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A redirect: credentials are for one origin, so it isn't followed.
    #[error("{url} has moved to {to:?}")]
    Moved {
        /// What was asked for.
        url: String,
        /// Where it says it is.
        to: String,
    },
    /// An answer that is neither content nor a challenge.
    #[error("{url} is answered with status {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// An answer that can't be trusted.
    #[error("the server's answer is not to be trusted: {0}")]
    Untrusted(String),
    /// What came can't be it.
    #[error("the server's content is not to be trusted: {0}")]
    BadContent(String),
    /// It costs more than allowed.
    #[error("the server asks for {asked}, and at most {most} may be paid")]
    TooExpensive {
        /// The invoice's amount.
        asked: Msat,
        /// The cap.
        most: Msat,
    },
    /// The invoice is for another network than the wallet's.
    #[error("the server's invoice is for {invoice}, and the wallet is on {wallet}")]
    OtherNetwork {
        /// The invoice's network.
        invoice: String,
        /// The wallet's.
        wallet: String,
    },
    /// No wallet.
    #[error(transparent)]
    Wallet(#[from] WalletError),
    /// The node failed.
    #[error(transparent)]
    Lightning(#[from] LnError),
    /// The payment failed, and the money is still here.
    #[error("the payment failed: {reason}")]
    NotPaid {
        /// What the node says.
        reason: String,
    },
    /// The payment has neither succeeded nor failed yet.
    #[error("the payment with hash {0} is still under way")]
    UnderWay(PaymentHash),
    /// Paid, and the server won't take the token.
    #[error("the server took {amount} for the token with payment hash {payment_hash} and does not accept it")]
    PaidInVain {
        /// What it cost.
        amount: Msat,
        /// Its payment.
        payment_hash: PaymentHash,
    },
    /// The token ended while the download was under way.
    #[error("the server asks for another payment after {done_bytes} bytes")]
    Expired {
        /// How many are here.
        done_bytes: u64,
    },
}

impl FetchError {
    /// Whose doing it is.
    pub fn blame(&self) -> Blame {
        match self {
            FetchError::Web(WebError::BadUrl { .. } | WebError::SetUp(_))
            | FetchError::Exists(_)
            | FetchError::Disk { .. }
            | FetchError::Store(_) => Blame::Local,
            FetchError::Web(WebError::Broken { .. })
            | FetchError::Moved { .. }
            | FetchError::Status { .. }
            | FetchError::Untrusted(_)
            | FetchError::BadContent(_)
            | FetchError::Expired { .. }
            | FetchError::PaidInVain { .. } => Blame::Remote,
            FetchError::TooExpensive { .. }
            | FetchError::OtherNetwork { .. }
            | FetchError::Wallet(_)
            | FetchError::Lightning(_)
            | FetchError::NotPaid { .. }
            | FetchError::UnderWay(_) => Blame::Payment,
        }
    }

    /// Stable, for programs.
    pub fn code(&self) -> &str {
        match self {
            FetchError::Web(WebError::BadUrl { .. }) => "bad_url",
            FetchError::Web(WebError::SetUp(_)) => "http_setup",
            FetchError::Web(WebError::Broken { .. }) => "interrupted",
            FetchError::Exists(_) => "output_exists",
            FetchError::Disk { .. } => "io",
            FetchError::Store(StoreError::InUse(_)) => "data_in_use",
            FetchError::Store(_) => "store",
            FetchError::Moved { .. } => "redirected",
            FetchError::Status { .. } => "http_status",
            FetchError::Untrusted(_) => "bad_challenge",
            FetchError::BadContent(_) => "bad_content",
            FetchError::TooExpensive { .. } => "too_expensive",
            FetchError::OtherNetwork { .. } => "other_network",
            FetchError::Wallet(error) => &error.code,
            FetchError::Lightning(_) => "lightning",
            FetchError::NotPaid { .. } => "payment_failed",
            FetchError::UnderWay(_) => "payment_under_way",
            FetchError::PaidInVain { .. } => "paid_in_vain",
            FetchError::Expired { .. } => "token_expired",
        }
    }

    /// What to do.
    pub fn fix(&self) -> &str {
        match self {
            FetchError::Web(WebError::BadUrl { .. }) => "Write it as https://host/path",
            FetchError::Web(WebError::SetUp(_)) => "Check the system's certificates",
            FetchError::Web(WebError::Broken { .. }) => "Run the same command again: it goes on where it stopped",
            FetchError::Exists(_) => "Move it away, or name another file with --output",
            FetchError::Disk { .. } => {
                "Mend that, then run the same command again: it goes on where it stopped, and pays nothing twice"
            }
            FetchError::Store(_) => "Mend what the message names, then run the same command again",
            FetchError::Moved { .. } => "If you trust the new address, fetch that one",
            FetchError::Status { .. } => "Check the address; if it is right, ask the server's operator",
            FetchError::Untrusted(_) => "Nothing was paid. Ask the server's operator",
            FetchError::BadContent(_) => {
                "Ask the server's operator. What was paid is in `l402t ledger`, and its token is shown again before another is bought"
            }
            FetchError::TooExpensive { .. } => "Nothing was paid. If it is worth that, allow it with --max-price SAT",
            FetchError::OtherNetwork { .. } => "Nothing was paid. Use a wallet on the invoice's network",
            FetchError::Wallet(error) => &error.fix,
            FetchError::Lightning(_) => {
                "Mend what the message names, then run the same command again: nothing is paid twice"
            }
            FetchError::NotPaid { .. } => "Check the wallet's balance and channels, then try again",
            FetchError::UnderWay(_) => "Run the same command again later: it waits for that payment and makes no other",
            FetchError::PaidInVain { .. } => {
                "Show the payment hash to the server's operator. To buy another token all the same: --pay-again"
            }
            FetchError::Expired { .. } => "Run the same command again: it goes on where it stopped, with a new token",
        }
    }
}
