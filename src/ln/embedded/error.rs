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
    /// Not 64 bytes.
    #[error("{path} has {length} bytes, not 64: put the seed file back from your backup")]
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
    /// LDK refused.
    #[error("the Lightning node could not {action}: {reason}")]
    Node {
        /// `be built`, `start` …
        action: &'static str,
        /// Why, and what to do.
        reason: String,
    },
}
