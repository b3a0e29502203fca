//! The node's database: LDK's key-value store and our records beside it, in one SQLite file with one fsync per write.
//!
//! WAL with `synchronous = FULL`: what LDK was told is written survives a power cut, but for its queue of events and
//! what we note of them: these come again after one ([`Store::write_in_order`]). A write that failed once makes the
//! node useless until it is restarted, because LDK's memory may then be ahead of the disk: it must never go on.
//!
//! Each change of the channel state is numbered by the same commit, and the number is noted outside of the folder.

use std::future::{Future, ready};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use ldk_node::lightning::io;
use ldk_node::lightning::util::persist::{self, KVStore, KVStoreSync};
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::watch;

use super::EmbeddedError;
use super::marker::Marker;

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
CREATE TABLE IF NOT EXISTS generation (id INTEGER PRIMARY KEY CHECK (id = 1), value INTEGER NOT NULL);
INSERT OR IGNORE INTO generation VALUES (1, 0);
CREATE TRIGGER IF NOT EXISTS channel_state_added AFTER INSERT ON kv
WHEN NEW.primary_ns IN ('monitors', 'monitor_updates') OR NEW.primary_ns = '' AND NEW.name = 'manager'
BEGIN UPDATE generation SET value = value + 1; END;
CREATE TRIGGER IF NOT EXISTS channel_state_changed AFTER UPDATE ON kv
WHEN NEW.primary_ns IN ('monitors', 'monitor_updates') OR NEW.primary_ns = '' AND NEW.name = 'manager'
BEGIN UPDATE generation SET value = value + 1; END;
CREATE TABLE IF NOT EXISTS aside (
    primary_ns TEXT NOT NULL, secondary_ns TEXT NOT NULL, name TEXT NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (primary_ns, secondary_ns, name)
) WITHOUT ROWID;
";

/// Why the node must not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// A write failed: LDK's memory may be ahead of the disk.
    WriteFailed,
    /// A peer proved that the channel state is old.
    Behind,
    /// LDK broke off.
    Broken,
}

/// The open database.
#[derive(Debug)]
pub(super) struct Store {
    connection: Mutex<Connection>,
    trouble: watch::Sender<Option<Trouble>>,
    path: PathBuf,
    /// Where the newest channel state is noted; set before LDK is given the store.
    marker: OnceLock<Marker>,
}

impl Store {
    pub(super) fn open(dir: &Path) -> Result<Self, EmbeddedError> {
        let path = dir.join(FILE_NAME);
        let failed = |error: rusqlite::Error| EmbeddedError::Store { path: path.clone(), reason: error.to_string() };
        let connection = Connection::open(&path).map_err(failed)?;
        connection.execute_batch(SCHEMA).map_err(failed)?;
        connection.set_prepared_statement_cache_capacity(64);
        let trouble = watch::Sender::new(None);
        Ok(Self { connection: Mutex::new(connection), trouble, path, marker: OnceLock::new() })
    }

    /// Opens the database to read it alone: the process that it belongs to may be running.
    pub(super) fn look(dir: &Path) -> Result<Self, EmbeddedError> {
        let path = dir.join(FILE_NAME);
        let opened = Connection::open_with_flags(&path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY);
        let connection = opened
            .map_err(|error: rusqlite::Error| EmbeddedError::Store { path: path.clone(), reason: error.to_string() })?;
        let trouble = watch::Sender::new(None);
        Ok(Self { connection: Mutex::new(connection), trouble, path, marker: OnceLock::new() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn connection(&self) -> MutexGuard<'_, Connection> {
        // SQLite's state is consistent whatever happened to the thread that held it.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happened since the start that makes the node useless; the first of it.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        *self.trouble.borrow()
    }

    pub(super) fn set_trouble(&self, trouble: Trouble) {
        self.trouble.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert(trouble);
            is_first
        });
    }

    /// To hear of trouble when it comes.
    pub(super) fn watch_trouble(&self) -> watch::Receiver<Option<Trouble>> {
        self.trouble.subscribe()
    }

    /// The number of the newest channel state in the database.
    pub(super) fn generation(&self) -> rusqlite::Result<u64> {
        generation(&self.connection())
    }

    /// From now on every change of the channel state is noted there.
    pub(super) fn mark(&self, marker: Marker) -> rusqlite::Result<()> {
        marker.note(self.generation()?);
        marker.sync();
        // It is set once, by the start.
        self.marker.set(marker).ok();
        Ok(())
    }

    /// Puts the newest number on disk.
    pub(super) fn sync_marker(&self) {
        if let Some(marker) = self.marker.get() {
            marker.sync();
        }
    }

    /// Runs a write and notes whether it failed.
    pub(super) fn write<T>(&self, write: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        write(&self.connection()).inspect_err(|error| {
            self.set_trouble(Trouble::WriteFailed);
            tracing::error!(path = %self.path.display(), %error, "the Lightning node can't write its state");
        })
    }

    /// Runs a write that reaches the disk with the next [`Store::write`], and in this order: a power cut may take it back
    /// together with all that came after it, never alone. For what LDK then tells again, or what is then done again.
    pub(super) fn write_in_order<T>(
        &self,
        write: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        self.write(|connection| {
            connection.execute_batch("PRAGMA synchronous = NORMAL")?;
            let written = write(connection);
            connection.execute_batch("PRAGMA synchronous = FULL")?;
            written
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

    pub(super) fn forget_fact(&self, name: &str) -> rusqlite::Result<()> {
        self.write(|connection| connection.execute("DELETE FROM facts WHERE name = ?1", [name]).map(drop))
    }

    /// A whole and consistent copy of the database, whatever else is being written; the file must be empty.
    pub(super) fn copy_into(&self, file: &Path) -> rusqlite::Result<()> {
        self.connection().execute("VACUUM INTO ?1", [file.to_string_lossy()]).map(drop)
    }

    /// Whether SQLite finds its own structure as it should be.
    pub(super) fn is_sound(&self) -> rusqlite::Result<bool> {
        let found: String = self.connection().query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        Ok(found == "ok")
    }

    /// Several writes, all or none.
    pub(super) fn write_all(&self, sql: &str) -> rusqlite::Result<()> {
        self.write(|connection| {
            let transaction = connection.unchecked_transaction()?;
            transaction.execute_batch(sql)?;
            transaction.commit()
        })
    }
}

/// The number of the newest channel state in a database.
pub(super) fn generation(connection: &Connection) -> rusqlite::Result<u64> {
    let mut query = connection.prepare_cached("SELECT value FROM generation")?;
    let value: i64 = query.query_row([], |row| row.get(0))?;
    Ok(u64::try_from(value).unwrap_or_default())
}

/// As the triggers see it.
fn is_channel_state(primary: &str, name: &str) -> bool {
    matches!(
        primary,
        persist::CHANNEL_MONITOR_PERSISTENCE_PRIMARY_NAMESPACE
            | persist::CHANNEL_MONITOR_UPDATE_PERSISTENCE_PRIMARY_NAMESPACE
    ) || primary == persist::CHANNEL_MANAGER_PERSISTENCE_PRIMARY_NAMESPACE
        && name == persist::CHANNEL_MANAGER_PERSISTENCE_KEY
}

/// ldk-node's queue of events that were not handled yet. LDK forgets an event with the next write of its manager, which
/// comes after that of the queue; and one that was handled may be handled again.
fn is_event_queue(primary: &str, secondary: &str, name: &str) -> bool {
    (primary, secondary, name) == ("", "", "events")
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
            connection.prepare_cached(SQL)?.execute(params![primary, secondary, name, value])?;
            if is_channel_state(primary, name)
                && let Some(marker) = self.0.marker.get()
            {
                marker.note(generation(connection)?);
            }
            Ok(())
        };
        let written = match is_event_queue(primary, secondary, name) {
            true => self.0.write_in_order(write),
            false => self.0.write(write),
        };
        written.map_err(failed)
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
        assert_eq!(store.0.trouble(), None);
        KVStoreSync::write(&store, "a", "", "x", vec![1]).expect_err("read only");
        assert_eq!(store.0.trouble(), Some(Trouble::WriteFailed));
    }

    #[test]
    fn only_what_is_told_again_may_reach_the_disk_later() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = LdkStore(Arc::new(Store::open(dir.path()).expect("opens")));
        let level = |store: &LdkStore| {
            let read = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
            store.0.connection().query_row("PRAGMA synchronous", [], read).expect("readable")
        };
        let full = 2;
        assert_eq!(level(&store), full);
        KVStoreSync::write(&store, "", "", "events", vec![1]).expect("written");
        assert_eq!(level(&store), full, "the next write waits for the disk again");
        store.0.write_in_order(|connection| connection.execute("nonsense", [])).expect_err("refused");
        assert_eq!(level(&store), full, "whatever became of the one before");
        for (primary, secondary, name) in
            [("", "", "manager"), ("monitors", "", "events"), ("monitor_updates", "a_0", "1"), ("payments", "", "x")]
        {
            assert!(!is_event_queue(primary, secondary, name), "{primary} {secondary} {name}");
        }
    }

    #[test]
    fn each_channel_state_is_numbered_and_noted_and_nothing_else_is() {
        let dir = tempfile::tempdir().expect("a folder");
        let marks = dir.path().join("marks");
        let store = LdkStore(Arc::new(Store::open(dir.path()).expect("opens")));
        store.0.mark(Marker::open(&marks, "02aa").expect("made").0).expect("noted");
        let noted = || (store.0.generation().expect("readable"), Marker::look(&marks, "02aa").expect("readable"));
        assert_eq!(noted(), (0, Some(0)));
        for (number, (primary, secondary, name)) in
            [("monitors", "", "a_0"), ("monitor_updates", "a_0", "1"), ("", "", "manager"), ("monitors", "", "a_0")]
                .into_iter()
                .enumerate()
        {
            KVStoreSync::write(&store, primary, secondary, name, vec![1]).expect("written");
            KVStoreSync::write(&store, "", "", "scorer", vec![1]).expect("written");
            let expected = u64::try_from(number).expect("small") + 1;
            assert_eq!(noted(), (expected, Some(expected)), "{primary} {name}");
        }
    }
}
