//! A bounty's package, sold by L402: what its agents get before they can submit.
//!
//! Nobody has to say who they are, so a token is its bearer's: good for this package until the bounty is over, as often as it is
//! asked for. Once the bounty has closed the package is everybody's, since an auditor needs it.

use super::super::challenges::{Awaited, CHALLENGE_MS, INVOICES_AT_ONCE, InvoiceWatch};
use super::super::core::{Core, Record};
use super::super::engine::Shared;
use super::super::error::{CoordinatorError, refusal};
use super::super::handle::{Challenge, PackageAnswer, PackageFile, Refusal};
use crate::ln::InvoiceRequest;
use crate::protocol::amount::Msat;
use crate::protocol::api::BountyPhase;
use crate::protocol::ids::UnixMs;
use crate::protocol::ids::{DAY_MS, RoundNumber};
use crate::protocol::l402::{Credentials, Goods, TokenError, verify};
use crate::protocol::round::Account;
use crate::store::coordinator::{self as tables, SaleRow};
use crate::store::ledger;

/// Sales that may be paid at one time: each costs the node an invoice, and nobody has said who they are.
const MOST_OPEN: u32 = 1_000;
/// For so long an invoice keeps its place whoever else comes.
const PLACE_MS: u64 = 20_000;
/// A token is good for so long after the last commitment: a download may begin with it while the last round is judged.
const TOKEN_MARGIN_MS: u64 = DAY_MS;

/// What a package costs where it is sold for that.
pub(super) fn fee_of_package(phase: BountyPhase, price: Msat) -> Msat {
    match phase {
        BountyPhase::AwaitingEscrow | BountyPhase::Checking | BountyPhase::Open | BountyPhase::Closing => price,
        BountyPhase::Closed | BountyPhase::Refused => Msat::ZERO,
    }
}

fn busy() -> Refusal {
    let message = format!("{MOST_OPEN} invoices for this package wait to be paid");
    refusal(503, "busy", message, "Try again in half a minute")
}

impl Shared {
    /// Gives the package to whoever has paid for it, or needn't.
    pub(super) async fn give_package(&self, credentials: Option<String>) -> Result<PackageAnswer, CoordinatorError> {
        let phase = self.read(|core| Ok(core.bounty_state()?.escrow.phase)).await?;
        if fee_of_package(phase, self.options.package_fee) == Msat::ZERO {
            return self.package_file().await;
        }
        let refused = match credentials {
            None => None,
            Some(header) => match self.paid_for_package(&header).await? {
                Ok(()) => return self.package_file().await,
                Err(refused) => Some(refused),
            },
        };
        if phase != BountyPhase::Open {
            let message = "the bounty takes no submissions now, and its package is not sold";
            let fix = "Look for another: l402t bounty list";
            return Err(refusal(409, "bounty_not_open", message, fix).into());
        }
        self.sell_package(refused).await
    }

    async fn package_file(&self) -> Result<PackageAnswer, CoordinatorError> {
        let file = |core: &Core| {
            let hash = core.run.bounty_task()?.posting().package;
            let path = core.blobs.path(&hash);
            Ok(PackageAnswer::File(PackageFile { path, hash }))
        };
        self.read(file).await
    }

    async fn sell_package(&self, refused: Option<TokenError>) -> Result<PackageAnswer, CoordinatorError> {
        let task = self.run.bounty_task()?;
        self.make_room().await?;
        let bounty = task.posting().bounty_id();
        let request = InvoiceRequest {
            amount: self.options.package_fee,
            description: format!("l402t package of bounty {bounty}"),
            expiry_s: (CHALLENGE_MS / 1_000) as u32,
        };
        let expires_ms = self.clock.now().plus_ms(CHALLENGE_MS);
        let invoice = self.ln.create_invoice(&request).await?;
        let hash = invoice.payment_hash;
        self.with(move |core| Ok(core.db.write(|t| tables::insert_sale(t, &hash, expires_ms))?)).await?;
        let valid_until_s = task.posting().rules.deadline_ms.plus_ms(TOKEN_MARGIN_MS).0 / 1_000;
        let minted = self.mint(hash, Goods::Package(bounty), valid_until_s);
        let challenge = Challenge { macaroon: minted.macaroon, invoice: invoice.bolt11, refused };
        Ok(PackageAnswer::PaymentRequired(challenge))
    }

    /// Where too many wait to be paid, the oldest gives way once whoever asked for it has had time to pay.
    async fn make_room(&self) -> Result<(), CoordinatorError> {
        let oldest = self.read(|core| Ok(tables::oldest_sale_of(core.db.read(), MOST_OPEN)?)).await?;
        let Some(sale) = oldest else { return Ok(()) };
        let until = sale.expires_ms.0.saturating_sub(CHALLENGE_MS) + PLACE_MS;
        if self.clock.now().0 < until {
            return Err(busy().into());
        }
        match self.awaited(sale.payment_hash, UnixMs(0)).await? {
            Awaited::Paid(amount) => self.with(move |core| core.book_sale(&sale, amount)).await,
            Awaited::Over => self.forget_sale(sale).await,
            // It is being paid.
            Awaited::Open => Err(busy().into()),
        }
    }

    async fn forget_sale(&self, sale: SaleRow) -> Result<(), CoordinatorError> {
        self.with(move |core| Ok(core.db.write(|t| tables::forget_sale(t, &sale.payment_hash))?)).await
    }

    /// Checks credentials down to the node's word that the price has arrived, and books it.
    async fn paid_for_package(&self, header: &str) -> Result<Result<(), TokenError>, CoordinatorError> {
        let credentials = match Credentials::parse(header) {
            Ok(credentials) => credentials,
            Err(refused) => return Ok(Err(refused)),
        };
        let root_key = self.run.secret.root_key(&credentials.token_id());
        let goods = Goods::Package(self.run.bounty_task()?.posting().bounty_id());
        let hash = match verify(&credentials, &root_key, self.clock.now().0 / 1_000, goods) {
            Ok(hash) => hash,
            Err(refused) => return Ok(Err(refused)),
        };
        let Some(sale) = self.read(move |core| Ok(tables::sale(core.db.read(), &hash)?)).await? else {
            return Ok(Err(TokenError::Unknown(credentials.token_id())));
        };
        if sale.is_paid {
            return Ok(Ok(()));
        }
        match self.arrived(hash).await? {
            Some(amount) => Ok(Ok(self.with(move |core| core.book_sale(&sale, amount)).await?)),
            None => Ok(Err(TokenError::Unpaid(hash))),
        }
    }

    /// Books packages that were paid for without being asked for again, and gives up those that weren't paid.
    pub(in super::super) async fn watch_sales(&self) -> Result<(), CoordinatorError> {
        if self.run.bounty().is_none() {
            return Ok(());
        }
        for sale in self.with(Core::sales_to_look_at).await? {
            self.look_at_sale(sale).await?;
        }
        Ok(())
    }

    /// The same for every open sale, however many there are.
    pub(in super::super) async fn look_at_all_sales(&self) -> Result<(), CoordinatorError> {
        let all = |core: &mut Core| Ok(tables::open_sales(core.db.read(), &InvoiceWatch::START, u32::MAX)?);
        for sale in self.with(all).await? {
            self.look_at_sale(sale).await?;
        }
        Ok(())
    }

    async fn look_at_sale(&self, sale: SaleRow) -> Result<(), CoordinatorError> {
        match self.awaited(sale.payment_hash, sale.expires_ms).await? {
            Awaited::Paid(amount) => self.with(move |core| core.book_sale(&sale, amount)).await,
            Awaited::Open => Ok(()),
            Awaited::Over => self.forget_sale(sale).await,
        }
    }
}

impl Core {
    /// The next open sales to ask the node about; none where it is to be left alone.
    fn sales_to_look_at(&mut self) -> Result<Vec<SaleRow>, CoordinatorError> {
        let now_ms = self.clock.uptime_ms();
        let Some(from) = self.sales.from(now_ms) else { return Ok(Vec::new()) };
        let sales = tables::open_sales(self.db.read(), &from, INVOICES_AT_ONCE)?;
        self.sales.goes_on(sales.len(), sales.last().map(|sale| sale.payment_hash), now_ms);
        Ok(sales)
    }

    /// Books what was paid for a package, once.
    fn book_sale(&mut self, sale: &SaleRow, amount: Msat) -> Result<(), CoordinatorError> {
        let (now, payment_hash) = (self.clock.now(), sale.payment_hash);
        let is_booked = |sale: Option<SaleRow>| sale.is_none_or(|sale| sale.is_paid);
        if is_booked(tables::sale(self.db.read(), &payment_hash)?) {
            return Ok(());
        }
        let round = self.rounds.keys().next_back().copied().unwrap_or(RoundNumber(0));
        self.db.write(|t| {
            let event = Record::PackageSold { payment_hash }.append(t, now)?;
            ledger::post(t, event, round, (Account::Packages, Account::Wallet), amount)?;
            tables::set_sale_paid(t, &payment_hash)
        })?;
        Ok(())
    }
}
