//! Hold invoices to be paid, and the outbox of those not yet handed to the node.

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::protocol::ids::{ContributionId, PaymentHash, RoundNumber};
use crate::store::StoreError;

/// A hold invoice that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PaymentRow {
    /// Its key with the node.
    pub payment_hash: PaymentHash,
    /// The round it belongs to.
    pub round: RoundNumber,
    /// Of which contribution.
    pub contribution: ContributionId,
    /// Which tranche.
    pub tranche: u32,
    /// Whose node it pays, 66 hex digits.
    pub payee: String,
    /// The invoice.
    pub bolt11: String,
}

const PAYMENT: &str = "SELECT payments.payment_hash, round, contribution, tranche, payee, bolt11
    FROM payments JOIN contributions ON contribution = contributions.id";

fn read(row: &Row<'_>) -> rusqlite::Result<PaymentRow> {
    Ok(PaymentRow {
        payment_hash: PaymentHash::from_bytes(row.get(0)?),
        round: RoundNumber(row.get(1)?),
        contribution: ContributionId::from_bytes(row.get(2)?),
        tranche: row.get(3)?,
        payee: row.get(4)?,
        bolt11: row.get(5)?,
    })
}

/// Writes an accepted invoice.
pub fn insert_payment(db: &Connection, payment: &PaymentRow) -> Result<(), StoreError> {
    db.execute(
        "INSERT INTO payments (payment_hash, contribution, tranche, payee, bolt11) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![
            payment.payment_hash.as_bytes(),
            payment.contribution.as_bytes(),
            payment.tranche,
            payment.payee,
            payment.bolt11
        ],
    )?;
    Ok(())
}

/// The payment of a tranche.
pub fn payment(db: &Connection, id: &ContributionId, tranche: u32) -> Result<Option<PaymentRow>, StoreError> {
    let query = format!("{PAYMENT} WHERE contribution = ?1 AND tranche = ?2");
    Ok(db.query_row(&query, params![id.as_bytes(), tranche], read).optional()?)
}

/// Is this the payment hash of any tranche's invoice?
pub fn has_payment(db: &Connection, hash: &PaymentHash) -> Result<bool, StoreError> {
    let query = "SELECT count(*) > 0 FROM payments WHERE payment_hash = ?1";
    Ok(db.query_row(query, [hash.as_bytes()], |row| row.get(0))?)
}

/// Puts a tranche's payment into the outbox.
pub fn outbox_add(db: &Connection, id: &ContributionId, tranche: u32) -> Result<(), StoreError> {
    db.execute(
        "INSERT INTO outbox (payment_hash) SELECT payment_hash FROM payments WHERE contribution = ?1 AND tranche = ?2",
        params![id.as_bytes(), tranche],
    )?;
    Ok(())
}

/// Takes a tranche's payment out of the outbox.
pub fn outbox_remove(db: &Connection, id: &ContributionId, tranche: u32) -> Result<(), StoreError> {
    db.execute(
        "DELETE FROM outbox WHERE payment_hash =
            (SELECT payment_hash FROM payments WHERE contribution = ?1 AND tranche = ?2)",
        params![id.as_bytes(), tranche],
    )?;
    Ok(())
}

/// The outbox, oldest first.
pub fn outbox(db: &Connection) -> Result<Vec<PaymentRow>, StoreError> {
    let mut statement = db
        .prepare(&format!("{PAYMENT} JOIN outbox ON outbox.payment_hash = payments.payment_hash ORDER BY outbox.id"))?;
    let rows = statement.query_map([], read)?;
    rows.map(|row| row.map_err(StoreError::from)).collect()
}
