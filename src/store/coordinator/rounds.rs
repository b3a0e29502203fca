//! Rounds, contributions, and which blobs anyone may read.

use rusqlite::{Connection, Row, params};

use super::{bad_column, first, json, only, signed, signed_or_none, to_json};
use crate::protocol::bounty::statements::EvaluationRecord;
use crate::protocol::ids::{Blake3Hash, ContributionId, RoundNumber};
use crate::protocol::round::Round;
use crate::protocol::sign::Signed;
use crate::protocol::statements::{Commitment, InvoiceSubmission, Receipt, RewardTerms, RoundOpening};
use crate::protocol::verdict::{Score, Verdict};
use crate::store::StoreError;

/// A round.
#[derive(Clone, Debug, PartialEq)]
pub struct RoundRow {
    /// As it was published.
    pub opening: Signed<RoundOpening>,
    /// The secret that the opening commits to; nobody's business before the transcript.
    pub secret: Blake3Hash,
    /// Where it stands.
    pub state: Round,
    /// Digest of the transcript's body, once closed.
    pub transcript: Option<Blake3Hash>,
    /// Once closed.
    pub next_checkpoint: Option<Blake3Hash>,
    /// Once closed.
    pub losses: Option<(Score, Score)>,
}

/// A contribution's documents.
#[derive(Clone, Debug, PartialEq)]
pub struct ContributionRow {
    /// Its round.
    pub round: RoundNumber,
    /// By the peer.
    pub commitment: Signed<Commitment>,
    /// By the coordinator.
    pub terms: Signed<RewardTerms>,
    /// By the peer.
    pub invoices: Option<Signed<InvoiceSubmission>>,
    /// Once judged.
    pub verdict: Option<Verdict>,
    /// Once judged.
    pub receipt: Option<Signed<Receipt>>,
}

const ROUND: &str =
    "SELECT opening, secret, state, transcript, next_checkpoint, loss_before, loss_after, round FROM rounds";
const CONTRIBUTION: &str = "SELECT round, commitment, terms, invoices, verdict, receipt FROM contributions";

fn read_round(row: &Row<'_>) -> rusqlite::Result<RoundRow> {
    let hash = |column: usize| row.get::<_, Option<[u8; 32]>>(column).map(|bytes| bytes.map(Blake3Hash::from_bytes));
    let losses = row.get::<_, Option<i64>>(5)?.zip(row.get::<_, Option<i64>>(6)?);
    Ok(RoundRow {
        opening: signed(row, 0)?,
        secret: Blake3Hash::from_bytes(row.get(1)?),
        state: json(row, 2)?,
        transcript: hash(3)?,
        next_checkpoint: hash(4)?,
        losses: losses.map(|(before, after)| (Score(before), Score(after))),
    })
}

fn read_contribution(row: &Row<'_>) -> rusqlite::Result<ContributionRow> {
    let verdict: Option<String> = row.get(4)?;
    let verdict = verdict.map(|text| serde_json::from_str(&text)).transpose();
    Ok(ContributionRow {
        round: RoundNumber(row.get(0)?),
        commitment: signed(row, 1)?,
        terms: signed(row, 2)?,
        invoices: signed_or_none(row, 3)?,
        verdict: verdict.map_err(|_| bad_column(4, rusqlite::types::Type::Text, "a verdict was expected"))?,
        receipt: signed_or_none(row, 5)?,
    })
}

/// Writes a new round.
pub fn insert_round(
    db: &Connection,
    opening: &Signed<RoundOpening>,
    secret: &Blake3Hash,
    state: &Round,
) -> Result<(), StoreError> {
    db.execute(
        "INSERT INTO rounds (round, opening, secret, state, ended) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![state.number.0, opening.to_bytes(), secret.as_bytes(), to_json(state)?, state.has_ended()],
    )?;
    Ok(())
}

/// Writes where a round stands.
pub fn save_state(db: &Connection, state: &Round) -> Result<(), StoreError> {
    db.execute(
        "UPDATE rounds SET state = ?2, ended = ?3 WHERE round = ?1",
        params![state.number.0, to_json(state)?, state.has_ended()],
    )?;
    Ok(())
}

/// Notes a round's results.
pub fn set_closed(
    db: &Connection,
    round: RoundNumber,
    transcript: &Blake3Hash,
    next_checkpoint: &Blake3Hash,
    (before, after): (Score, Score),
) -> Result<(), StoreError> {
    db.execute(
        "UPDATE rounds SET transcript = ?2, next_checkpoint = ?3, loss_before = ?4, loss_after = ?5 WHERE round = ?1",
        params![round.0, transcript.as_bytes(), next_checkpoint.as_bytes(), before.0, after.0],
    )?;
    Ok(())
}

/// Notes the transcript of a round without losses. `checkpoint` is what the next one starts from.
pub fn set_transcript(
    db: &Connection,
    round: RoundNumber,
    transcript: &Blake3Hash,
    checkpoint: &Blake3Hash,
) -> Result<(), StoreError> {
    db.execute(
        "UPDATE rounds SET transcript = ?2, next_checkpoint = ?3 WHERE round = ?1",
        params![round.0, transcript.as_bytes(), checkpoint.as_bytes()],
    )?;
    Ok(())
}

/// How many rounds have a transcript. Every round but the newest one has: none opens before the one before it is closed.
pub fn count_closed(db: &Connection) -> Result<u32, StoreError> {
    let query = "SELECT round + (transcript IS NOT NULL) FROM rounds ORDER BY round DESC LIMIT 1";
    Ok(first(db, query, [], |row| row.get(0))?.unwrap_or(0))
}

/// Keeps what an evaluation measured.
pub fn seal_evaluation(db: &Connection, record: &EvaluationRecord) -> Result<(), StoreError> {
    db.execute(
        "INSERT INTO evaluations (contribution, record) VALUES (?1, ?2)",
        params![record.contribution.as_bytes(), to_json(record)?],
    )?;
    Ok(())
}

/// What an evaluation measured.
pub fn evaluation(db: &Connection, id: &ContributionId) -> Result<Option<EvaluationRecord>, StoreError> {
    first(db, "SELECT record FROM evaluations WHERE contribution = ?1", [id.as_bytes()], |row| json(row, 0))
}

/// A round.
pub fn round(db: &Connection, number: RoundNumber) -> Result<Option<RoundRow>, StoreError> {
    first(db, &format!("{ROUND} WHERE round = ?1"), [number.0], read_round)
}

/// The newest round.
pub fn last_round(db: &Connection) -> Result<Option<RoundRow>, StoreError> {
    first(db, &format!("{ROUND} ORDER BY round DESC LIMIT 1"), [], read_round)
}

/// Every round, oldest first.
pub fn rounds(db: &Connection) -> Result<Vec<RoundRow>, StoreError> {
    many_rounds(db, &format!("{ROUND} ORDER BY round"))
}

/// The newest rounds, at most `limit`, oldest first.
pub fn newest_rounds(db: &Connection, limit: u32) -> Result<Vec<RoundRow>, StoreError> {
    many_rounds(db, &format!("SELECT * FROM ({ROUND} ORDER BY round DESC LIMIT {limit}) ORDER BY round"))
}

/// The rounds that are open or have money locked, oldest first.
pub fn unended_rounds(db: &Connection) -> Result<Vec<RoundRow>, StoreError> {
    many_rounds(db, &format!("{ROUND} WHERE ended = 0 ORDER BY round"))
}

fn many_rounds(db: &Connection, query: &str) -> Result<Vec<RoundRow>, StoreError> {
    let mut statement = db.prepare(query)?;
    let rows = statement.query_map([], read_round)?;
    rows.map(|row| row.map_err(StoreError::from)).collect()
}

/// Writes a new contribution.
pub fn insert_contribution(
    db: &Connection,
    commitment: &Signed<Commitment>,
    terms: &Signed<RewardTerms>,
) -> Result<(), StoreError> {
    let id = commitment.body.contribution_id();
    db.execute(
        "INSERT INTO contributions (id, round, sequence, commitment, terms) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![id.as_bytes(), commitment.body.round.0, terms.body.sequence, commitment.to_bytes(), terms.to_bytes()],
    )?;
    Ok(())
}

/// Notes a contribution's invoices.
pub fn set_invoices(
    db: &Connection,
    id: &ContributionId,
    invoices: &Signed<InvoiceSubmission>,
) -> Result<(), StoreError> {
    let bytes = invoices.to_bytes();
    db.execute("UPDATE contributions SET invoices = ?2 WHERE id = ?1", params![id.as_bytes(), bytes])?;
    Ok(())
}

/// Notes a contribution's verdict and receipt.
pub fn set_receipt(db: &Connection, verdict: &Verdict, receipt: &Signed<Receipt>) -> Result<(), StoreError> {
    db.execute(
        "UPDATE contributions SET verdict = ?2, receipt = ?3 WHERE id = ?1",
        params![verdict.contribution().as_bytes(), to_json(verdict)?, receipt.to_bytes()],
    )?;
    Ok(())
}

/// A contribution.
pub fn contribution(db: &Connection, id: &ContributionId) -> Result<Option<ContributionRow>, StoreError> {
    let query = format!("{CONTRIBUTION} WHERE id = ?1");
    first(db, &query, [id.as_bytes()], read_contribution)
}

/// The round of a contribution.
pub fn round_of(db: &Connection, id: &ContributionId) -> Result<Option<RoundNumber>, StoreError> {
    let query = "SELECT round FROM contributions WHERE id = ?1";
    first(db, query, [id.as_bytes()], |row| Ok(RoundNumber(row.get(0)?)))
}

/// A round's contributions, in the order of commitments.
pub fn contributions(db: &Connection, round: RoundNumber) -> Result<Vec<ContributionRow>, StoreError> {
    let mut statement = db.prepare(&format!("{CONTRIBUTION} WHERE round = ?1 ORDER BY sequence"))?;
    let rows = statement.query_map([round.0], read_contribution)?;
    rows.map(|row| row.map_err(StoreError::from)).collect()
}

/// Lets anyone read a blob.
pub fn publish(db: &Connection, hash: &Blake3Hash) -> Result<(), StoreError> {
    db.execute("INSERT OR IGNORE INTO published (hash) VALUES (?1)", [hash.as_bytes()])?;
    Ok(())
}

/// May anyone read it?
pub fn is_published(db: &Connection, hash: &Blake3Hash) -> Result<bool, StoreError> {
    let query = "SELECT count(*) > 0 FROM published WHERE hash = ?1";
    only(db, query, [hash.as_bytes()], |row| row.get(0))
}
