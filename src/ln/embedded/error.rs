//! Why an embedded node can't start.

use std::path::PathBuf;

/// Why an embedded node could not be started. Once it runs, its calls answer with [`LnError`].
///
/// [`LnError`]: crate::ln::LnError
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// A file or folder.
    #[error("can't {action} {path}: {source}. Check the disk's free space and the folder's permissions")]
    Disk {
        /// `read`, `create` …
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Two processes on one wallet would lose its channels.
    #[error("the Lightning node in {0} is in use by another process: stop that one first")]
    InUse(PathBuf),
    /// There is a wallet, but not its seed.
    #[error("{0} is missing, but there is a wallet beside it: put the seed file back from your backup")]
    SeedMissing(PathBuf),
    /// Neither 32 nor 64 bytes.
    #[error("{path} has {length} bytes, not 32 or 64: put the seed file back from your backup")]
    SeedDamaged {
        /// The seed file.
        path: PathBuf,
        /// Its length.
        length: usize,
    },
    /// A setting that can't be used.
    #[error("the Lightning setting {name} can't be used: {reason}")]
    Setting {
        /// Which.
        name: &'static str,
        /// Why, with the value.
        reason: String,
    },
    /// The database.
    #[error("the Lightning node's database {path} can't be used: {reason}")]
    Store {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The node runs, but its state can't be written any more.
    #[error("the Lightning node can't write its state to {0}, so it must not go on. Nothing is lost")]
    NotWritten(PathBuf),
    /// The node runs, but LDK broke off.
    #[error("the Lightning node in {0} broke off, as LDK does when its channel state is old. Its log says more")]
    BrokenOff(PathBuf),
    /// LDK refused.
    #[error("the Lightning node could not {action}: {reason}")]
    Node {
        /// `be built`, `start` …
        action: &'static str,
        /// Why, and what to do.
        reason: String,
    },
    /// The folder is an old copy.
    #[error(
        "the Lightning node in {folder} is not started: it is an old copy. Its channel state is number {held}, and this \
         machine has seen number {newest}. An old state that is sent out gives its channels' money away"
    )]
    Stale {
        /// The wallet's folder.
        folder: PathBuf,
        /// The number of its channel state.
        held: u64,
        /// The newest that was seen.
        newest: u64,
    },
    /// A peer has newer channel state than this wallet.
    #[error(
        "the Lightning node in {0} is not started: another node proved that its channel state is old. An old state that \
         is sent out gives its channels' money away"
    )]
    Behind(PathBuf),
    /// Restored from a backup, and nothing shows that it is the newest.
    #[error(
        "the Lightning node in {0} is not started: it was restored from a backup, and payments may have been made since. \
         An old channel state that is sent out gives its channels' money away"
    )]
    Restored(PathBuf),
    /// The wallet was moved elsewhere.
    #[error("the Lightning node in {0} is not started: the wallet was moved out of it with `wallet backup --move`")]
    Moved(PathBuf),
    /// A recovery has begun and is not done.
    #[error("the Lightning node in {0} is not started: its recovery from the seed has begun and is not done")]
    Recovering(PathBuf),
    /// The file of the newest channel state can't be trusted.
    #[error(
        "{0} is damaged: it says which channel state of this wallet is the newest. Delete it only if you know that no \
         newer copy of the wallet ever ran"
    )]
    MarkerDamaged(PathBuf),
    /// No wallet in that folder.
    #[error("there is no Lightning wallet in {0}")]
    NoWallet(PathBuf),
    /// A wallet is never written over another.
    #[error("{0} holds a wallet already: restore into an empty folder")]
    NotEmpty(PathBuf),
    /// Not a whole backup.
    #[error("{path} is not a sound wallet backup: {reason}")]
    BackupDamaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// There is something else where the backup should go.
    #[error("{path} is not written over: {reason}")]
    BackupInTheWay {
        /// The file.
        path: PathBuf,
        /// What it is.
        reason: String,
    },
    /// Coins of one network are worth nothing on another.
    #[error("the wallet is on {wallet}, and the configured chain is on {configured}")]
    WrongNetwork {
        /// The wallet's.
        wallet: String,
        /// The chain's.
        configured: String,
    },
    /// Not 24 words of BIP 39.
    #[error("these are not a wallet's 24 words: {0}")]
    BadWords(String),
}
