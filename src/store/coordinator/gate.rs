//! L402 challenges and registered peers.

use rusqlite::types::Type;
use rusqlite::{Connection, Row, params};

use super::{bad_column, first, only};
use crate::protocol::ids::{ContributionId, PaymentHash, PeerId, RoundNumber, UnixMs};
use crate::protocol::l402::{RootKey, TokenId};
use crate::store::StoreError;

/// Where a challenge stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChallengeState {
    /// It may be paid, or has been without our having seen it.
    Open,
    /// Its fee is in the books.
    Paid,
    /// It was not paid in time.
    Expired,
}

impl ChallengeState {
    fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Paid => "paid",
            Self::Expired => "expired",
        }
    }
}

/// A challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChallengeRow {
    /// The fee invoice's.
    pub payment_hash: PaymentHash,
    /// The token's public name.
    pub token_id: TokenId,
    /// For which contribution.
    pub contribution: ContributionId,
    /// In which round.
    pub round: RoundNumber,
    /// Of which peer.
    pub peer: PeerId,
    /// What the token was minted with.
    pub root_key: RootKey,
    /// Base64.
    pub macaroon: String,
    /// The fee invoice.
    pub bolt11: String,
    /// Not to be paid from then on.
    pub expires_ms: UnixMs,
    /// Where it stands.
    pub state: ChallengeState,
}

const CHALLENGE: &str = "SELECT payment_hash, token_id, contribution, round, peer, root_key, macaroon, bolt11,
    expires_ms, state FROM challenges";

fn read_challenge(row: &Row<'_>) -> rusqlite::Result<ChallengeRow> {
    let state: String = row.get(9)?;
    let state = match state.as_str() {
        "open" => ChallengeState::Open,
        "paid" => ChallengeState::Paid,
        "expired" => ChallengeState::Expired,
        _ => return Err(bad_column(9, Type::Text, "a challenge's state was expected")),
    };
    Ok(ChallengeRow {
        payment_hash: PaymentHash::from_bytes(row.get(0)?),
        token_id: TokenId::from_bytes(row.get(1)?),
        contribution: ContributionId::from_bytes(row.get(2)?),
        round: RoundNumber(row.get(3)?),
        peer: PeerId::from_bytes(row.get(4)?),
        root_key: RootKey::from_bytes(row.get(5)?),
        macaroon: row.get(6)?,
        bolt11: row.get(7)?,
        expires_ms: UnixMs(row.get::<_, i64>(8)? as u64),
        state,
    })
}

/// Writes a new challenge.
pub fn insert_challenge(db: &Connection, challenge: &ChallengeRow) -> Result<(), StoreError> {
    let mut insert = db.prepare_cached(
        "INSERT INTO challenges
            (payment_hash, token_id, contribution, round, peer, root_key, macaroon, bolt11, expires_ms, state)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?;
    insert.execute(params![
        challenge.payment_hash.as_bytes(),
        challenge.token_id.as_bytes(),
        challenge.contribution.as_bytes(),
        challenge.round.0,
        challenge.peer.as_bytes(),
        challenge.root_key.as_bytes(),
        challenge.macaroon,
        challenge.bolt11,
        challenge.expires_ms.0 as i64,
        challenge.state.name()
    ])?;
    Ok(())
}

/// The challenge whose token has this name.
pub fn challenge_by_token(db: &Connection, token: &TokenId) -> Result<Option<ChallengeRow>, StoreError> {
    let query = format!("{CHALLENGE} WHERE token_id = ?1");
    first(db, &query, [token.as_bytes()], read_challenge)
}

/// A contribution's newest challenge that was not given up.
pub fn challenge_for(db: &Connection, id: &ContributionId) -> Result<Option<ChallengeRow>, StoreError> {
    let query = format!("{CHALLENGE} WHERE contribution = ?1 AND state <> 'expired' ORDER BY expires_ms DESC LIMIT 1");
    first(db, &query, [id.as_bytes()], read_challenge)
}

/// Challenges that may have been paid without our having seen it: at most so many, from a payment hash on.
pub fn open_challenges(db: &Connection, after: &PaymentHash, most: u32) -> Result<Vec<ChallengeRow>, StoreError> {
    let query = format!("{CHALLENGE} WHERE state = 'open' AND payment_hash > ?1 ORDER BY payment_hash LIMIT {most}");
    let mut statement = db.prepare_cached(&query)?;
    let rows = statement.query_map([after.as_bytes()], read_challenge)?;
    rows.map(|row| row.map_err(StoreError::from)).collect()
}

/// The contributions without a ticket that have an open or paid challenge of a round, and their peers: seats that are
/// spoken for.
pub fn promised_seats(db: &Connection, round: RoundNumber) -> Result<Vec<(ContributionId, PeerId)>, StoreError> {
    let query = "SELECT DISTINCT contribution, peer FROM challenges WHERE state IN ('open', 'paid') AND round = ?1
        AND NOT EXISTS (SELECT 1 FROM contributions WHERE id = contribution)";
    let mut statement = db.prepare_cached(query)?;
    let read = |row: &Row<'_>| Ok((ContributionId::from_bytes(row.get(0)?), PeerId::from_bytes(row.get(1)?)));
    let rows = statement.query_map([round.0], read)?;
    rows.map(|row| row.map_err(StoreError::from)).collect()
}

/// Moves a challenge on.
pub fn set_challenge_state(db: &Connection, hash: &PaymentHash, state: ChallengeState) -> Result<(), StoreError> {
    let query = "UPDATE challenges SET state = ?2 WHERE payment_hash = ?1";
    db.prepare_cached(query)?.execute(params![hash.as_bytes(), state.name()])?;
    Ok(())
}

/// A registered peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRow {
    /// Its Lightning node, 66 hex digits.
    pub node_id: String,
    /// Where its node listens.
    pub address: Option<String>,
    /// How many channels were opened to it.
    pub channel_opens: u32,
}

/// A registered peer.
pub fn peer(db: &Connection, id: &PeerId) -> Result<Option<PeerRow>, StoreError> {
    let query = "SELECT node_id, address, channel_opens FROM peers WHERE peer = ?1";
    let read = |row: &Row<'_>| Ok(PeerRow { node_id: row.get(0)?, address: row.get(1)?, channel_opens: row.get(2)? });
    first(db, query, [id.as_bytes()], read)
}

/// Notes a peer's node.
pub fn save_peer(db: &Connection, id: &PeerId, node_id: &str, address: Option<&str>) -> Result<(), StoreError> {
    db.execute(
        "INSERT INTO peers (peer, node_id, address) VALUES (?1, ?2, ?3)
         ON CONFLICT (peer) DO UPDATE SET node_id = ?2, address = ?3",
        params![id.as_bytes(), node_id, address],
    )?;
    Ok(())
}

/// Registered peers.
pub fn count_peers(db: &Connection) -> Result<u32, StoreError> {
    only(db, "SELECT count(*) FROM peers", [], |row| row.get(0))
}

/// Counts a channel opened to a peer.
pub fn mark_channel_opened(db: &Connection, id: &PeerId) -> Result<(), StoreError> {
    db.execute("UPDATE peers SET channel_opens = channel_opens + 1 WHERE peer = ?1", [id.as_bytes()])?;
    Ok(())
}

/// Channels opened to peers so far.
pub fn count_channel_opens(db: &Connection) -> Result<u32, StoreError> {
    Ok(db.query_row("SELECT coalesce(sum(channel_opens), 0) FROM peers", [], |row| row.get(0))?)
}
