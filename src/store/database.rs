//! A SQLite file that one process at a time has open, at a known schema.
//!
//! Every commit is on disk when [`Database::write`] returns (WAL, synchronous = FULL).

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use rusqlite::{Connection, Transaction};
use rusqlite::{OpenFlags, TransactionBehavior};

use super::StoreError;

/// Queries whose plans are kept.
const PREPARED: usize = 64;

/// Told of every commit. For tests that stop everything at the n-th one; anything else wants [`Unwatched`].
pub trait CommitObserver: Send + Sync + fmt::Debug {
    /// Before a commit: an error rolls it back.
    fn before_commit(&self) -> Result<(), StoreError>;
    /// After a commit: an error is returned to the writer as if it had died on the spot.
    fn after_commit(&self) -> Result<(), StoreError>;
}

/// Watches nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwatched;

impl CommitObserver for Unwatched {
    fn before_commit(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn after_commit(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// An open database, and the lock that keeps other processes out of its folder.
#[derive(Debug)]
pub struct Database {
    connection: Connection,
    path: PathBuf,
    commits: u64,
    observer: Arc<dyn CommitObserver>,
    _lock: File,
}

impl Database {
    /// Opens `folder/name`, making the folder and the file (readable by this user only) if need be. `migrations[n]`
    /// leads from schema n to schema n + 1.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another process has the folder, [`StoreError::NewerSchema`] if a later version of the
    /// program wrote it.
    pub fn open(
        folder: &Path,
        name: &str,
        migrations: &[&str],
        observer: Arc<dyn CommitObserver>,
    ) -> Result<Self, StoreError> {
        std::fs::create_dir_all(folder).map_err(|e| StoreError::io("make the folder", folder, e))?;
        let lock = lock_folder(folder)?;
        let path = folder.join(name);
        // Made here first, so that SQLite's files never exist with wider permissions.
        private_file(&path)?;
        let connection = Connection::open(&path)?;
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF;",
        )?;
        connection.set_prepared_statement_cache_capacity(PREPARED);
        let mut database = Self { connection, path, commits: 0, observer, _lock: lock };
        database.migrate(migrations)?;
        Ok(database)
    }

    /// Opens a database to look at, without keeping anyone out: the process that owns it may be running.
    ///
    /// # Errors
    /// [`StoreError::Io`] if there is none, [`StoreError::NewerSchema`] if it has another schema than `known`.
    pub fn look(folder: &Path, name: &str, known: u32) -> Result<Connection, StoreError> {
        let path = folder.join(name);
        std::fs::metadata(&path).map_err(|e| StoreError::io("open", &path, e))?;
        let connection = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let found: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if found > known {
            return Err(StoreError::NewerSchema { path, found, known });
        }
        Ok(connection)
    }

    fn migrate(&mut self, migrations: &[&str]) -> Result<(), StoreError> {
        let known = migrations.len() as u32;
        let found: u32 = self.connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if found > known {
            return Err(StoreError::NewerSchema { path: self.path.clone(), found, known });
        }
        for (version, migration) in migrations.iter().enumerate().skip(found as usize) {
            let transaction = self.connection.transaction()?;
            transaction.execute_batch(migration)?;
            transaction.pragma_update(None, "user_version", version as u32 + 1)?;
            transaction.commit()?;
        }
        Ok(())
    }

    /// What was written since it was opened, in commits.
    pub fn commits(&self) -> u64 {
        self.commits
    }

    /// For reading.
    pub fn read(&self) -> &Connection {
        &self.connection
    }

    /// Runs `act` in one transaction. Nothing of it is kept if it fails.
    ///
    /// # Errors
    /// `act`'s; [`StoreError::Full`] names this database.
    pub fn write<T>(&mut self, act: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let Self { connection, path, commits, observer, .. } = self;
        let written = || -> Result<T, StoreError> {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = act(&transaction)?;
            observer.before_commit()?;
            transaction.commit()?;
            *commits += 1;
            observer.after_commit()?;
            Ok(value)
        };
        // SQLite doesn't say which disk.
        written().map_err(|error| match error {
            StoreError::Full(_) => StoreError::Full(path.clone()),
            other => other,
        })
    }
}

fn private_file(path: &Path) -> Result<File, StoreError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.open(path).map_err(|e| StoreError::io("open", path, e))
}

/// Takes the folder's lock for as long as the file returned is open.
fn lock_folder(folder: &Path) -> Result<File, StoreError> {
    let path: PathBuf = folder.join("lock");
    let file = private_file(&path)?;
    match crate::lock::lock(&file) {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse(folder.to_owned())),
        Err(TryLockError::Error(error)) => Err(StoreError::io("lock", &path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: &[&str] = &["CREATE TABLE t (n INTEGER NOT NULL) STRICT;"];

    fn open(folder: &Path, schema: &[&str]) -> Result<Database, StoreError> {
        Database::open(folder, "test.db", schema, Arc::new(Unwatched))
    }

    fn count(database: &Database) -> i64 {
        database.read().query_row("SELECT count(*) FROM t", [], |row| row.get(0)).expect("counted")
    }

    #[test]
    fn a_second_process_is_kept_out_until_the_first_is_gone() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = open(folder.path(), SCHEMA).expect("opened");
        assert!(matches!(open(folder.path(), SCHEMA), Err(StoreError::InUse(_))));
        drop(first);
        assert!(open(folder.path(), SCHEMA).is_ok());
    }

    #[test]
    fn a_newer_schema_is_refused_and_an_older_one_brought_up() {
        let folder = tempfile::tempdir().expect("a folder");
        drop(open(folder.path(), SCHEMA).expect("opened"));
        let newer = [SCHEMA[0], "ALTER TABLE t ADD COLUMN m INTEGER;"];
        drop(open(folder.path(), &newer).expect("migrated"));
        assert!(matches!(open(folder.path(), SCHEMA), Err(StoreError::NewerSchema { found: 2, known: 1, .. })));
    }

    #[test]
    fn looking_keeps_nobody_out_and_changes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(matches!(Database::look(folder.path(), "test.db", 1), Err(StoreError::Io { .. })));
        let mut owner = open(folder.path(), SCHEMA).expect("opened");
        let written: Result<usize, StoreError> = owner.write(|t| Ok(t.execute("INSERT INTO t VALUES (1)", [])?));
        written.expect("written");
        let looker = Database::look(folder.path(), "test.db", 1).expect("opened");
        let count: i64 = looker.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).expect("counted");
        assert_eq!(count, 1);
        assert!(looker.execute("DELETE FROM t", []).is_err());
    }

    #[test]
    fn a_failed_write_leaves_nothing_behind() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut database = open(folder.path(), SCHEMA).expect("opened");
        let failed: Result<(), StoreError> = database.write(|t| {
            t.execute("INSERT INTO t VALUES (1)", [])?;
            Err(StoreError::Halted)
        });
        assert!(failed.is_err());
        assert_eq!(count(&database), 0);
        let kept: Result<usize, StoreError> = database.write(|t| Ok(t.execute("INSERT INTO t VALUES (1)", [])?));
        assert!(kept.is_ok());
        drop(database);
        assert_eq!(count(&open(folder.path(), SCHEMA).expect("opened")), 1);
    }
}
