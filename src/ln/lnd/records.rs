//! What LND can't keep for us, in one SQLite file: which node this folder belongs to, preimages that came before their
//! HTLC, and payments that were refused before LND had a record of them.
//!
//! WAL with `synchronous = FULL`: what was said to be kept survives a power cut. It must never show a preimage.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, OptionalExtension, params};

use super::LndError;
use crate::ln::LnError;
use crate::protocol::ids::{PaymentHash, Preimage};

/// The database file within the node's folder.
pub const FILE_NAME: &str = "lnd.sqlite";

const SCHEMA: &str = "
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS kept (payment_hash BLOB PRIMARY KEY, preimage BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS refused (payment_hash BLOB PRIMARY KEY, reason TEXT NOT NULL) WITHOUT ROWID;
";

/// The open records. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Records {
    connection: Arc<Mutex<Connection>>,
    path: PathBuf,
}

impl Records {
    /// Opens the records in `dir`, which is made for this user only if need be.
    pub(super) fn open(dir: &Path) -> Result<Self, LndError> {
        use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
        let path = dir.join(FILE_NAME);
        let refused = |reason: String| LndError::Records { path: path.clone(), reason };
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        // Made here rather than by SQLite, which would let others read it.
        made.and_then(|()| std::fs::File::options().create(true).append(true).mode(0o600).open(&path))
            .map_err(|error| refused(error.to_string()))?;
        let connection = Connection::open(&path).map_err(|error| refused(error.to_string()))?;
        connection.execute_batch(SCHEMA).map_err(|error| refused(error.to_string()))?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)), path })
    }

    /// For a process that orders nothing.
    pub(super) fn in_memory() -> Result<Self, LndError> {
        let path = PathBuf::from(":memory:");
        let refused = |error: rusqlite::Error| LndError::Records { path: path.clone(), reason: error.to_string() };
        let connection = Connection::open_in_memory().map_err(refused)?;
        connection.execute_batch(SCHEMA).map_err(refused)?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)), path })
    }

    /// Ties the folder to a node on its first use, and refuses another one from then on.
    pub(super) fn belongs_to(&self, node_id: &str) -> Result<(), LndError> {
        let failed = |error: rusqlite::Error| LndError::Records { path: self.path.clone(), reason: error.to_string() };
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        const ADD: &str = "INSERT INTO facts VALUES ('node_id', ?1) ON CONFLICT (name) DO NOTHING";
        connection.execute(ADD, [node_id]).map_err(failed)?;
        const READ: &str = "SELECT value FROM facts WHERE name = 'node_id'";
        let known: String = connection.query_row(READ, [], |row| row.get(0)).map_err(failed)?;
        if known == node_id {
            return Ok(());
        }
        let folder = self.path.parent().map(Path::to_path_buf).unwrap_or_default();
        Err(LndError::AnotherNode { folder, known, found: node_id.to_owned() })
    }

    /// Keeps a preimage until its HTLC is here.
    pub(super) async fn keep(&self, preimage: Preimage) -> Result<(), LnError> {
        const SQL: &str = "INSERT INTO kept VALUES (?1, ?2) ON CONFLICT (payment_hash) DO NOTHING";
        let hash = preimage.payment_hash();
        self.run(move |connection| connection.execute(SQL, params![hash.as_bytes(), preimage.as_bytes()]).map(drop))
            .await
    }

    /// The preimage that is kept for a hash.
    pub(super) async fn kept(&self, hash: PaymentHash) -> Result<Option<Preimage>, LnError> {
        const SQL: &str = "SELECT preimage FROM kept WHERE payment_hash = ?1";
        self.run(move |connection| {
            connection.prepare_cached(SQL)?.query_row([hash.as_bytes()], |row| row.get(0)).optional()
        })
        .await
        .map(|bytes| bytes.map(Preimage::from_bytes))
    }

    /// Every hash that a preimage is kept for.
    pub(super) async fn all_kept(&self) -> Result<Vec<PaymentHash>, LnError> {
        const SQL: &str = "SELECT payment_hash FROM kept";
        self.run(move |connection| {
            let mut query = connection.prepare_cached(SQL)?;
            let hashes = query.query_map([], |row| Ok(PaymentHash::from_bytes(row.get(0)?)))?;
            hashes.collect()
        })
        .await
    }

    /// The invoice has ended: its preimage is LND's by now, or worth nothing.
    pub(super) async fn let_go(&self, hash: PaymentHash) -> Result<(), LnError> {
        const SQL: &str = "DELETE FROM kept WHERE payment_hash = ?1";
        self.run(move |connection| connection.execute(SQL, [hash.as_bytes()]).map(drop)).await
    }

    /// Notes a payment that was not sent, so that it has an end that can be asked for.
    pub(super) async fn refuse(&self, hash: PaymentHash, reason: String) -> Result<(), LnError> {
        const SQL: &str = "INSERT INTO refused VALUES (?1, ?2)
            ON CONFLICT (payment_hash) DO UPDATE SET reason = excluded.reason";
        self.run(move |connection| connection.execute(SQL, params![hash.as_bytes(), reason]).map(drop)).await
    }

    /// It is sent after all.
    pub(super) async fn allow(&self, hash: PaymentHash) -> Result<(), LnError> {
        const SQL: &str = "DELETE FROM refused WHERE payment_hash = ?1";
        self.run(move |connection| connection.execute(SQL, [hash.as_bytes()]).map(drop)).await
    }

    /// Why a payment that LND knows nothing of was not sent.
    pub(super) async fn refused(&self, hash: PaymentHash) -> Result<Option<String>, LnError> {
        const SQL: &str = "SELECT reason FROM refused WHERE payment_hash = ?1";
        self.run(move |connection| {
            connection.prepare_cached(SQL)?.query_row([hash.as_bytes()], |row| row.get(0)).optional()
        })
        .await
    }

    /// Runs a query off the async threads: a write waits for the disk.
    async fn run<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, LnError> {
        let connection = Arc::clone(&self.connection);
        let ran = tokio::task::spawn_blocking(move || {
            // SQLite's state is consistent whatever happened to the thread that held it.
            query(&connection.lock().unwrap_or_else(PoisonError::into_inner))
        });
        let unusable = |reason: String| {
            LnError::Unavailable(format!("its records {} can't be used ({reason})", self.path.display()))
        };
        ran.await.map_err(|_| unusable("a query broke off".into()))?.map_err(|error| unusable(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_kept_preimage_outlives_the_process_and_is_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("lightning");
        let preimage = Preimage::from_bytes([7; 32]);
        Records::open(&dir).expect("opens").keep(preimage).await.expect("kept");
        let mode = std::fs::metadata(dir.join(FILE_NAME)).expect("there").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{mode:o}");
        let records = Records::open(&dir).expect("opens again");
        let hash = preimage.payment_hash();
        assert_eq!(records.kept(hash).await.expect("read"), Some(preimage));
        assert_eq!(records.all_kept().await.expect("read"), [hash]);
        records.let_go(hash).await.expect("written");
        assert_eq!(records.kept(hash).await.expect("read"), None);
    }

    #[tokio::test]
    async fn a_folder_belongs_to_its_first_node() {
        let folder = tempfile::tempdir().expect("a folder");
        let records = Records::open(folder.path()).expect("opens");
        records.belongs_to("02aa").expect("its first");
        records.belongs_to("02aa").expect("the same");
        let error = records.belongs_to("02bb").expect_err("another").to_string();
        assert!(error.contains("02aa") && error.contains("02bb"), "{error}");
    }

    #[tokio::test]
    async fn a_refusal_is_remembered() {
        let folder = tempfile::tempdir().expect("a folder");
        let records = Records::open(folder.path()).expect("opens");
        let hash = Preimage::from_bytes([1; 32]).payment_hash();
        assert_eq!(records.refused(hash).await.expect("read"), None);
        records.refuse(hash, "too long".into()).await.expect("written");
        records.refuse(hash, "far too long".into()).await.expect("written");
        assert_eq!(records.refused(hash).await.expect("read").as_deref(), Some("far too long"));
    }
}
