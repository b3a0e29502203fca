//! What can go wrong in the coordinator, and how a request is told.

use std::io;
use std::path::Path;

use super::handle::Refusal;
use crate::ln::LnError;
use crate::model::ModelError;
use crate::model::tokens::TokensError;
use crate::protocol::api::ApiError;
use crate::protocol::round::Illegal;
use crate::store::StoreError;

/// Why the coordinator can't do something.
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// Storing or reading back.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Lightning.
    #[error(transparent)]
    Lightning(#[from] LnError),
    /// An event at the wrong moment.
    #[error(transparent)]
    Illegal(#[from] Illegal),
    /// The round can't be judged, or the judge's answer doesn't hold.
    #[error("round {round} can't be judged: {problem}")]
    Judge {
        /// Which round.
        round: u32,
        /// Why.
        problem: String,
    },
    /// A setting that a new run needs.
    #[error("the setting {key} is missing. Set it in the configuration file, under [run]")]
    MissingSetting {
        /// Which.
        key: &'static str,
    },
    /// A setting that makes no run.
    #[error("the setting {key} = {value} is not possible: {problem}")]
    BadSetting {
        /// Which.
        key: &'static str,
        /// What it was.
        value: String,
        /// What is wrong.
        problem: String,
    },
    /// A run is fixed once it has started.
    #[error(
        "the run in this data folder was started with {key} = {before}, and now it is {now}. Set it back, or choose \
         another data folder for a new run"
    )]
    ChangedSetting {
        /// Which.
        key: String,
        /// In the data folder.
        before: String,
        /// In the configuration.
        now: String,
    },
    /// The run's first files.
    #[error("can't read {path}: {source}")]
    Unreadable {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The model's description.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The corpus.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// The corpus, before it is tokens.
    #[error("corpus: {0}")]
    Corpus(String),
    /// A request that was understood and refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A bug: a task ended by a panic. Nothing was stored by it.
    #[error("a task of the coordinator failed unexpectedly. Please report this")]
    Panicked,
    /// A bug: what only a bounty has was asked of a run of training.
    #[error("a run of training was taken for a bounty. Please report this")]
    NoBounty,
}

impl CoordinatorError {
    /// A file that the settings name.
    pub(super) fn unreadable(path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| CoordinatorError::Unreadable { path: path.display().to_string(), source }
    }

    /// The corpus, or a file of it.
    pub(super) fn bad_corpus(path: &Path, problem: impl Into<String>) -> Self {
        CoordinatorError::BadSetting { key: "corpus", value: path.display().to_string(), problem: problem.into() }
    }
}

#[cfg(feature = "datasets")]
impl From<l402t_datasets::DatasetError> for CoordinatorError {
    fn from(error: l402t_datasets::DatasetError) -> Self {
        Self::Corpus(error.to_string())
    }
}

/// A refusal, from its parts.
pub(super) fn refusal(status: u16, code: &str, message: impl Into<String>, fix: impl Into<String>) -> Refusal {
    Refusal { status, error: ApiError { code: code.into(), message: message.into(), fix: fix.into() } }
}

impl From<CoordinatorError> for Refusal {
    fn from(error: CoordinatorError) -> Self {
        match error {
            CoordinatorError::Refused(refusal) => refusal,
            CoordinatorError::Illegal(illegal) => refuse_illegal(illegal),
            CoordinatorError::Store(StoreError::Full(_)) => {
                tracing::error!("{error}");
                let fix = "Try again later: the operator has to free some space";
                refusal(503, "disk_full", "the coordinator's disk is full", fix)
            }
            CoordinatorError::Store(_)
            | CoordinatorError::Lightning(_)
            | CoordinatorError::Judge { .. }
            | CoordinatorError::MissingSetting { .. }
            | CoordinatorError::BadSetting { .. }
            | CoordinatorError::ChangedSetting { .. }
            | CoordinatorError::Unreadable { .. }
            | CoordinatorError::Model(_)
            | CoordinatorError::Tokens(_)
            | CoordinatorError::Corpus(_)
            | CoordinatorError::Panicked
            | CoordinatorError::NoBounty => {
                // The operator's log has the details; a stranger needs none of them.
                tracing::error!("{error}");
                refusal(503, "unavailable", "the coordinator can't serve this now", "Try again in a few seconds")
            }
        }
    }
}

fn refuse_illegal(illegal: Illegal) -> Refusal {
    let (status, code, fix) = match illegal {
        Illegal::UnknownContribution(..) => (404, "unknown_contribution", "Buy a ticket first"),
        Illegal::CommitLate { .. } => (409, "round_closed", "Wait for the next round"),
        Illegal::Full { .. } => (409, "round_full", "Wait for the next round"),
        Illegal::AlreadyCommitted(_) => {
            (409, "already_committed", "Go on with the contribution named, or wait for the next round")
        }
        Illegal::InvoicesLate { .. } => (409, "invoices_late", "Wait for the next round"),
        Illegal::InvoicesTaken(_) => (409, "invoices_taken", "Go on with the invoices sent before"),
        Illegal::NotLocked(_) => {
            (409, "not_locked", "Wait until every tranche is locked; if one failed, wait for the receipt")
        }
        Illegal::UploadLate { .. } => (409, "upload_late", "Wait for the receipt, then cancel the invoices"),
        Illegal::AlreadyUploaded(_) => (409, "already_uploaded", "Wait for the receipt"),
        Illegal::WrongLength { .. } => (422, "payload_mismatch", "Send the very bytes that the commitment names"),
        Illegal::UnknownTranche(..)
        | Illegal::WrongTrancheState { .. }
        | Illegal::NotJudging(_)
        | Illegal::BadVerdicts(_) => (503, "unavailable", "Try again in a few seconds"),
    };
    refusal(status, code, illegal.to_string(), fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_learns_what_to_do_and_nothing_of_the_operators_files() {
        let full = CoordinatorError::Store(StoreError::Full("/home/operator/blobs".into()));
        let refused = Refusal::from(full);
        assert_eq!((refused.status, refused.error.code.as_str()), (503, "disk_full"));
        assert!(!refused.to_string().contains("operator/"));
        let broken = Refusal::from(CoordinatorError::Store(StoreError::Corrupt { what: "run" }));
        assert_eq!((broken.status, broken.error.code.as_str()), (503, "unavailable"));
    }
}
