//! Packages of a bounty that were asked for, and may be paid for.

use rusqlite::{Connection, Row, params};

use super::{first, only};
use crate::protocol::ids::{PaymentHash, UnixMs};
use crate::store::StoreError;

/// A package that somebody was given a challenge for. One that isn't paid in time is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaleRow {
    /// The invoice's.
    pub payment_hash: PaymentHash,
    /// Not to be paid from then on.
    pub expires_ms: UnixMs,
    /// Is its price in the books?
    pub is_paid: bool,
}

/// The table.
pub(super) const SCHEMA: &str = "
CREATE TABLE package_sales (
    payment_hash BLOB PRIMARY KEY,
    expires_ms INTEGER NOT NULL,
    is_paid INTEGER NOT NULL DEFAULT 0 CHECK (is_paid IN (0, 1))
) STRICT;
CREATE INDEX open_package_sales ON package_sales (payment_hash) WHERE is_paid = 0;
";

const SALE: &str = "SELECT payment_hash, expires_ms, is_paid FROM package_sales";

fn read(row: &Row<'_>) -> rusqlite::Result<SaleRow> {
    Ok(SaleRow {
        payment_hash: PaymentHash::from_bytes(row.get(0)?),
        expires_ms: UnixMs(row.get::<_, i64>(1)? as u64),
        is_paid: row.get(2)?,
    })
}

/// Notes that a package was asked for.
pub fn insert_sale(db: &Connection, hash: &PaymentHash, expires_ms: UnixMs) -> Result<(), StoreError> {
    let insert = "INSERT INTO package_sales (payment_hash, expires_ms) VALUES (?1, ?2)";
    db.prepare_cached(insert)?.execute(params![hash.as_bytes(), expires_ms.0 as i64])?;
    Ok(())
}

/// A sale.
pub fn sale(db: &Connection, hash: &PaymentHash) -> Result<Option<SaleRow>, StoreError> {
    first(db, &format!("{SALE} WHERE payment_hash = ?1"), [hash.as_bytes()], read)
}

/// Sales that may have been paid without our having seen it: at most so many, from a payment hash on.
pub fn open_sales(db: &Connection, after: &PaymentHash, most: u32) -> Result<Vec<SaleRow>, StoreError> {
    let query = format!("{SALE} WHERE is_paid = 0 AND payment_hash > ?1 ORDER BY payment_hash LIMIT {most}");
    let mut statement = db.prepare_cached(&query)?;
    let rows = statement.query_map([after.as_bytes()], read)?;
    rows.map(|row| row.map_err(StoreError::from)).collect()
}

/// The oldest of these, if there are so many.
pub fn oldest_sale_of(db: &Connection, many: u32) -> Result<Option<SaleRow>, StoreError> {
    let count: u32 = only(db, "SELECT count(*) FROM package_sales WHERE is_paid = 0", [], |row| row.get(0))?;
    if count < many {
        return Ok(None);
    }
    first(db, &format!("{SALE} WHERE is_paid = 0 ORDER BY expires_ms LIMIT 1"), [], read)
}

/// Notes that a package was paid for.
pub fn set_sale_paid(db: &Connection, hash: &PaymentHash) -> Result<(), StoreError> {
    let update = "UPDATE package_sales SET is_paid = 1 WHERE payment_hash = ?1";
    db.prepare_cached(update)?.execute([hash.as_bytes()])?;
    Ok(())
}

/// Forgets a sale that was not paid, and can't be any more.
pub fn forget_sale(db: &Connection, hash: &PaymentHash) -> Result<(), StoreError> {
    let delete = "DELETE FROM package_sales WHERE payment_hash = ?1 AND is_paid = 0";
    db.prepare_cached(delete)?.execute([hash.as_bytes()])?;
    Ok(())
}
