//! The node's database: LDK's key-value store and our records beside it, in one SQLite file with one fsync per write.
//!
//! WAL with `synchronous = FULL`: what LDK was told is written survives a power cut. A write that failed once makes the
//! node useless until it is restarted, because LDK's memory may then be ahead of the disk: it must never go on.

use std::future::{Future, ready};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ldk_node::lightning::io;
use ldk_node::lightning::util::persist::{KVStore, KVStoreSync};
use rusqlite::{Connection, OptionalExtension, params};

use super::EmbeddedError;

/// The database file within the node's folder.
pub(super) const FILE_NAME: &str = "lightning.sqlite";

const SCHEMA: &str = "
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS kv (
    primary_ns TEXT NOT NULL, secondary_ns TEXT NOT NULL, name TEXT NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (primary_ns, secondary_ns, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS invoices (
    payment_hash BLOB PRIMARY KEY, bolt11 TEXT NOT NULL, kind INTEGER NOT NULL, amount_msat INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL, preimage BLOB, state INTEGER NOT NULL, locked_msat INTEGER, deadline_height INTEGER
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS invoices_by_state ON invoices (state);
CREATE TABLE IF NOT EXISTS payments (
    payment_hash BLOB PRIMARY KEY, bolt11 TEXT NOT NULL, amount_msat INTEGER NOT NULL, max_fee_msat INTEGER NOT NULL,
    max_cltv_blocks INTEGER NOT NULL, state INTEGER NOT NULL, preimage BLOB, fee_msat INTEGER, reason TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS payments_by_state ON payments (state);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
";

/// The open database.
#[derive(Debug)]
pub(super) struct Store {
    connection: Mutex<Connection>,
    failed: AtomicBool,
    path: PathBuf,
}

impl Store {
    pub(super) fn open(dir: &Path) -> Result<Self, EmbeddedError> {
        let path = dir.join(FILE_NAME);
        let failed = |error: rusqlite::Error| EmbeddedError::Store { path: path.clone(), reason: error.to_string() };
        let connection = Connection::open(&path).map_err(failed)?;
        connection.execute_batch(SCHEMA).map_err(failed)?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(Self { connection: Mutex::new(connection), failed: AtomicBool::new(false), path })
    }

    pub(super) fn connection(&self) -> MutexGuard<'_, Connection> {
        // SQLite's state is consistent whatever happened to the thread that held it.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a write failed since the start.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }

    /// Runs a write and notes whether it failed.
    pub(super) fn write<T>(&self, write: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        write(&self.connection()).inspect_err(|error| {
            self.failed.store(true, Ordering::SeqCst);
            tracing::error!(path = %self.path.display(), %error, "the Lightning node can't write its state");
        })
    }

    /// A remembered fact.
    pub(super) fn fact(&self, name: &str) -> rusqlite::Result<Option<String>> {
        let connection = self.connection();
        let mut query = connection.prepare_cached("SELECT value FROM facts WHERE name = ?1")?;
        query.query_row([name], |row| row.get(0)).optional()
    }

    pub(super) fn set_fact(&self, name: &str, value: &str) -> rusqlite::Result<()> {
        const SQL: &str = "INSERT INTO facts VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
        self.write(|connection| connection.execute(SQL, [name, value]).map(drop))
    }
}

/// What LDK is given.
#[derive(Clone, Debug)]
pub(super) struct LdkStore(pub(super) Arc<Store>);

fn failed(error: rusqlite::Error) -> io::Error {
    io::Error::new(io::ErrorKind::Other, error.to_string())
}

impl KVStoreSync for LdkStore {
    fn read(&self, primary: &str, secondary: &str, name: &str) -> Result<Vec<u8>, io::Error> {
        const SQL: &str = "SELECT value FROM kv WHERE primary_ns = ?1 AND secondary_ns = ?2 AND name = ?3";
        let connection = self.0.connection();
        let mut query = connection.prepare_cached(SQL).map_err(failed)?;
        let found = query.query_row([primary, secondary, name], |row| row.get(0)).optional().map_err(failed)?;
        found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such key"))
    }

    fn write(&self, primary: &str, secondary: &str, name: &str, value: Vec<u8>) -> Result<(), io::Error> {
        const SQL: &str = "INSERT INTO kv VALUES (?1, ?2, ?3, ?4)
            ON CONFLICT (primary_ns, secondary_ns, name) DO UPDATE SET value = excluded.value";
        let write = |connection: &Connection| {
            connection.prepare_cached(SQL)?.execute(params![primary, secondary, name, value]).map(drop)
        };
        self.0.write(write).map_err(failed)
    }

    fn remove(&self, primary: &str, secondary: &str, name: &str, _lazy: bool) -> Result<(), io::Error> {
        const SQL: &str = "DELETE FROM kv WHERE primary_ns = ?1 AND secondary_ns = ?2 AND name = ?3";
        let remove =
            |connection: &Connection| connection.prepare_cached(SQL)?.execute([primary, secondary, name]).map(drop);
        self.0.write(remove).map_err(failed)
    }

    fn list(&self, primary: &str, secondary: &str) -> Result<Vec<String>, io::Error> {
        const SQL: &str = "SELECT name FROM kv WHERE primary_ns = ?1 AND secondary_ns = ?2";
        let connection = self.0.connection();
        let mut query = connection.prepare_cached(SQL).map_err(failed)?;
        let names = query.query_map([primary, secondary], |row| row.get(0)).map_err(failed)?;
        names.collect::<Result<_, _>>().map_err(failed)
    }
}

type Answer<T> = Pin<Box<dyn Future<Output = Result<T, io::Error>> + Send + 'static>>;

/// Done when called, so the order of writes is the order of calls.
impl KVStore for LdkStore {
    fn read(&self, primary: &str, secondary: &str, name: &str) -> Answer<Vec<u8>> {
        Box::pin(ready(KVStoreSync::read(self, primary, secondary, name)))
    }

    fn write(&self, primary: &str, secondary: &str, name: &str, value: Vec<u8>) -> Answer<()> {
        Box::pin(ready(KVStoreSync::write(self, primary, secondary, name, value)))
    }

    fn remove(&self, primary: &str, secondary: &str, name: &str, lazy: bool) -> Answer<()> {
        Box::pin(ready(KVStoreSync::remove(self, primary, secondary, name, lazy)))
    }

    fn list(&self, primary: &str, secondary: &str) -> Answer<Vec<String>> {
        Box::pin(ready(KVStoreSync::list(self, primary, secondary)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_listed_replaced_and_removed() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = LdkStore(Arc::new(Store::open(dir.path()).expect("opens")));
        KVStoreSync::write(&store, "a", "", "x", vec![1]).expect("written");
        KVStoreSync::write(&store, "a", "", "x", vec![2]).expect("written");
        KVStoreSync::write(&store, "a", "b", "y", vec![3]).expect("written");
        assert_eq!(KVStoreSync::read(&store, "a", "", "x").expect("there"), [2]);
        assert_eq!(KVStoreSync::list(&store, "a", "").expect("listed"), ["x"]);
        KVStoreSync::remove(&store, "a", "", "x", false).expect("removed");
        KVStoreSync::remove(&store, "a", "", "x", false).expect("twice is once");
        let error = KVStoreSync::read(&store, "a", "", "x").expect_err("gone");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_failed_write_is_remembered() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = LdkStore(Arc::new(Store::open(dir.path()).expect("opens")));
        store.0.connection().execute_batch("PRAGMA query_only = ON").expect("set");
        assert!(!store.0.has_failed());
        KVStoreSync::write(&store, "a", "", "x", vec![1]).expect_err("read only");
        assert!(store.0.has_failed());
    }
}
