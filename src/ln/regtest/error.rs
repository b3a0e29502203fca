//! What can go wrong with the regtest chain.

use std::path::PathBuf;

/// Why the regtest chain failed.
#[derive(Debug, thiserror::Error)]
pub enum RegtestError {
    /// The disk.
    #[error("can't {action} {path}: {source}. Check the disk's free space and the folder's permissions")]
    Disk {
        /// `read`, `write` …
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another process has it open.
    #[error("{0} is in use by another process: stop that one first")]
    InUse(PathBuf),
    /// A block in the middle of the file can't be read.
    #[error(
        "{path} is damaged at byte {at}: delete the regtest folder (its coins are worth nothing) and every node on it"
    )]
    Damaged {
        /// The block file.
        path: PathBuf,
        /// Where.
        at: usize,
    },
    /// The address can't be listened on.
    #[error("can't serve the regtest chain on 127.0.0.1:{port}: {source}. Choose another port")]
    Listen {
        /// 0 is any free port.
        port: u16,
        /// Why.
        source: std::io::Error,
    },
    /// The server of the chain can't be reached.
    #[error("the regtest chain at {address} does not answer: {reason}. Check that the process that runs it is up")]
    Unreachable {
        /// `host:port`.
        address: String,
        /// Why.
        reason: String,
    },
    /// A transaction or block breaks a rule; the code is Bitcoin Core's.
    #[error("the regtest chain refused: {message} ({code})")]
    Refused {
        /// Bitcoin Core's RPC error code.
        code: i64,
        /// Which rule.
        message: String,
    },
}

impl RegtestError {
    pub(super) fn refused(code: i64, message: impl Into<String>) -> Self {
        RegtestError::Refused { code, message: message.into() }
    }
}

/// Bitcoin Core's RPC error codes, as far as they are answered here.
pub(super) mod code {
    pub(in super::super) const NOT_FOUND: i64 = -5;
    pub(in super::super) const NO_FUNDS: i64 = -6;
    pub(in super::super) const BAD_PARAMETER: i64 = -8;
    pub(in super::super) const BAD_TRANSACTION: i64 = -22;
    pub(in super::super) const MISSING_INPUTS: i64 = -25;
    pub(in super::super) const REJECTED: i64 = -26;
    pub(in super::super) const ALREADY_IN_CHAIN: i64 = -27;
    pub(in super::super) const INTERNAL: i64 = -1;
    pub(in super::super) const NO_SUCH_METHOD: i64 = -32_601;
}
