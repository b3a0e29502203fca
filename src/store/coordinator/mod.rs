//! The coordinator's tables: the run, its rounds and contributions, payments and the outbox, L402 challenges, peers, and the
//! sales of a bounty's package.
//!
//! Functions take a connection, so that a caller decides what goes into one transaction.

mod gate;
mod payments;
mod rounds;
mod sales;

use std::path::Path;
use std::sync::Arc;

pub use gate::{
    ChallengeRow, ChallengeState, PeerRow, challenge_by_token, challenge_for, count_channel_opens, count_peers,
    insert_challenge, mark_channel_opened, open_challenges, peer, promised_seats, save_peer, set_challenge_state,
};
pub use payments::{PaymentRow, has_payment, insert_payment, outbox, outbox_add, outbox_remove, payment};
pub use rounds::{
    ContributionRow, RoundRow, contribution, contributions, count_closed, evaluation, insert_contribution,
    insert_round, is_published, last_round, newest_rounds, publish, round, round_of, rounds, save_state,
    seal_evaluation, set_closed, set_invoices, set_receipt, set_transcript, unended_rounds,
};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, params};
pub use sales::{SaleRow, forget_sale, insert_sale, oldest_sale_of, open_sales, sale, set_sale_paid};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::database::{CommitObserver, Database};
use super::{StoreError, events, ledger};
use crate::protocol::sign::{Signed, Statement};

/// The database's file in the data folder.
pub const FILE: &str = "coordinator.db";

const TABLES: &str = "
CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT;
CREATE TABLE rounds (
    round INTEGER PRIMARY KEY,
    opening BLOB NOT NULL,
    secret BLOB NOT NULL,
    state TEXT NOT NULL,
    ended INTEGER NOT NULL CHECK (ended IN (0, 1)),
    transcript BLOB,
    next_checkpoint BLOB,
    loss_before INTEGER,
    loss_after INTEGER
) STRICT;
CREATE TABLE contributions (
    id BLOB PRIMARY KEY,
    round INTEGER NOT NULL REFERENCES rounds (round),
    sequence INTEGER NOT NULL,
    commitment BLOB NOT NULL,
    terms BLOB NOT NULL,
    invoices BLOB,
    verdict TEXT,
    receipt BLOB,
    UNIQUE (round, sequence)
) STRICT;
CREATE TABLE payments (
    payment_hash BLOB PRIMARY KEY,
    contribution BLOB NOT NULL REFERENCES contributions (id),
    tranche INTEGER NOT NULL,
    payee TEXT NOT NULL,
    bolt11 TEXT NOT NULL,
    UNIQUE (contribution, tranche)
) STRICT;
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY,
    payment_hash BLOB NOT NULL UNIQUE REFERENCES payments (payment_hash)
) STRICT;
CREATE TABLE challenges (
    payment_hash BLOB PRIMARY KEY,
    token_id BLOB NOT NULL UNIQUE,
    contribution BLOB NOT NULL,
    round INTEGER NOT NULL,
    peer BLOB NOT NULL,
    root_key BLOB NOT NULL,
    macaroon TEXT NOT NULL,
    bolt11 TEXT NOT NULL,
    expires_ms INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'paid', 'expired'))
) STRICT;
CREATE INDEX challenges_by_state ON challenges (state, round);
CREATE INDEX challenges_by_contribution ON challenges (contribution);
CREATE TABLE peers (
    peer BLOB PRIMARY KEY,
    node_id TEXT NOT NULL,
    address TEXT,
    channel_opens INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE published (
    hash BLOB PRIMARY KEY
) STRICT;
";

/// A bounty's sealed evaluations.
const EVALUATIONS: &str = "
CREATE TABLE evaluations (
    contribution BLOB PRIMARY KEY REFERENCES contributions (id),
    record TEXT NOT NULL
) STRICT;
";

/// Opens the coordinator's database in its data folder.
pub fn open(folder: &Path, observer: Arc<dyn CommitObserver>) -> Result<Database, StoreError> {
    let first = [events::SCHEMA, ledger::SCHEMA, TABLES].concat();
    Database::open(folder, FILE, &[&first, EVALUATIONS, sales::SCHEMA], observer)
}

/// The coordinator's database in a data folder, to look at while a coordinator may be using it.
pub fn look(folder: &Path) -> Result<Connection, StoreError> {
    Database::look(folder, FILE, 3)
}

/// The first row of a query, whose plan is kept: making it takes longer than most of them run.
fn first<T>(
    db: &Connection,
    query: &str,
    params: impl rusqlite::Params,
    read: impl FnOnce(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> Result<Option<T>, StoreError> {
    Ok(db.prepare_cached(query)?.query_row(params, read).optional()?)
}

/// The one row of a query that always has one.
fn only<T>(
    db: &Connection,
    query: &str,
    params: impl rusqlite::Params,
    read: impl FnOnce(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> Result<T, StoreError> {
    Ok(db.prepare_cached(query)?.query_row(params, read)?)
}

/// A value kept under a name.
pub fn meta(db: &Connection, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
    Ok(db.query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| row.get(0)).optional()?)
}

/// Keeps a value under a name.
pub fn set_meta(db: &Connection, name: &str, value: &[u8]) -> Result<(), StoreError> {
    db.execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)", params![name, value])?;
    Ok(())
}

/// A column that holds something other than it should, as SQLite's own conversion error.
fn bad_column(column: usize, kind: Type, what: &'static str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, kind, what.into())
}

fn signed<T: Statement>(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Signed<T>> {
    let bytes: Vec<u8> = row.get(column)?;
    Signed::from_bytes(&bytes).map_err(|_| bad_column(column, Type::Blob, "a signed statement was expected"))
}

fn signed_or_none<T: Statement>(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Option<Signed<T>>> {
    let bytes: Option<Vec<u8>> = row.get(column)?;
    let read = |bytes: Vec<u8>| Signed::from_bytes(&bytes);
    bytes.map(read).transpose().map_err(|_| bad_column(column, Type::Blob, "a signed statement was expected"))
}

fn json<T: DeserializeOwned>(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|_| bad_column(column, Type::Text, "JSON was expected"))
}

fn to_json<T: Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|_| StoreError::Corrupt { what: "value that is not JSON" })
}
