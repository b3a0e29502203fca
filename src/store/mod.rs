//! Durable state: SQLite (events, projections, outbox, ledger) and blobs by BLAKE3.
//!
//! Nothing here decides: the state machine does. What is stored together is stored in one transaction, and what must be
//! on disk before something else happens is synced before the call returns.

pub mod aggregates;
pub mod blobs;
pub mod coordinator;
pub mod database;
pub mod events;
pub mod ledger;

use std::io;
use std::path::{Path, PathBuf};

use crate::protocol::ids::Blake3Hash;

/// Why something couldn't be stored or read back.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or folder.
    #[error("can't {action} {path}: {source}. Check the folder's permissions and the disk")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// No space left; nothing was half written.
    #[error("the disk that holds {0} is full. Free some space there: nothing is lost")]
    Full(PathBuf),
    /// Another process has it.
    #[error("{0} is in use by another process. Stop that one, or choose another data folder")]
    InUse(PathBuf),
    /// Written by a later version of this program.
    #[error("{path} has schema {found}, and this program knows schemas up to {known}. Use the newer program")]
    NewerSchema {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// The newest one known here.
        known: u32,
    },
    /// The database.
    #[error("the database refused: {0}")]
    Sqlite(rusqlite::Error),
    /// What was read back can't have been written.
    #[error("the database holds an unreadable {what}. Restore the data folder from a backup")]
    Corrupt {
        /// What.
        what: &'static str,
    },
    /// No such blob.
    #[error("there is no blob {0}")]
    NoBlob(Blake3Hash),
    /// The blob's bytes are others than were written.
    #[error("blob {0} is damaged on disk. Restore it from a backup or another copy")]
    DamagedBlob(Blake3Hash),
    /// The blob is larger than the reader takes.
    #[error("blob {hash} has {bytes} bytes, more than the {limit} allowed here")]
    LargeBlob {
        /// Which.
        hash: Blake3Hash,
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// Whoever watches the commits wants no more of them.
    #[error("stopped")]
    Halted,
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => StoreError::Full(PathBuf::from("the database")),
            Some(_) | None => StoreError::Sqlite(error),
        }
    }
}

impl StoreError {
    fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full(path.to_owned()),
            _ => StoreError::Io { action, path: path.to_owned(), source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_called_that() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert!(matches!(StoreError::io("write", Path::new("/x"), full), StoreError::Full(_)));
        let full = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL), None);
        assert!(matches!(StoreError::from(full), StoreError::Full(_)));
    }
}
