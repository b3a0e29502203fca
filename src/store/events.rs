//! The log of everything that happened: appended to, never changed, each entry chained to all before it.

use rusqlite::{Connection, OptionalExtension, params};

use super::StoreError;
use crate::protocol::ids::{Blake3Hash, UnixMs};

const CHAIN: &str = "l402t event chain v1";

/// The log's table. Triggers keep it append-only.
pub const SCHEMA: &str = "
CREATE TABLE events (
    sequence INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    body TEXT NOT NULL,
    chain BLOB NOT NULL CHECK (length(chain) = 32)
) STRICT;
CREATE TRIGGER events_never_change BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events never change'); END;
CREATE TRIGGER events_never_go BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events never go'); END;
";

/// An entry's number, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventSequence(pub i64);

/// Appends an entry: JSON on one line.
pub fn append(db: &Connection, at: UnixMs, body: &str) -> Result<EventSequence, StoreError> {
    let last: Option<(i64, [u8; 32])> = db
        .query_row("SELECT sequence, chain FROM events ORDER BY sequence DESC LIMIT 1", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    let (sequence, previous) = last.map_or((1, [0; 32]), |(sequence, chain)| (sequence + 1, chain));
    let chain = link(&previous, sequence, at, body);
    db.execute(
        "INSERT INTO events (sequence, at_ms, body, chain) VALUES (?1, ?2, ?3, ?4)",
        params![sequence, at.0 as i64, body, chain.as_bytes()],
    )?;
    Ok(EventSequence(sequence))
}

fn link(previous: &[u8; 32], sequence: i64, at: UnixMs, body: &str) -> Blake3Hash {
    let mut bytes = previous.to_vec();
    bytes.extend_from_slice(&sequence.to_le_bytes());
    bytes.extend_from_slice(&at.0.to_le_bytes());
    bytes.extend_from_slice(body.as_bytes());
    Blake3Hash::derive(CHAIN, &bytes)
}

/// Walks the whole log, checking the chain, and hands every entry to `visit` in order.
pub fn replay(
    db: &Connection,
    mut visit: impl FnMut(UnixMs, &str) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut statement = db.prepare("SELECT sequence, at_ms, body, chain FROM events ORDER BY sequence")?;
    let mut rows = statement.query([])?;
    let (mut expected, mut previous) = (1i64, [0; 32]);
    while let Some(row) = rows.next()? {
        let (sequence, at_ms, body, chain): (i64, i64, String, [u8; 32]) =
            (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        let at = UnixMs(at_ms as u64);
        if sequence != expected || link(&previous, sequence, at, &body).as_bytes() != &chain {
            return Err(StoreError::Corrupt { what: "event log: its chain is broken" });
        }
        visit(at, &body)?;
        (expected, previous) = (sequence + 1, chain);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> Connection {
        let db = Connection::open_in_memory().expect("opened");
        db.execute_batch(SCHEMA).expect("made");
        for body in ["\"a\"", "\"b\"", "\"c\""] {
            append(&db, UnixMs(5), body).expect("appended");
        }
        db
    }

    #[test]
    fn the_log_comes_back_in_order_and_can_only_grow() {
        let db = log();
        let mut bodies = Vec::new();
        replay(&db, |_, body| {
            bodies.push(body.to_owned());
            Ok(())
        })
        .expect("whole");
        assert_eq!(bodies, ["\"a\"", "\"b\"", "\"c\""]);
        assert!(db.execute("DELETE FROM events WHERE sequence = 3", []).is_err());
        assert!(db.execute("UPDATE events SET body = '' WHERE sequence = 3", []).is_err());
    }

    #[test]
    fn a_changed_entry_breaks_the_chain() {
        for tamper in [
            "UPDATE events SET body = '\"x\"' WHERE sequence = 2",
            "UPDATE events SET at_ms = 6 WHERE sequence = 1",
            "DELETE FROM events WHERE sequence = 1",
        ] {
            let db = log();
            db.execute_batch("DROP TRIGGER events_never_change; DROP TRIGGER events_never_go").expect("dropped");
            db.execute(tamper, []).expect("tampered");
            assert!(matches!(replay(&db, |_, _| Ok(())), Err(StoreError::Corrupt { .. })), "{tamper}");
        }
    }
}
