//! Why a peer stops. None of these loses money or work: the journal says where to go on.

use std::path::{Path, PathBuf};

use super::api::ApiFailure;
use super::checks::NotWorthIt;
use super::journal::JournalError;
use crate::ln::LnError;
use crate::protocol::amount::Msat;
use crate::store::StoreError;

/// Whose doing it was, for the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// This machine or its configuration.
    Local,
    /// The coordinator, or the way to it.
    Coordinator,
    /// Lightning.
    Payment,
}

/// Why a peer stops.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The identity key is not what this program wrote.
    #[error("the identity key {path} is damaged: {detail}")]
    CorruptIdentity {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// A file or folder can't be read or written.
    #[error("could not {doing} {path}: {source}")]
    Io {
        /// A verb.
        doing: &'static str,
        /// What.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another process has the data folder.
    #[error("the data folder {0} is in use by another l402t")]
    InUse(PathBuf),
    /// The journal can't be read or written.
    #[error("the journal: {0}")]
    Journal(#[from] JournalError),
    /// What was bought by L402 can't be read.
    #[error("the tokens that were bought: {0}")]
    Tokens(#[from] StoreError),
    /// The coordinator did not answer for as long as it may.
    #[error("the coordinator did not answer for {patience_s} s while trying to {doing}: {detail}")]
    Unreachable {
        /// A verb.
        doing: &'static str,
        /// For how long it was tried.
        patience_s: u64,
        /// The last failure.
        detail: String,
    },
    /// The coordinator said no.
    #[error("the coordinator refused to {doing}: {message} ({code})")]
    Refused {
        /// A verb.
        doing: &'static str,
        /// Its code.
        code: String,
        /// Its words.
        message: String,
        /// Its advice.
        fix: String,
    },
    /// The coordinator said something that can't be true or wasn't agreed.
    #[error("the coordinator can't be trusted: {0}")]
    Untrusted(String),
    /// The run offers less or asks for more than the configuration allows.
    #[error("this run is not worth it: {0}")]
    Terms(String),
    /// A submission to a bounty that can't pay off.
    #[error("{0}")]
    NotWorthIt(#[from] NotWorthIt),
    /// One more payment could cost more than the owner allows a day.
    #[error("this may cost {cost}, {spent} were spent in the last 24 hours, and at most {most} may be")]
    SpendingCap {
        /// It, and what its route may take.
        cost: Msat,
        /// On bounties, routing included, also what is under way.
        spent: Msat,
        /// What the owner allows.
        most: Msat,
    },
    /// Whoever is asked first did not say yes.
    #[error("{message}")]
    NotAgreed {
        /// Stable, snake_case.
        code: &'static str,
        /// Why not.
        message: String,
        /// What to do.
        fix: &'static str,
    },
    /// No round of a bounty took the submission.
    #[error("no round of the bounty took the submission: {0}")]
    NoRound(String),
    /// A sponsor's channels can't lock the budget.
    #[error("{needed} have to be locked, and the channels can send {found}")]
    TooLittleOutbound {
        /// What is missing of the budget.
        needed: Msat,
        /// What can be sent.
        found: Msat,
    },
    /// A part of the budget could not be locked.
    #[error("the budget could not be locked: {reason}")]
    EscrowNotLocked {
        /// The node's words.
        reason: String,
    },
    /// A Lightning call failed.
    #[error("{0}")]
    Lightning(#[from] LnError),
    /// No channel became usable.
    #[error("no Lightning channel became usable within {waited_s} s")]
    NoChannel {
        /// For how long it was waited.
        waited_s: u64,
    },
    /// The fee could not be paid.
    #[error("the submission fee could not be paid: {reason}")]
    FeeNotPaid {
        /// The node's words.
        reason: String,
    },
    /// The coordinator took fees and sold no ticket, again and again.
    #[error("the coordinator took the submission fee {times} times in a row and gave no ticket")]
    FeesTaken {
        /// How often.
        times: u32,
    },
    /// Training failed.
    #[error("training failed: {0}")]
    Training(String),
}

impl PeerError {
    /// A failed file operation.
    pub fn io(doing: &'static str, path: &Path, source: std::io::Error) -> Self {
        PeerError::Io { doing, path: path.to_path_buf(), source }
    }

    /// What a failed call to the coordinator means once it is not tried again.
    pub fn api(doing: &'static str, patience_s: u64, failure: ApiFailure) -> Self {
        match failure {
            ApiFailure::Unreachable(detail) => PeerError::Unreachable { doing, patience_s, detail },
            ApiFailure::Refused { code, message, fix, .. } => PeerError::Refused { doing, code, message, fix },
            ApiFailure::Garbled(detail) => PeerError::Untrusted(detail),
            ApiFailure::Disk { path, source } => PeerError::Io { doing: "write", path, source },
        }
    }

    /// Whose doing it was.
    pub fn blame(&self) -> Blame {
        match self {
            PeerError::CorruptIdentity { .. }
            | PeerError::Io { .. }
            | PeerError::InUse(_)
            | PeerError::Journal(_)
            | PeerError::Tokens(_)
            | PeerError::Terms(_)
            | PeerError::NotWorthIt(_)
            | PeerError::SpendingCap { .. }
            | PeerError::NotAgreed { .. }
            | PeerError::Training(_) => Blame::Local,
            PeerError::Unreachable { .. }
            | PeerError::Refused { .. }
            | PeerError::Untrusted(_)
            | PeerError::NoRound(_) => Blame::Coordinator,
            PeerError::Lightning(_)
            | PeerError::NoChannel { .. }
            | PeerError::FeeNotPaid { .. }
            | PeerError::TooLittleOutbound { .. }
            | PeerError::EscrowNotLocked { .. }
            | PeerError::FeesTaken { .. } => Blame::Payment,
        }
    }

    /// Stable, snake_case.
    pub fn code(&self) -> &str {
        match self {
            PeerError::CorruptIdentity { .. } => "corrupt_identity",
            PeerError::Io { .. } => "io",
            PeerError::InUse(_) => "data_in_use",
            PeerError::Journal(_) => "journal",
            PeerError::Tokens(_) => "store",
            PeerError::Unreachable { .. } => "coordinator_unreachable",
            PeerError::Refused { code, .. } => code,
            PeerError::Untrusted(_) => "coordinator_untrusted",
            PeerError::Terms(_) => "terms",
            PeerError::NotWorthIt(why) => why.code(),
            PeerError::SpendingCap { .. } => "spending_cap",
            PeerError::NotAgreed { code, .. } => code,
            PeerError::NoRound(_) => "no_round",
            PeerError::Lightning(_) => "lightning",
            PeerError::NoChannel { .. } => "no_channel",
            PeerError::FeeNotPaid { .. } => "fee_not_paid",
            PeerError::FeesTaken { .. } => "fees_taken",
            PeerError::TooLittleOutbound { .. } => "too_little_outbound",
            PeerError::EscrowNotLocked { .. } => "escrow_not_locked",
            PeerError::Training(_) => "training",
        }
    }

    /// What to do.
    pub fn fix(&self) -> String {
        let text = match self {
            PeerError::CorruptIdentity { .. } => {
                "Restore it from a backup. It is never replaced, because it may own unclaimed rewards: to start as a new \
                 peer choose another --data folder"
            }
            PeerError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                "Free some disk space, then start again: nothing is lost"
            }
            PeerError::Io { .. } => "Check the path and the disk, then start again: nothing is lost",
            PeerError::InUse(_) => "Stop the other one, or choose another --data folder",
            PeerError::Tokens(_) => "Check the disk, then start again: nothing is paid twice",
            PeerError::Journal(_) => {
                "Check the disk and start again; keep the data folder, it may hold unclaimed rewards"
            }
            PeerError::Unreachable { .. } => {
                "Check the URL and the network, then start again: the journal says where to go on"
            }
            PeerError::Refused { fix, .. } => fix,
            PeerError::Untrusted(_) => "Nothing was paid for it. Tell the operator, or choose another coordinator",
            PeerError::NotWorthIt(why) => why.fix(),
            PeerError::NotAgreed { fix, .. } => fix,
            PeerError::SpendingCap { .. } => "Wait, or have the owner raise [bounty] max_daily_fees_sat",
            PeerError::NoRound(_) => "Nothing was paid. Try again later",
            PeerError::Terms(_) => {
                "Change [peer] in the configuration ([bounty] for a bounty) if these terms are fine with you"
            }
            PeerError::Lightning(_) => "See the log (--log info), then start again: the journal says where to go on",
            PeerError::NoChannel { .. } => {
                "A peer needs a channel to be paid through: ask the operator whether the coordinator opens channels, or \
                 open one with inbound capacity"
            }
            PeerError::FeeNotPaid { .. } => "Fund the wallet's channel, then start again",
            PeerError::TooLittleOutbound { .. } => "Fund the wallet's channels, or post a smaller budget",
            PeerError::EscrowNotLocked { .. } => {
                "What was locked of it comes back when the coordinator stops waiting for the rest. Mend what the message \
                 names; the same command then says that this posting is over, and given again it posts the folder anew"
            }
            PeerError::FeesTaken { .. } => "Tell the operator, or choose another coordinator",
            PeerError::Training(_) => "See the message; other errors of this kind are worth a report",
        };
        text.to_owned()
    }
}
