//! A bounty's package: downloaded, and paid for by L402 where it has a price.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

use super::super::fetch::{Paid, Teller};
use super::super::{Context, Failure, interrupted};
use super::approve::{Approve, Asking, Order, Quote};
use super::claimed::Note;
use super::desk::{Bench, Workplace};
use super::list::plain;
use crate::bounty::package;
use crate::clock::SystemClock;
use crate::fetch::{
    Bought, FetchError, Fetched, Request, Session, Standing, TokenStore, Tokens, Unaccepted, Wallet, WalletError,
    purchases,
};
use crate::http::client::CoordinatorClient;
use crate::http::client::web::WebUrl;
use crate::ln::Lightning;
use crate::peer::NotWorthIt;
use crate::peer::error::PeerError;
use crate::peer::folder::{DataFolder, packages_in};
use crate::peer::session::PeerParts;
use crate::peer::spending::routing_cap;
use crate::peer::submit::Submitter;
use crate::protocol::amount::Msat;
use crate::protocol::api::{BountyPhase, BountyView};
use crate::store::StoreError;

/// The wallet where it is open; elsewhere nothing is paid.
struct Purse(Option<Arc<dyn Lightning>>);

#[async_trait]
impl Wallet for Purse {
    async fn open(&self) -> Result<Arc<dyn Lightning>, WalletError> {
        let closed = || WalletError {
            code: "wallet_closed".into(),
            message: "the wallet is not open".into(),
            fix: "Start it again".into(),
        };
        self.0.clone().ok_or_else(closed)
    }
}

/// With the tokens that were bought for packages. One process at a time has them.
fn session(packages: &Path, ln: Option<Arc<dyn Lightning>>) -> Result<Session, StoreError> {
    Ok(Session::new(TokenStore::open(packages)?, Arc::new(Purse(ln)), Arc::new(SystemClock)))
}

/// Who gets a package, and where from.
pub(super) struct Buyer<'a> {
    pub(super) context: &'a Context,
    pub(super) client: &'a CoordinatorClient,
    pub(super) data: PathBuf,
    pub(super) view: &'a BountyView,
    pub(super) note: &'a Note,
    /// The most that it may cost, if somebody has said so.
    pub(super) max_price: Option<Msat>,
    pub(super) unaccepted: Unaccepted,
    pub(super) approve: &'a dyn Approve,
}

impl Buyer<'_> {
    /// The package's bytes. A token that was bought is used until it ends.
    pub(super) async fn get(&self) -> Result<(Vec<u8>, Paid), Failure> {
        let path = packages_in(&self.data).join(self.view.manifest.body.posting.body.package.to_string());
        // One that an interrupted claim had downloaded is what it has to be: no other gets this name.
        let paid = if path.exists() { Paid::KEPT } else { Paid::of(&self.fetch(path.clone()).await?.payment) };
        let bytes = std::fs::read(&path).map_err(|error| Failure::io("read", &path, &error))?;
        // From here on it is downloaded again, for nothing.
        std::fs::remove_file(&path).map_err(|error| Failure::io("remove", &path, &error))?;
        Ok((bytes, paid))
    }

    async fn fetch(&self, output: PathBuf) -> Result<Fetched, Failure> {
        let price = self.view.package_fee_msat;
        let request = Request {
            url: WebUrl::parse(&self.client.package_url(self.view.bounty)).map_err(FetchError::from)?,
            output,
            max_price: price,
            max_routing_fee: routing_cap(price),
            max_bytes: package::MOST_BYTES,
            digest: Some(self.view.manifest.body.posting.body.package),
            unaccepted: self.unaccepted,
            tokens: Tokens::OfPath,
        };
        let packages = packages_in(&self.data);
        let mut closed = session(&packages, None).map_err(FetchError::from)?;
        if closed.standing(&request.url)? != Standing::Begun {
            let got = tokio::select! {
                got = self.for_nothing(&mut closed, &request) => got,
                () = self.context.stop.requested() => return Err(interrupted()),
            };
            if let Some(fetched) = got.map_err(|error| failed(error, price))? {
                return Ok(fetched);
            }
        }
        drop(closed);
        let workplace = Workplace {
            context: self.context,
            client: self.client,
            bounty: self.view.bounty,
            folder: DataFolder::open(&self.data)?,
        };
        let work = async |bench: Bench| {
            let mut open = session(&packages, Some(bench.parts.ln.clone()))?;
            let submitter = bench.submitter(self.note).await?;
            submitter.guarded(self.buy(&mut open, &request, &submitter)).await
        };
        let lightning = async |client: &CoordinatorClient| Ok(client.bounty(self.view.bounty).await?.lightning);
        workplace.work(work, lightning).await?.map_err(|error| failed(error, price))
    }

    /// With a token that was bought before, or none where nothing is asked for; `None` where it has to be bought. Where a purchase
    /// was begun, its end is waited for.
    async fn for_nothing(&self, session: &mut Session, request: &Request) -> Result<Option<Fetched>, FetchError> {
        let is_free = request.max_price == Msat::ZERO;
        if !is_free && session.standing(&request.url)? == Standing::Nothing {
            return Ok(None);
        }
        let nothing_more = Request { max_price: Msat::ZERO, ..request.clone() };
        let mut teller = Teller::new(&self.context.ui);
        match session.fetch(&nothing_more, |event| teller.tell(&event)).await {
            // The token has ended.
            Err(FetchError::TooExpensive { .. }) if !is_free => Ok(None),
            ended => ended.map(Some),
        }
    }

    /// First of all what became of earlier payments is found out. Only then something new is paid for, within all limits.
    async fn buy(
        &self,
        session: &mut Session,
        request: &Request,
        submitter: &Submitter,
    ) -> Result<Result<Fetched, FetchError>, PeerError> {
        match self.for_nothing(session, request).await {
            Ok(None) => {}
            Ok(Some(fetched)) => return Ok(Ok(fetched)),
            Err(error) => return Ok(Err(error)),
        }
        if self.view.phase != BountyPhase::Open {
            return Err(NotWorthIt::NotOpen(self.view.phase).into());
        }
        if let Some(most) = self.max_price
            && request.max_price > most
        {
            return Ok(Err(FetchError::TooExpensive { asked: request.max_price, most }));
        }
        let quote = Quote {
            bounty: self.view.bounty,
            title: plain(&self.note.manifest.body.posting.body.title),
            coordinator: self.client.url().to_owned(),
            fee_msat: request.max_price,
            order: Order::Package,
        };
        submitter.ready_to_buy(request.max_price, &Asking { approve: self.approve, quote }).await?;
        let mut teller = Teller::new(&self.context.ui);
        Ok(session.fetch(request, |event| teller.tell(&event)).await)
    }
}

/// Finds out what became of payments for packages that earlier runs did not see the end of: until then they count as spent.
pub(super) async fn look_up(parts: &PeerParts) -> Result<(), PeerError> {
    let place = parts.folder.packages();
    let is_open = |bought: &Bought| !bought.is_paid;
    if !purchases(&place)?.iter().any(is_open) {
        return Ok(());
    }
    let looked = match session(&place, Some(parts.ln.clone())) {
        Ok(mut session) => session.look_up().await,
        Err(error) => Err(error.into()),
    };
    if let Err(error) = looked {
        // It only keeps them counting.
        tracing::warn!(%error, "what became of earlier payments for packages is not known");
    }
    Ok(())
}

/// What a failed download means where the price is known.
fn failed(error: FetchError, price: Msat) -> Failure {
    match error {
        FetchError::TooExpensive { asked, most } if most == price => {
            PeerError::Untrusted(format!("it says that the package costs {price}, and asks for {asked}")).into()
        }
        error => error.into(),
    }
}
