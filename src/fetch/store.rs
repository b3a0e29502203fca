//! What was bought where, and which downloads are under way: `tokens.db`, for this user only.
//!
//! A token's secret half, its preimage, is in here and in no log and no error.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use rusqlite::{OptionalExtension as _, Row, params};
use serde::Serialize;

use super::challenge::{self, Offer};
use crate::protocol::amount::Msat;
use crate::protocol::ids::{PaymentHash, Preimage, UnixMs};
use crate::protocol::l402::{Macaroon, Scheme, credentials_header};
use crate::store::StoreError;
use crate::store::database::{CommitObserver, Database, Transaction, Unwatched};

const NAME: &str = "tokens.db";

const SCHEMA: &[&str] = &[
    "
CREATE TABLE tokens (
    payment_hash BLOB PRIMARY KEY CHECK (length(payment_hash) = 32),
    origin TEXT NOT NULL,
    path TEXT NOT NULL,
    scheme TEXT NOT NULL,
    macaroon TEXT NOT NULL,
    invoice TEXT NOT NULL,
    amount_msat INTEGER NOT NULL,
    bought_ms INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('paying', 'unpaid', 'paid', 'accepted', 'refused')),
    preimage BLOB CHECK (length(preimage) = 32),
    CHECK ((preimage IS NULL) = (state IN ('paying', 'unpaid')))
) STRICT;
CREATE INDEX tokens_by_origin ON tokens (origin);
CREATE TABLE downloads (
    file BLOB PRIMARY KEY,
    url TEXT NOT NULL,
    validator TEXT,
    total_bytes INTEGER
) STRICT;
",
    "
ALTER TABLE tokens ADD COLUMN routing_msat INTEGER NOT NULL DEFAULT 0;
",
];

/// A token's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The node has been, or is about to be, asked to pay. Its answer is not known.
    Paying,
    /// Certainly not paid.
    Unpaid,
    /// Paid. Nobody has taken it yet.
    Paid,
    /// The server has taken it.
    Accepted,
    /// The server took it once and doesn't any more, or its owner gave it up.
    Refused,
}

impl State {
    const ALL: [State; 5] = [State::Paying, State::Unpaid, State::Paid, State::Accepted, State::Refused];

    const fn name(self) -> &'static str {
        match self {
            State::Paying => "paying",
            State::Unpaid => "unpaid",
            State::Paid => "paid",
            State::Accepted => "accepted",
            State::Refused => "refused",
        }
    }
}

/// A token, bought or about to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) payment_hash: PaymentHash,
    pub(super) origin: String,
    pub(super) path: String,
    pub(super) scheme: Scheme,
    pub(super) macaroon: String,
    pub(super) invoice: String,
    pub(super) amount: Msat,
    pub(super) bought: UnixMs,
    pub(super) state: State,
    pub(super) preimage: Option<Preimage>,
}

impl Token {
    /// One that is about to be bought.
    pub(super) fn to_buy(offer: &Offer, origin: String, path: &str, now: UnixMs) -> Self {
        Self {
            payment_hash: offer.invoice.payment_hash,
            origin,
            path: path.to_owned(),
            scheme: offer.scheme,
            macaroon: offer.macaroon.clone(),
            invoice: offer.invoice.bolt11.clone(),
            amount: offer.invoice.amount,
            bought: now,
            state: State::Paying,
            preimage: None,
        }
    }

    /// Was this very invoice to be paid before for the same thing, and certainly was not?
    pub(super) fn is_unpaid_and_the_same(&self, other: &Self) -> bool {
        let same = (&self.origin, &self.path, &self.invoice) == (&other.origin, &other.path, &other.invoice);
        same && self.state == State::Unpaid
    }

    /// The `Authorization` header, once it is paid.
    pub(super) fn header(&self) -> Option<String> {
        let macaroon = Macaroon::from_base64(&self.macaroon).ok()?;
        Some(credentials_header(self.scheme, &macaroon, self.preimage.as_ref()?))
    }

    fn is_over(&self, now: UnixMs) -> bool {
        let macaroon = Macaroon::from_base64(&self.macaroon).ok();
        macaroon.is_none_or(|macaroon| challenge::ends(&macaroon).is_some_and(|end_s| end_s <= now.0 / 1_000))
    }
}

/// A download whose beginning is in its part file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Begun {
    pub(super) url: String,
    /// What the beginning is of.
    pub(super) validator: Option<String>,
    pub(super) total_bytes: Option<u64>,
}

/// The tokens and downloads of one user. One process at a time has it open.
#[derive(Debug)]
pub struct TokenStore(Database);

impl TokenStore {
    /// Opens the store in a folder, made if need be.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        Self::open_watched(folder, Arc::new(Unwatched))
    }

    /// With somebody who is told of every commit.
    pub fn open_watched(folder: &Path, observer: Arc<dyn CommitObserver>) -> Result<Self, StoreError> {
        Database::open(folder, NAME, SCHEMA, observer).map(Self)
    }

    /// Writes down a purchase before it is made. The same one may have been tried before, and not paid.
    pub(super) fn begin_purchase(&mut self, token: &Token) -> Result<(), StoreError> {
        self.0.write(|t| {
            t.execute(
                "INSERT INTO tokens (payment_hash, origin, path, scheme, macaroon, invoice, amount_msat, bought_ms, state)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
                 ON CONFLICT (payment_hash) DO UPDATE SET macaroon = ?5, bought_ms = ?8, state = ?9",
                params![
                    token.payment_hash.as_bytes(),
                    token.origin,
                    token.path,
                    token.scheme.name(),
                    token.macaroon,
                    token.invoice,
                    integer(token.amount.msat())?,
                    integer(token.bought.0)?,
                    State::Paying.name()
                ],
            )?;
            Ok(())
        })
    }

    /// Notes the proof of payment, and what the route took.
    pub(super) fn paid(
        &mut self,
        payment_hash: &PaymentHash,
        preimage: &Preimage,
        routing: Msat,
    ) -> Result<(), StoreError> {
        self.0.write(|t| {
            t.execute(
                "UPDATE tokens SET state = ?2, preimage = ?3, routing_msat = ?4
                 WHERE payment_hash = ?1 AND preimage IS NULL",
                params![payment_hash.as_bytes(), State::Paid.name(), preimage.as_bytes(), integer(routing.msat())?],
            )?;
            Ok(())
        })
    }

    /// Notes what has become of a token; its preimage stays.
    pub(super) fn set_state(&mut self, payment_hash: &PaymentHash, state: State) -> Result<(), StoreError> {
        self.0.write(|t| set_state(t, payment_hash, state))
    }

    /// One token.
    pub(super) fn token(&self, payment_hash: &PaymentHash) -> Result<Option<Token>, StoreError> {
        let sql = "SELECT * FROM tokens WHERE payment_hash = ?1";
        self.0.read().query_row(sql, [payment_hash.as_bytes()], |row| Ok(read(row))).optional()?.transpose()
    }

    /// Purchases at an origin whose end is not known.
    pub(super) fn unfinished(&self, origin: &str) -> Result<Vec<Token>, StoreError> {
        self.select(origin, |token| token.state == State::Paying)
    }

    /// Purchases anywhere whose end is not known.
    pub(super) fn all_unfinished(&self) -> Result<Vec<Token>, StoreError> {
        self.all("SELECT * FROM tokens WHERE state = ?1 ORDER BY bought_ms", State::Paying.name())
    }

    /// Tokens that an origin may take, the likeliest first: those bought for the path, then the youngest.
    pub(super) fn usable(&self, origin: &str, path: &str, now: UnixMs) -> Result<Vec<Token>, StoreError> {
        let mut tokens = self.select(origin, |token| match token.state {
            // One that was never taken stays, over or not: another is only bought if its owner says so.
            State::Paid => !token.is_over(now) || token.path == path,
            State::Accepted => !token.is_over(now),
            State::Paying | State::Unpaid | State::Refused => false,
        })?;
        tokens.sort_by_key(|token| (token.path != path, std::cmp::Reverse(token.bought)));
        Ok(tokens)
    }

    fn select(&self, origin: &str, keep: impl Fn(&Token) -> bool) -> Result<Vec<Token>, StoreError> {
        let mut tokens = self.all("SELECT * FROM tokens WHERE origin = ?1", origin)?;
        tokens.retain(keep);
        Ok(tokens)
    }

    /// The tokens that a query with one text in it finds.
    fn all(&self, query: &str, text: &str) -> Result<Vec<Token>, StoreError> {
        let mut statement = self.0.read().prepare(query)?;
        let mut rows = statement.query([text])?;
        let mut tokens = Vec::new();
        while let Some(row) = rows.next()? {
            tokens.push(read(row)?);
        }
        Ok(tokens)
    }

    /// The download into a file that is under way.
    pub(super) fn begun(&self, file: &Path) -> Result<Option<Begun>, StoreError> {
        let sql = "SELECT url, validator, total_bytes FROM downloads WHERE file = ?1";
        let row = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get::<_, Option<i64>>(2)?));
        let found = self.0.read().query_row(sql, [file.as_os_str().as_bytes()], row).optional()?;
        let Some((url, validator, total)) = found else { return Ok(None) };
        let total_bytes = total.map(unsigned).transpose()?;
        Ok(Some(Begun { url, validator, total_bytes }))
    }

    /// Notes what a file's beginning will be of, before its first byte is written.
    pub(super) fn begin_download(&mut self, file: &Path, begun: &Begun) -> Result<(), StoreError> {
        let total = begun.total_bytes.map(integer).transpose()?;
        self.0.write(|t| {
            t.execute(
                "INSERT OR REPLACE INTO downloads (file, url, validator, total_bytes) VALUES (?1, ?2, ?3, ?4)",
                params![file.as_os_str().as_bytes(), begun.url, begun.validator, total],
            )?;
            Ok(())
        })
    }

    /// Forgets a download that has ended.
    pub(super) fn end_download(&mut self, file: &Path) -> Result<(), StoreError> {
        self.0.write(|t| {
            t.execute("DELETE FROM downloads WHERE file = ?1", [file.as_os_str().as_bytes()])?;
            Ok(())
        })
    }
}

/// Something that was paid for, or may be any moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bought {
    /// Of the server.
    pub origin: String,
    /// What there.
    pub path: String,
    /// Its payment.
    pub payment_hash: PaymentHash,
    /// What the server gets.
    pub amount_msat: Msat,
    /// What nodes on the way got.
    pub routing_msat: Msat,
    /// Since when.
    pub bought_ms: UnixMs,
    /// Is it certain that it was paid?
    pub is_paid: bool,
}

/// Everything that was bought with the tokens of a folder, the oldest first, also while somebody has it open; nothing where there
/// is no store. What was certainly not paid is left out.
pub fn purchases(folder: &Path) -> Result<Vec<Bought>, StoreError> {
    if !folder.join(NAME).exists() {
        return Ok(Vec::new());
    }
    let db = Database::look(folder, NAME, SCHEMA.len() as u32)?;
    let version: u32 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let routing = if version < 2 { "0" } else { "routing_msat" };
    let query = format!(
        "SELECT origin, path, payment_hash, amount_msat, {routing}, bought_ms, preimage IS NOT NULL FROM tokens
         WHERE state <> 'unpaid' ORDER BY bought_ms, payment_hash"
    );
    let mut statement = db.prepare(&query)?;
    let mut rows = statement.query([])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        all.push(Bought {
            origin: row.get(0)?,
            path: row.get(1)?,
            payment_hash: PaymentHash::from_bytes(row.get(2)?),
            amount_msat: Msat::new(unsigned(row.get(3)?)?),
            routing_msat: Msat::new(unsigned(row.get(4)?)?),
            bought_ms: UnixMs(unsigned(row.get(5)?)?),
            is_paid: row.get(6)?,
        });
    }
    Ok(all)
}

fn set_state(t: &Transaction<'_>, payment_hash: &PaymentHash, state: State) -> Result<(), StoreError> {
    let sql = "UPDATE tokens SET state = ?2 WHERE payment_hash = ?1";
    t.execute(sql, params![payment_hash.as_bytes(), state.name()])?;
    Ok(())
}

fn read(row: &Row<'_>) -> Result<Token, StoreError> {
    let corrupt = || StoreError::Corrupt { what: "token" };
    let (hash, preimage): ([u8; 32], Option<[u8; 32]>) = (row.get("payment_hash")?, row.get("preimage")?);
    let (scheme, state): (String, String) = (row.get("scheme")?, row.get("state")?);
    Ok(Token {
        payment_hash: PaymentHash::from_bytes(hash),
        origin: row.get("origin")?,
        path: row.get("path")?,
        scheme: Scheme::named(&scheme).ok_or_else(corrupt)?,
        macaroon: row.get("macaroon")?,
        invoice: row.get("invoice")?,
        amount: Msat::new(unsigned(row.get("amount_msat")?)?),
        bought: UnixMs(unsigned(row.get("bought_ms")?)?),
        state: State::ALL.into_iter().find(|known| known.name() == state).ok_or_else(corrupt)?,
        preimage: preimage.map(Preimage::from_bytes),
    })
}

fn integer(value: u64) -> Result<i64, StoreError> {
    i64::try_from(value).map_err(|_| StoreError::Corrupt { what: "number" })
}

fn unsigned(value: i64) -> Result<u64, StoreError> {
    u64::try_from(value).map_err(|_| StoreError::Corrupt { what: "number" })
}
