//! What this node keeps about its own invoices and payments, beside LDK's stores.
//!
//! LDK forgets that an HTLC is waiting to be claimed (its event may come only once) and can't say whether a payment
//! that a crash interrupted was sent; these records can. Each change is one fsynced write, made before LDK acts on it;
//! what only repeats an event of LDK's is on disk no later than LDK's own next write, before it forgets the event.

use std::sync::Arc;

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{OptionalExtension, Row, params};

use super::store::Store;
use crate::ln::{LnError, PayLimits, PaymentFailure};
use crate::protocol::amount::Msat;
use crate::protocol::ids::{PaymentHash, Preimage, UnixMs};

/// What kind of invoice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InvoiceKind {
    /// Claimed when it arrives.
    Ordinary,
    /// Claimed when told to.
    Hold,
}

/// Where an invoice stands. `Open` may have expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InvoiceState {
    Open,
    Accepted,
    Settled,
    Canceled,
}

/// Where a payment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PaymentState {
    /// LDK is being told; after a crash it is open whether it was.
    Sending,
    InFlight,
    Succeeded,
    /// The payee or this node would not have it.
    Refused,
    /// It never reached the payee.
    NotReached,
}

macro_rules! as_integer {
    ($name:ident { $($variant:ident = $number:literal),+ }) => {
        impl ToSql for $name {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                Ok(match self { $($name::$variant => $number,)+ }.into())
            }
        }
        impl FromSql for $name {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                match value.as_i64()? {
                    $($number => Ok($name::$variant),)+
                    other => Err(FromSqlError::OutOfRange(other)),
                }
            }
        }
    };
}

as_integer!(InvoiceKind { Ordinary = 0_i64, Hold = 1_i64 });
as_integer!(InvoiceState { Open = 0_i64, Accepted = 1_i64, Settled = 2_i64, Canceled = 3_i64 });
as_integer!(PaymentState {
    Sending = 0_i64,
    InFlight = 1_i64,
    Succeeded = 2_i64,
    Refused = 3_i64,
    NotReached = 4_i64
});

/// An invoice of this node.
#[derive(Clone, Debug)]
pub(super) struct InvoiceRecord {
    pub(super) payment_hash: PaymentHash,
    pub(super) bolt11: String,
    pub(super) kind: InvoiceKind,
    pub(super) amount: Msat,
    pub(super) expires_at: UnixMs,
    /// The node's own for an ordinary invoice; for a hold invoice what `settle` was given.
    pub(super) preimage: Option<Preimage>,
    pub(super) state: InvoiceState,
    /// What is or was locked.
    pub(super) locked: Option<Msat>,
    /// LDK gives the HTLC back at this height.
    pub(super) deadline_height: Option<u32>,
}

/// A payment by this node.
#[derive(Clone, Debug)]
pub(super) struct PaymentRecord {
    pub(super) payment_hash: PaymentHash,
    pub(super) bolt11: String,
    pub(super) amount: Msat,
    pub(super) limits: PayLimits,
    pub(super) state: PaymentState,
    pub(super) preimage: Option<Preimage>,
    pub(super) fee: Msat,
    pub(super) reason: Option<String>,
}

/// The records.
#[derive(Clone, Debug)]
pub(super) struct Records(Arc<Store>);

impl Records {
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self(store)
    }

    pub(super) fn invoice(&self, hash: PaymentHash) -> Result<Option<InvoiceRecord>, LnError> {
        let connection = self.0.connection();
        let query = connection.prepare_cached("SELECT * FROM invoices WHERE payment_hash = ?1");
        let found = query.and_then(|mut query| query.query_row([hash.as_bytes()], read_invoice).optional());
        found.map_err(unreadable)
    }

    pub(super) fn invoices(&self, state: InvoiceState) -> Result<Vec<InvoiceRecord>, LnError> {
        let connection = self.0.connection();
        let query = connection.prepare_cached("SELECT * FROM invoices WHERE state = ?1");
        let found = query.and_then(|mut query| query.query_map([state], read_invoice)?.collect());
        found.map_err(unreadable)
    }

    pub(super) fn add_invoice(&self, invoice: &InvoiceRecord) -> Result<(), LnError> {
        let sql = "INSERT INTO invoices VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, NULL, NULL)";
        self.change(
            sql,
            params![
                invoice.payment_hash.as_bytes(),
                invoice.bolt11,
                invoice.kind,
                integer(invoice.amount),
                i64::try_from(invoice.expires_at.0).unwrap_or(i64::MAX),
                invoice.preimage.as_ref().map(Preimage::as_bytes),
                invoice.state,
            ],
        )
    }

    /// An HTLC is locked to the invoice.
    pub(super) fn accept(&self, hash: PaymentHash, locked: Msat, deadline: Option<u32>) -> Result<(), LnError> {
        let sql = "UPDATE invoices SET state = ?2, locked_msat = ?3, deadline_height = ?4 WHERE payment_hash = ?1";
        self.note(sql, params![hash.as_bytes(), InvoiceState::Accepted, integer(locked), deadline])
    }

    /// From now on the HTLC is claimed whenever it is there.
    pub(super) fn keep_preimage(&self, hash: PaymentHash, preimage: Preimage) -> Result<(), LnError> {
        let sql = "UPDATE invoices SET preimage = ?2 WHERE payment_hash = ?1";
        self.change(sql, params![hash.as_bytes(), preimage.as_bytes()])
    }

    pub(super) fn cancel(&self, hash: PaymentHash) -> Result<(), LnError> {
        let sql = "UPDATE invoices SET state = ?2 WHERE payment_hash = ?1 AND state <> ?3";
        self.change(sql, params![hash.as_bytes(), InvoiceState::Canceled, InvoiceState::Settled])
    }

    pub(super) fn received(&self, hash: PaymentHash, amount: Msat) -> Result<(), LnError> {
        let sql = "UPDATE invoices SET state = ?2, locked_msat = ?3 WHERE payment_hash = ?1";
        self.note(sql, params![hash.as_bytes(), InvoiceState::Settled, integer(amount)])
    }

    pub(super) fn payment(&self, hash: PaymentHash) -> Result<Option<PaymentRecord>, LnError> {
        let connection = self.0.connection();
        let query = connection.prepare_cached("SELECT * FROM payments WHERE payment_hash = ?1");
        let found = query.and_then(|mut query| query.query_row([hash.as_bytes()], read_payment).optional());
        found.map_err(unreadable)
    }

    pub(super) fn payments(&self, state: PaymentState) -> Result<Vec<PaymentRecord>, LnError> {
        let connection = self.0.connection();
        let query = connection.prepare_cached("SELECT * FROM payments WHERE state = ?1");
        let found = query.and_then(|mut query| query.query_map([state], read_payment)?.collect());
        found.map_err(unreadable)
    }

    /// Notes that LDK is about to be told to pay; a failed attempt before is forgotten.
    pub(super) fn sending(
        &self,
        hash: PaymentHash,
        bolt11: &str,
        amount: Msat,
        limits: PayLimits,
    ) -> Result<(), LnError> {
        let sql = "INSERT OR REPLACE INTO payments VALUES (?1, ?2, ?3, ?4, ?5, ?6, NULL, NULL, NULL)";
        let (max_fee, blocks) = (integer(limits.max_fee), limits.max_cltv_blocks);
        self.change(sql, params![hash.as_bytes(), bolt11, integer(amount), max_fee, blocks, PaymentState::Sending])
    }

    /// LDK has it. Its end may have been noted already: that stays.
    pub(super) fn in_flight(&self, hash: PaymentHash) -> Result<(), LnError> {
        let sql = "UPDATE payments SET state = ?2 WHERE payment_hash = ?1 AND state = ?3";
        self.change(sql, params![hash.as_bytes(), PaymentState::InFlight, PaymentState::Sending])
    }

    pub(super) fn succeeded(&self, hash: PaymentHash, preimage: Preimage, fee: Msat) -> Result<(), LnError> {
        let sql = "UPDATE payments SET state = ?2, preimage = ?3, fee_msat = ?4 WHERE payment_hash = ?1";
        self.note(sql, params![hash.as_bytes(), PaymentState::Succeeded, preimage.as_bytes(), integer(fee)])
    }

    pub(super) fn failed(&self, hash: PaymentHash, why: PaymentFailure, reason: &str) -> Result<(), LnError> {
        let state = match why {
            PaymentFailure::Refused => PaymentState::Refused,
            PaymentFailure::NotReached => PaymentState::NotReached,
        };
        let sql = "UPDATE payments SET state = ?2, reason = ?3 WHERE payment_hash = ?1 AND state <> ?4";
        self.change(sql, params![hash.as_bytes(), state, reason, PaymentState::Succeeded])
    }

    /// Notes what an event of LDK's said, which comes again where a power cut takes this back.
    fn note(&self, sql: &str, params: &[&dyn ToSql]) -> Result<(), LnError> {
        let noted = self.0.write_in_order(|connection| connection.prepare_cached(sql)?.execute(params));
        noted.map(drop).map_err(unwritable)
    }

    fn change(&self, sql: &str, params: &[&dyn ToSql]) -> Result<(), LnError> {
        let changed = self.0.write(|connection| connection.prepare_cached(sql)?.execute(params));
        changed.map(drop).map_err(unwritable)
    }
}

fn unwritable(error: rusqlite::Error) -> LnError {
    LnError::Unavailable(format!("it can't write its state ({error})"))
}

fn unreadable(error: rusqlite::Error) -> LnError {
    LnError::Unavailable(format!("it can't read its state ({error})"))
}

/// SQLite's integers are signed; no amount comes near.
fn integer(amount: Msat) -> i64 {
    i64::try_from(amount.msat()).unwrap_or(i64::MAX)
}

fn read_amount(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<Msat>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(|msat| Msat::new(u64::try_from(msat).unwrap_or_default())))
}

fn read_preimage(row: &Row<'_>) -> rusqlite::Result<Option<Preimage>> {
    Ok(row.get::<_, Option<[u8; 32]>>("preimage")?.map(Preimage::from_bytes))
}

fn read_invoice(row: &Row<'_>) -> rusqlite::Result<InvoiceRecord> {
    Ok(InvoiceRecord {
        payment_hash: PaymentHash::from_bytes(row.get("payment_hash")?),
        bolt11: row.get("bolt11")?,
        kind: row.get("kind")?,
        amount: read_amount(row, "amount_msat")?.unwrap_or_default(),
        expires_at: UnixMs(u64::try_from(row.get::<_, i64>("expires_ms")?).unwrap_or_default()),
        preimage: read_preimage(row)?,
        state: row.get("state")?,
        locked: read_amount(row, "locked_msat")?,
        deadline_height: row.get("deadline_height")?,
    })
}

fn read_payment(row: &Row<'_>) -> rusqlite::Result<PaymentRecord> {
    Ok(PaymentRecord {
        payment_hash: PaymentHash::from_bytes(row.get("payment_hash")?),
        bolt11: row.get("bolt11")?,
        amount: read_amount(row, "amount_msat")?.unwrap_or_default(),
        limits: PayLimits {
            max_fee: read_amount(row, "max_fee_msat")?.unwrap_or_default(),
            max_cltv_blocks: row.get("max_cltv_blocks")?,
        },
        state: row.get("state")?,
        preimage: read_preimage(row)?,
        fee: read_amount(row, "fee_msat")?.unwrap_or_default(),
        reason: row.get("reason")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PayLimits = PayLimits { max_fee: Msat::new(7), max_cltv_blocks: 300 };

    fn records() -> (tempfile::TempDir, Records) {
        let dir = tempfile::tempdir().expect("a folder");
        let records = Records::new(Arc::new(Store::open(dir.path()).expect("opens")));
        (dir, records)
    }

    #[test]
    fn the_end_of_a_payment_is_not_overwritten_by_a_late_answer() {
        let (_dir, records) = records();
        let preimage = Preimage::from_bytes([1; 32]);
        let hash = preimage.payment_hash();
        records.sending(hash, "lnbcrt1", Msat::new(5), LIMITS).expect("written");
        records.succeeded(hash, preimage, Msat::new(2)).expect("written");
        records.in_flight(hash).expect("nothing to do");
        records.failed(hash, PaymentFailure::Refused, "late").expect("nothing to do");
        let record = records.payment(hash).expect("readable").expect("there");
        assert_eq!(
            (record.state, record.preimage, record.fee),
            (PaymentState::Succeeded, Some(preimage), Msat::new(2))
        );
        assert_eq!(record.limits, LIMITS);
    }

    #[test]
    fn an_invoice_goes_from_open_to_settled_and_is_then_not_canceled() {
        let (_dir, records) = records();
        let preimage = Preimage::from_bytes([2; 32]);
        let hash = preimage.payment_hash();
        let invoice = InvoiceRecord {
            payment_hash: hash,
            bolt11: "lnbcrt1".into(),
            kind: InvoiceKind::Hold,
            amount: Msat::new(5_000),
            expires_at: UnixMs(9),
            preimage: None,
            state: InvoiceState::Open,
            locked: None,
            deadline_height: None,
        };
        records.add_invoice(&invoice).expect("written");
        records.accept(hash, Msat::new(5_001), Some(300)).expect("written");
        records.keep_preimage(hash, preimage).expect("written");
        let accepted = records.invoices(InvoiceState::Accepted).expect("readable");
        assert_eq!(accepted.len(), 1);
        assert_eq!(
            (accepted[0].locked, accepted[0].deadline_height, accepted[0].preimage),
            (Some(Msat::new(5_001)), Some(300), Some(preimage))
        );
        records.received(hash, Msat::new(5_001)).expect("written");
        records.cancel(hash).expect("nothing to do");
        assert_eq!(records.invoice(hash).expect("readable").expect("there").state, InvoiceState::Settled);
    }
}
