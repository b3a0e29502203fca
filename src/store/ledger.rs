//! The coordinator's books, in double entry: every posting takes an amount from one account and gives it to another, so
//! that the books balance whatever happens.

use rusqlite::{Connection, params};
use serde::Serialize;

use super::StoreError;
use super::events::EventSequence;
use crate::protocol::amount::Msat;
use crate::protocol::ids::{RoundNumber, UnixMs};
use crate::protocol::round::Account;

/// The books' table.
pub const SCHEMA: &str = "
CREATE TABLE postings (
    id INTEGER PRIMARY KEY,
    event INTEGER NOT NULL REFERENCES events (sequence),
    round INTEGER NOT NULL,
    from_account TEXT NOT NULL,
    to_account TEXT NOT NULL CHECK (to_account <> from_account),
    amount_msat INTEGER NOT NULL CHECK (amount_msat > 0)
) STRICT;
CREATE TRIGGER postings_never_change BEFORE UPDATE ON postings BEGIN SELECT RAISE(ABORT, 'postings never change'); END;
CREATE TRIGGER postings_never_go BEFORE DELETE ON postings BEGIN SELECT RAISE(ABORT, 'postings never go'); END;
";

/// What came in, what is locked and what went out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Submission fees received.
    pub fees_received_msat: Msat,
    /// Received for a bounty's package.
    pub packages_sold_msat: Msat,
    /// Rewards locked in hold invoices at this moment.
    pub rewards_locked_msat: Msat,
    /// Rewards that peers have claimed.
    pub rewards_settled_msat: Msat,
    /// Rewards that were locked and came back.
    pub rewards_refunded_msat: Msat,
    /// Routing fees paid.
    pub routing_fees_msat: Msat,
    /// Taken of what sponsors locked.
    pub escrow_taken_msat: Msat,
    /// Paid back to them.
    pub escrow_paid_back_msat: Msat,
}

/// A posting, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Posting {
    /// When.
    pub at_ms: UnixMs,
    /// In which round.
    pub round: RoundNumber,
    /// Whence.
    pub from: String,
    /// Whither.
    pub to: String,
    /// How much.
    pub amount_msat: Msat,
}

/// An account's name in the books.
pub fn account_name(account: Account) -> &'static str {
    match account {
        Account::Wallet => "wallet",
        Account::Fees => "fees",
        Account::Packages => "packages",
        Account::Locked => "locked",
        Account::Settled => "settled",
        Account::Routing => "routing",
        Account::Escrow => "escrow",
    }
}

/// Writes a posting.
pub fn post(
    db: &Connection,
    event: EventSequence,
    round: RoundNumber,
    (from, to): (Account, Account),
    amount: Msat,
) -> Result<(), StoreError> {
    db.execute(
        "INSERT INTO postings (event, round, from_account, to_account, amount_msat) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![event.0, round.0, account_name(from), account_name(to), amount.msat() as i64],
    )?;
    Ok(())
}

fn moved(db: &Connection, round: Option<RoundNumber>, from: Account, to: Account) -> Result<i64, StoreError> {
    let sum = db.query_row(
        "SELECT coalesce(sum(amount_msat), 0) FROM postings
         WHERE from_account = ?1 AND to_account = ?2 AND (?3 IS NULL OR round = ?3)",
        params![account_name(from), account_name(to), round.map(|r| r.0)],
        |row| row.get(0),
    )?;
    Ok(sum)
}

/// The books' totals: of one round, or of all.
pub fn totals(db: &Connection, round: Option<RoundNumber>) -> Result<Totals, StoreError> {
    let sum = |from, to| moved(db, round, from, to);
    let settled = sum(Account::Locked, Account::Settled)?;
    let refunded = sum(Account::Locked, Account::Wallet)?;
    let locked = sum(Account::Wallet, Account::Locked)? - settled - refunded;
    let msat = |sum: i64| u64::try_from(sum).map(Msat::new).map_err(|_| StoreError::Corrupt { what: "ledger" });
    Ok(Totals {
        fees_received_msat: msat(sum(Account::Fees, Account::Wallet)?)?,
        packages_sold_msat: msat(sum(Account::Packages, Account::Wallet)?)?,
        rewards_locked_msat: msat(locked)?,
        rewards_settled_msat: msat(settled)?,
        rewards_refunded_msat: msat(refunded)?,
        routing_fees_msat: msat(sum(Account::Wallet, Account::Routing)?)?,
        escrow_taken_msat: msat(sum(Account::Escrow, Account::Wallet)?)?,
        escrow_paid_back_msat: msat(sum(Account::Wallet, Account::Escrow)?)?,
    })
}

/// The postings, oldest first, of one round or of all; at most `limit`.
pub fn postings(db: &Connection, round: Option<RoundNumber>, limit: u32) -> Result<Vec<Posting>, StoreError> {
    let mut statement = db.prepare(
        "SELECT at_ms, round, from_account, to_account, amount_msat FROM postings JOIN events ON event = sequence
         WHERE ?1 IS NULL OR round = ?1 ORDER BY id LIMIT ?2",
    )?;
    let rows = statement.query_map(params![round.map(|r| r.0), limit], |row| {
        Ok(Posting {
            at_ms: UnixMs(row.get::<_, i64>(0)? as u64),
            round: RoundNumber(row.get(1)?),
            from: row.get(2)?,
            to: row.get(3)?,
            amount_msat: Msat::new(row.get::<_, i64>(4)? as u64),
        })
    })?;
    rows.map(|row| row.map_err(StoreError::from)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::events;
    use super::*;

    #[test]
    fn totals_follow_the_postings() {
        let db = Connection::open_in_memory().expect("opened");
        db.execute_batch(events::SCHEMA).expect("made");
        db.execute_batch(SCHEMA).expect("made");
        let event = events::append(&db, UnixMs(1), "{}").expect("appended");
        let book = |round, from, to, msat| {
            post(&db, event, RoundNumber(round), (from, to), Msat::new(msat)).expect("posted");
        };
        book(0, Account::Fees, Account::Wallet, 5);
        book(0, Account::Wallet, Account::Locked, 30);
        book(0, Account::Locked, Account::Settled, 10);
        book(0, Account::Locked, Account::Wallet, 12);
        book(1, Account::Wallet, Account::Locked, 7);
        let all = totals(&db, None).expect("summed");
        assert_eq!(all.rewards_locked_msat, Msat::new(15));
        assert_eq!((all.rewards_settled_msat, all.rewards_refunded_msat), (Msat::new(10), Msat::new(12)));
        assert_eq!(totals(&db, Some(RoundNumber(1))).expect("summed").rewards_locked_msat, Msat::new(7));
        assert_eq!(postings(&db, Some(RoundNumber(0)), 100).expect("listed").len(), 4);
        assert!(post(&db, event, RoundNumber(0), (Account::Wallet, Account::Locked), Msat::ZERO).is_err());
        assert!(db.execute("DELETE FROM postings", []).is_err());
    }
}
