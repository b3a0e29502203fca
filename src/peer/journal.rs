//! What the peer must not forget: how far each contribution has come, and every msat that came in or went out.
//!
//! Written and synced before each step that it describes. A contribution's stage never goes back.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use serde::Serialize;

use super::stage::Entry;
use crate::protocol::amount::Msat;
use crate::protocol::ids::{ContributionId, RoundNumber, RunId, UnixMs};
use crate::store::database::{CommitObserver, Unwatched};

/// `PRAGMA user_version` of the schema below.
const SCHEMA_VERSION: i64 = 2;

const SCHEMA: &str = "
CREATE TABLE contribution (
    contribution TEXT PRIMARY KEY,
    run TEXT NOT NULL,
    round INTEGER NOT NULL,
    rank INTEGER NOT NULL,
    entry TEXT NOT NULL,
    UNIQUE (run, round)
) STRICT;
CREATE TABLE ledger (
    id INTEGER PRIMARY KEY,
    contribution TEXT NOT NULL REFERENCES contribution (contribution),
    round INTEGER NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('fee', 'routing', 'reward')),
    tranche INTEGER NOT NULL,
    amount_msat INTEGER NOT NULL CHECK (amount_msat >= 0),
    at_ms INTEGER NOT NULL,
    UNIQUE (contribution, kind, tranche)
) STRICT;
PRAGMA user_version = 1;
";

/// What leads from schema 1 to schema 2.
const NOTES: &str = "
CREATE TABLE note (
    id INTEGER PRIMARY KEY,
    contribution TEXT NOT NULL REFERENCES contribution (contribution),
    tranche INTEGER NOT NULL,
    text TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    UNIQUE (contribution, tranche)
) STRICT;
PRAGMA user_version = 2;
";

/// Why the journal failed.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// SQLite's reason.
    #[error("{0}. If the disk is full or read-only, mend that; keep the file: it may hold unclaimed rewards")]
    Database(#[from] rusqlite::Error),
    /// An entry that this version can't read.
    #[error("the entry of contribution {contribution} can't be read: {detail}. Was it written by a newer version?")]
    Unreadable {
        /// Which.
        contribution: String,
        /// What is wrong.
        detail: String,
    },
    /// A file of another version.
    #[error("schema version {0}, but this version reads {SCHEMA_VERSION}: use the l402t that wrote it")]
    Version(i64),
    /// An entry would have gone back: a bug, caught before it costs money.
    #[error("contribution {contribution} can't go back to stage {stage}")]
    Backwards {
        /// Which.
        contribution: ContributionId,
        /// To where.
        stage: &'static str,
    },
    /// Whoever watches the commits wants no more of them.
    #[error("stopped")]
    Halted,
}

/// What a ledger line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LineKind {
    /// A submission fee, paid.
    Fee,
    /// What the route of a fee took, paid.
    Routing,
    /// A tranche of a reward, received.
    Reward,
}

impl LineKind {
    fn as_str(self) -> &'static str {
        match self {
            LineKind::Fee => "fee",
            LineKind::Routing => "routing",
            LineKind::Reward => "reward",
        }
    }
}

/// An amount that came in or went out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// What for.
    pub kind: LineKind,
    /// Which tranche of the reward; 0 for fees.
    pub tranche: u32,
    /// How much.
    pub amount: Msat,
}

/// What came in and went out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Submission fees.
    pub fees_msat: Msat,
    /// Routing on top of them.
    pub routing_msat: Msat,
    /// Rewards.
    pub received_msat: Msat,
}

impl Totals {
    /// Several together.
    pub fn sum(parts: impl IntoIterator<Item = Totals>) -> Self {
        let add = |a: Msat, b: Msat| a.checked_add(b).unwrap_or(Msat::MAX_MONEY);
        parts.into_iter().fold(Self::default(), |sum, part| Self {
            fees_msat: add(sum.fees_msat, part.fees_msat),
            routing_msat: add(sum.routing_msat, part.routing_msat),
            received_msat: add(sum.received_msat, part.received_msat),
        })
    }

    /// Everything that went out.
    pub fn spent_msat(&self) -> Msat {
        self.fees_msat.checked_add(self.routing_msat).unwrap_or(Msat::MAX_MONEY)
    }
}

/// The peer's journal.
#[derive(Debug)]
pub struct Journal {
    connection: Mutex<Connection>,
    observer: Arc<dyn CommitObserver>,
}

impl Journal {
    /// Opens or makes the journal.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        Self::open_watched(path, Arc::new(Unwatched))
    }

    /// [`Journal::open`], with someone to be told of every commit: tests that stop everything at the n-th one.
    pub fn open_watched(path: &Path, observer: Arc<dyn CommitObserver>) -> Result<Self, JournalError> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // A step follows at once on what was written: it must be on disk by then.
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        match version(&connection)? {
            SCHEMA_VERSION => {}
            1 => connection.execute_batch(&format!("BEGIN; {NOTES} COMMIT;"))?,
            0 => connection.execute_batch(&format!("BEGIN; {SCHEMA} {NOTES} COMMIT;"))?,
            other => return Err(JournalError::Version(other)),
        }
        Ok(Self { connection: Mutex::new(connection), observer })
    }

    /// Opens an existing journal to look at, even while a peer is using it.
    pub fn open_read_only(path: &Path) -> Result<Self, JournalError> {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        match version(&connection)? {
            1..=SCHEMA_VERSION => Ok(Self { connection: Mutex::new(connection), observer: Arc::new(Unwatched) }),
            other => Err(JournalError::Version(other)),
        }
    }

    // A panic while the lock was held left at worst an unfinished transaction, which SQLite rolled back.
    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes an entry and what was paid or received with it, all or nothing.
    pub fn save(&self, entry: &Entry, lines: &[Line], now: UnixMs) -> Result<(), JournalError> {
        let mut connection = self.connection();
        let transaction = connection.transaction()?;
        let id = entry.contribution.to_string();
        let rank: Option<u8> = transaction
            .query_row("SELECT rank FROM contribution WHERE contribution = ?1", [&id], |row| row.get(0))
            .optional()?;
        if rank.is_some_and(|rank| rank > entry.stage.rank()) {
            return Err(JournalError::Backwards { contribution: entry.contribution, stage: entry.stage.name() });
        }
        let text = serde_json::to_string(entry)
            .map_err(|error| JournalError::Unreadable { contribution: id.clone(), detail: error.to_string() })?;
        transaction.execute(
            "INSERT INTO contribution (contribution, run, round, rank, entry) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (contribution) DO UPDATE SET rank = ?4, entry = ?5",
            params![id, entry.run().to_string(), entry.round().0, entry.stage.rank(), text],
        )?;
        for line in lines {
            // A line that is there already was written by an earlier try of the same step.
            transaction.execute(
                "INSERT INTO ledger (contribution, round, kind, tranche, amount_msat, at_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (contribution, kind, tranche) DO NOTHING",
                params![
                    id,
                    entry.round().0,
                    line.kind.as_str(),
                    line.tranche,
                    signed(line.amount.msat())?,
                    signed(now.0)?
                ],
            )?;
        }
        self.observer.before_commit().map_err(|_| JournalError::Halted)?;
        transaction.commit()?;
        self.observer.after_commit().map_err(|_| JournalError::Halted)
    }

    /// Writes down why a tranche was given back, once. False if that was written before.
    pub fn note(
        &self,
        contribution: ContributionId,
        tranche: u32,
        text: &str,
        now: UnixMs,
    ) -> Result<bool, JournalError> {
        let mut connection = self.connection();
        let transaction = connection.transaction()?;
        let written = transaction.execute(
            "INSERT INTO note (contribution, tranche, text, at_ms) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (contribution, tranche) DO NOTHING",
            params![contribution.to_string(), tranche, text, signed(now.0)?],
        )?;
        self.observer.before_commit().map_err(|_| JournalError::Halted)?;
        transaction.commit()?;
        self.observer.after_commit().map_err(|_| JournalError::Halted)?;
        Ok(written > 0)
    }

    /// What was written down about a contribution's tranches: which, and what.
    pub fn notes(&self, contribution: ContributionId) -> Result<Vec<(u32, String)>, JournalError> {
        let connection = self.connection();
        if version(&connection)? < 2 {
            return Ok(Vec::new());
        }
        let mut statement =
            connection.prepare("SELECT tranche, text FROM note WHERE contribution = ?1 ORDER BY tranche")?;
        let notes = statement.query_map([contribution.to_string()], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(notes.collect::<Result<_, _>>()?)
    }

    /// The contribution to a round, if there is one.
    pub fn entry(&self, run: RunId, round: RoundNumber) -> Result<Option<Entry>, JournalError> {
        let text: Option<String> = self
            .connection()
            .query_row(
                "SELECT entry FROM contribution WHERE run = ?1 AND round = ?2",
                params![run.to_string(), round.0],
                |row| row.get(0),
            )
            .optional()?;
        text.map(|text| parse(&text)).transpose()
    }

    /// A run's contributions, oldest first.
    pub fn entries_of(&self, run: RunId) -> Result<Vec<Entry>, JournalError> {
        Ok(self.entries()?.into_iter().filter(|entry| entry.run() == run).collect())
    }

    /// Contributions that have not ended, oldest first: of a run, or of all runs.
    pub fn unfinished(&self, run: Option<RunId>) -> Result<Vec<Entry>, JournalError> {
        let entries = self.entries()?;
        Ok(entries
            .into_iter()
            .filter(|entry| !entry.stage.is_closed() && run.is_none_or(|run| run == entry.run()))
            .collect())
    }

    /// Might a node hold something for what is written here?
    pub fn may_be_held(&self) -> Result<bool, JournalError> {
        Ok(self.unfinished(None)?.iter().any(|entry| entry.stage.held().is_some()))
    }

    /// The latest round of a run with an accepted contribution.
    pub fn last_accepted(&self, run: RunId) -> Result<Option<RoundNumber>, JournalError> {
        let round: Option<u32> = self.connection().query_row(
            "SELECT MAX(round) FROM contribution
             WHERE run = ?1 AND json_type(entry, '$.stage.closed.accepted') IS NOT NULL",
            [run.to_string()],
            |row| row.get(0),
        )?;
        Ok(round.map(RoundNumber))
    }

    /// Every contribution, oldest first.
    pub fn entries(&self) -> Result<Vec<Entry>, JournalError> {
        let connection = self.connection();
        let mut statement = connection.prepare("SELECT entry FROM contribution ORDER BY rowid")?;
        let texts = statement.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
        texts.iter().map(|text| parse(text)).collect()
    }

    /// What a contribution cost and brought.
    pub fn totals_of(&self, contribution: ContributionId) -> Result<Totals, JournalError> {
        self.sum("WHERE contribution = ?1", params![contribution.to_string()])
    }

    /// What submissions to bounties cost since then, routing included.
    pub fn spent_on_bounties(&self, since: UnixMs) -> Result<Msat, JournalError> {
        // What `Entry::is_submission` asks, of an entry's JSON.
        let sum = self.sum(
            "JOIN contribution USING (contribution)
             WHERE at_ms >= ?1 AND json_extract(entry, '$.commitment.body.claim') IS NOT NULL",
            params![signed(since.0)?],
        )?;
        Ok(sum.spent_msat())
    }

    /// What everything cost and brought.
    pub fn totals(&self) -> Result<Totals, JournalError> {
        self.sum("", params![])
    }

    fn sum(&self, filter: &str, values: impl rusqlite::Params) -> Result<Totals, JournalError> {
        let query = format!(
            "SELECT COALESCE(SUM(amount_msat) FILTER (WHERE kind = 'fee'), 0),
                    COALESCE(SUM(amount_msat) FILTER (WHERE kind = 'routing'), 0),
                    COALESCE(SUM(amount_msat) FILTER (WHERE kind = 'reward'), 0)
             FROM ledger {filter}"
        );
        let amount = |row: &rusqlite::Row<'_>, column: usize| row.get::<_, u64>(column).map(Msat::new);
        let totals = self.connection().query_row(&query, values, |row| {
            Ok(Totals { fees_msat: amount(row, 0)?, routing_msat: amount(row, 1)?, received_msat: amount(row, 2)? })
        })?;
        Ok(totals)
    }
}

fn version(connection: &Connection) -> Result<i64, rusqlite::Error> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

fn parse(text: &str) -> Result<Entry, JournalError> {
    serde_json::from_str(text).map_err(|error| {
        // Only the name: the rest may hold preimages.
        let contribution = serde_json::from_str::<serde_json::Value>(text)
            .ok()
            .and_then(|value| Some(value.get("contribution")?.as_str()?.to_owned()))
            .unwrap_or_else(|| "?".to_owned());
        JournalError::Unreadable {
            contribution,
            detail: format!("{:?} at column {}", error.classify(), error.column()),
        }
    })
}

/// SQLite's integers are signed.
fn signed(value: u64) -> Result<i64, JournalError> {
    i64::try_from(value).map_err(|_| rusqlite::Error::ToSqlConversionFailure("an integer past 2⁶³".into()).into())
}

#[cfg(test)]
mod tests {
    use super::super::stage::{Ending, Stage};
    use super::*;
    use crate::protocol::ids::Blake3Hash;
    use crate::protocol::sign::IdentityKey;
    use crate::protocol::statements::Commitment;

    fn entry(round: u32) -> Entry {
        let key = IdentityKey::from_secret_bytes(&[1; 32]).expect("a key");
        let commitment = Commitment {
            run: RunId::from_bytes([2; 32]),
            round: RoundNumber(round),
            opening: Blake3Hash::of(b"opening"),
            peer: key.id(),
            payload: Blake3Hash::of(b"payload"),
            payload_bytes: 7,
            claim: None,
        };
        let contribution = commitment.contribution_id();
        let commitment = key.sign(commitment);
        Entry { contribution, commitment, dense_bytes: 1, train_ms: 1, lock_ms: None, stage: Stage::Committed }
    }

    fn missed() -> Stage {
        Stage::Closed(Ending::Missed { reason: "late".into() })
    }

    #[test]
    fn what_was_saved_is_there_after_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("peer.sqlite");
        let journal = Journal::open(&path).expect("made");
        journal.save(&entry(0), &[], UnixMs(1)).expect("saved");
        journal.save(&entry(1).at(missed()), &[], UnixMs(2)).expect("saved");
        drop(journal);
        let journal = Journal::open(&path).expect("opened");
        assert_eq!(journal.unfinished(None).expect("read"), [entry(0)]);
        assert_eq!(journal.entry(entry(1).run(), RoundNumber(1)).expect("read"), Some(entry(1).at(missed())));
    }

    #[test]
    fn a_contribution_never_goes_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let journal = Journal::open(&folder.path().join("peer.sqlite")).expect("made");
        journal.save(&entry(0).at(missed()), &[], UnixMs(1)).expect("saved");
        assert!(matches!(journal.save(&entry(0), &[], UnixMs(2)), Err(JournalError::Backwards { .. })));
    }

    #[test]
    fn a_round_has_one_contribution() {
        let folder = tempfile::tempdir().expect("a folder");
        let journal = Journal::open(&folder.path().join("peer.sqlite")).expect("made");
        journal.save(&entry(0), &[], UnixMs(1)).expect("saved");
        let mut other = entry(0);
        other.contribution = ContributionId::from_bytes([9; 32]);
        assert!(journal.save(&other, &[], UnixMs(2)).is_err());
    }

    #[test]
    fn a_payment_is_counted_once_however_often_it_is_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let journal = Journal::open(&folder.path().join("peer.sqlite")).expect("made");
        let lines = [
            Line { kind: LineKind::Fee, tranche: 0, amount: Msat::new(5) },
            Line { kind: LineKind::Reward, tranche: 0, amount: Msat::new(30) },
            Line { kind: LineKind::Reward, tranche: 1, amount: Msat::new(60) },
        ];
        journal.save(&entry(0), &lines, UnixMs(1)).expect("saved");
        journal.save(&entry(0), &lines, UnixMs(2)).expect("saved");
        let expected = Totals { fees_msat: Msat::new(5), routing_msat: Msat::ZERO, received_msat: Msat::new(90) };
        assert_eq!(journal.totals().expect("read"), expected);
        assert_eq!(journal.totals_of(entry(0).contribution).expect("read"), expected);
    }

    #[test]
    fn a_note_is_kept_once_and_a_journal_from_before_there_were_notes_is_taken_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("peer.sqlite");
        Connection::open(&path).expect("made").execute_batch(SCHEMA).expect("as version 1 made it");
        let contribution = entry(0).contribution;
        let before = Journal::open_read_only(&path).expect("readable");
        assert_eq!(before.notes(contribution).expect("read"), []);
        let journal = Journal::open(&path).expect("taken on");
        journal.save(&entry(0), &[], UnixMs(1)).expect("saved");
        assert!(journal.note(contribution, 1, "given back", UnixMs(2)).expect("written"));
        assert!(!journal.note(contribution, 1, "given back again", UnixMs(3)).expect("known"));
        assert_eq!(journal.notes(contribution).expect("read"), [(1, "given back".to_owned())]);
    }

    #[test]
    fn a_damaged_entry_is_reported_without_its_contents() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("peer.sqlite");
        let journal = Journal::open(&path).expect("made");
        journal.save(&entry(0), &[], UnixMs(1)).expect("saved");
        let damage = "UPDATE contribution SET entry = json_set(entry, '$.stage', 'SECRET')";
        journal.connection().execute(damage, []).expect("damaged");
        let error = journal.entries().expect_err("refused").to_string();
        assert!(error.contains(&entry(0).contribution.to_string()) && !error.contains("SECRET"), "{error}");
    }
}
