//! What can go wrong with a network on this machine.

use std::path::PathBuf;

/// Why the local network failed.
#[derive(Debug, thiserror::Error)]
pub enum LocalnetError {
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
    /// A program is not in the tools' folder.
    #[error("there is no {program} in {folder}. Build it with: ./x regtest build")]
    NoTool {
        /// `btcd`, `lnd`.
        program: &'static str,
        /// The folder that was named.
        folder: PathBuf,
    },
    /// A program can't be started.
    #[error("can't start {program}: {source}")]
    Start {
        /// Its path.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A program ended when it should run.
    #[error("{program} ended at once; its log {log} ends with: {tail}")]
    Ended {
        /// `btcd`, `lnd`.
        program: &'static str,
        /// Where the whole log is.
        log: PathBuf,
        /// Its last lines.
        tail: String,
    },
    /// Something took too long.
    #[error("{what} did not happen within {limit_s} s; see {log}")]
    TooLate {
        /// What was waited for.
        what: String,
        /// How long.
        limit_s: u64,
        /// Where to look.
        log: PathBuf,
    },
    /// All ports that were tried are taken.
    #[error("no free port on 127.0.0.1 between {first} and {last}")]
    NoPort {
        /// The first that was tried.
        first: u16,
        /// The last.
        last: u16,
    },
    /// btcd can't be talked to.
    #[error("btcd at {address} does not answer {method}: {reason}. Check that it still runs")]
    Unreachable {
        /// `host:port`.
        address: String,
        /// The RPC method.
        method: String,
        /// Why.
        reason: String,
    },
    /// btcd said no; the code is Bitcoin Core's.
    #[error("btcd refused {method}: {message} ({code})")]
    Refused {
        /// The RPC method.
        method: String,
        /// Bitcoin Core's RPC error code.
        code: i64,
        /// Which rule.
        message: String,
    },
    /// LND can't be talked to, or said no.
    #[error("lnd at {address} failed to {what}: {reason}")]
    Lnd {
        /// `host:port`.
        address: String,
        /// What was asked.
        what: &'static str,
        /// Its words.
        reason: String,
    },
    /// An address that can't be paid here.
    #[error("{address:?} is not a regtest address: {reason}")]
    Address {
        /// What was given.
        address: String,
        /// Why.
        reason: String,
    },
    /// The faucet has run dry.
    #[error("the faucet has no coins for {wanted_sat} sat now: mine some blocks")]
    Dry {
        /// What was asked for.
        wanted_sat: u64,
    },
    /// Embedded nodes could not reach the chain.
    #[error("btcd's chain can't be served to embedded nodes: {0}")]
    Bridge(String),
    /// The key pair for btcd's TLS.
    #[error("can't make a certificate for btcd: {0}")]
    Certificate(String),
}

impl LocalnetError {
    /// Turns an IO error into one that says what was done to which path.
    pub(super) fn disk(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| LocalnetError::Disk { action, path, source }
    }
}
