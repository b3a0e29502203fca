//! Why an LND node can't be used.

use std::path::PathBuf;

/// Why a start with an LND node failed. Once it runs, its calls answer with [`LnError`].
///
/// [`LnError`]: crate::ln::LnError
#[derive(Debug, thiserror::Error)]
pub enum LndError {
    /// A setting that can't be used.
    #[error("the LND setting {name} can't be used: {reason}")]
    Setting {
        /// Which.
        name: &'static str,
        /// Why; never a secret.
        reason: String,
    },
    /// Nothing there, or nothing that answers.
    #[error("no LND answers at {address}: {reason}")]
    Unreachable {
        /// `host:port`.
        address: String,
        /// Why.
        reason: String,
    },
    /// Somebody else's certificate, or an old one.
    #[error("the LND at {address} shows another TLS certificate than the configured one")]
    WrongCertificate {
        /// `host:port`.
        address: String,
    },
    /// A fresh LND.
    #[error("the LND at {0} has no wallet yet")]
    NoWallet(String),
    /// It waits for its password.
    #[error("the wallet of the LND at {0} is locked")]
    WalletLocked(String),
    /// It has been starting for longer than this program waits.
    #[error("the LND at {0} is still starting")]
    Starting(String),
    /// Hold invoices are canceled too late before 0.21.
    #[error("LND {found} is too old: l402t needs {least} or later")]
    TooOld {
        /// What runs.
        found: String,
        /// What is needed.
        least: &'static str,
    },
    /// It does not know the best block, so it does not know what has expired.
    #[error("LND is not synced to the chain: it is at block {height}")]
    NotSynced {
        /// Where it is.
        height: u32,
    },
    /// It can't ask for the best block.
    #[error("LND gets no answer from its chain backend: {0}")]
    NoChain(String),
    /// Not this node's macaroon.
    #[error("LND does not accept the macaroon: {0}")]
    WrongMacaroon(String),
    /// The macaroon is this node's, but does not allow enough.
    #[error("the macaroon does not allow {}", .0.join(", "))]
    NotAllowed(Vec<&'static str>),
    /// LND was built without a part that is needed.
    #[error("this LND was built without {0}")]
    Missing(&'static str),
    /// Payments that one node made can't be asked for at another.
    #[error("{folder} belongs to Lightning node {known}, but the configured LND is {found}")]
    AnotherNode {
        /// The folder.
        folder: PathBuf,
        /// The node that it was used with.
        known: String,
        /// The node that is configured.
        found: String,
    },
    /// The records beside LND.
    #[error("the records {path} can't be used: {reason}")]
    Records {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// An answer that makes no sense.
    #[error("LND answered {method} with {reason}")]
    Answer {
        /// What was asked.
        method: &'static str,
        /// What came.
        reason: String,
    },
}

impl LndError {
    /// Stable, snake_case.
    pub fn code(&self) -> &'static str {
        match self {
            LndError::Setting { .. } => "lnd_setting",
            LndError::Unreachable { .. } => "lnd_unreachable",
            LndError::WrongCertificate { .. } => "lnd_certificate",
            LndError::NoWallet(_) => "lnd_no_wallet",
            LndError::WalletLocked(_) => "lnd_locked",
            LndError::Starting(_) => "lnd_starting",
            LndError::TooOld { .. } => "lnd_too_old",
            LndError::NotSynced { .. } => "lnd_not_synced",
            LndError::NoChain(_) => "lnd_no_chain",
            LndError::WrongMacaroon(_) => "lnd_macaroon",
            LndError::NotAllowed(_) => "lnd_permissions",
            LndError::Missing(_) => "lnd_build",
            LndError::AnotherNode { .. } => "lnd_another_node",
            LndError::Records { .. } => "lnd_records",
            LndError::Answer { .. } => "lnd_answer",
        }
    }

    /// What to do.
    pub fn fix(&self) -> String {
        match self {
            LndError::Setting { name, .. } => format!("Correct {name} under [lightning.lnd]"),
            LndError::Unreachable { .. } => {
                "Check that lnd runs, that its rpclisten is this address, and that no firewall is between".into()
            }
            LndError::WrongCertificate { .. } => {
                "Point tls_cert at the tls.cert that this LND uses now (it makes a new one when the old one expires), \
                 and check that the address is the right node's"
                    .into()
            }
            LndError::NoWallet(_) => "Make one with lncli create, then start again".into(),
            LndError::WalletLocked(_) => "Unlock it with lncli unlock, then start again".into(),
            LndError::Starting(_) => "Wait until lncli state says SERVER_ACTIVE, then start again".into(),
            LndError::TooOld { .. } => {
                "Upgrade LND: before 0.21 it gives held payments back too late for its own force-close deadline".into()
            }
            LndError::NotSynced { .. } => {
                "Wait until lncli getinfo says synced_to_chain: true, and check LND's chain backend".into()
            }
            LndError::NoChain(_) => {
                "Start LND's chain backend (bitcoind, btcd) or mend LND's way to it, then start again".into()
            }
            LndError::WrongMacaroon(_) => {
                "Use a macaroon that this LND made (docs/lnd.md has the command); one of another node, or from before \
                 its macaroons were made anew, does not work"
                    .into()
            }
            LndError::NotAllowed(_) => format!("Make one that does: {}", super::permissions::bake_command()),
            LndError::Missing(_) => "Use an official release of LND, or build it with the tags that it needs".into(),
            LndError::AnotherNode { .. } => {
                "Configure the node that was used before, or choose another --data folder: on a second node payments \
                 that the first one made would be made again"
                    .into()
            }
            LndError::Records { .. } => {
                "Check the disk's free space and the folder's permissions, then start again".into()
            }
            LndError::Answer { .. } => "Look into LND's log, then start again".into(),
        }
    }
}
