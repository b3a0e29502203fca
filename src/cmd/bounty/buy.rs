//! A bounty's package: downloaded, and paid for by L402 where it has a price.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use serde::Serialize;

use super::super::fetch::Teller;
use super::super::{Context, Failure, interrupted};
use super::approve::{Approve, Asking, Order, Quote};
use super::claimed::Note;
use super::desk::{Bench, Workplace};
use super::list::plain;
use crate::bounty::package;
use crate::clock::SystemClock;
use crate::fetch::{
    FetchError, Fetched, Payment, Request, Session, Standing, TokenStore, Tokens, Unaccepted, Wallet, WalletError,
};
use crate::http::client::CoordinatorClient;
use crate::http::client::web::WebUrl;
use crate::ln::Lightning;
use crate::peer::NotWorthIt;
use crate::peer::error::PeerError;
use crate::peer::folder::{DataFolder, packages_in};
use crate::peer::package::Purchase;
use crate::peer::spending::routing_cap;
use crate::protocol::amount::Msat;
use crate::protocol::api::{BountyPhase, BountyView};
use crate::protocol::ids::{Blake3Hash, PaymentHash};

/// How a package was paid for.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Paid {
    /// `free`, `reused` or `bought`.
    token: &'static str,
    payment_hash: Option<PaymentHash>,
    /// To the coordinator, now.
    paid_msat: Msat,
    /// To nodes on the way.
    routing_msat: Msat,
}

impl Paid {
    fn of(payment: &Payment) -> Self {
        let (token, payment_hash, paid_msat, routing_msat) = match *payment {
            Payment::Free => ("free", None, Msat::ZERO, Msat::ZERO),
            Payment::Reused { payment_hash } => ("reused", Some(payment_hash), Msat::ZERO, Msat::ZERO),
            Payment::Bought { payment_hash, amount, routing_fee } => {
                ("bought", Some(payment_hash), amount, routing_fee)
            }
        };
        Self { token, payment_hash, paid_msat, routing_msat }
    }
}

/// The wallet, once it is open: until then nothing is paid.
#[derive(Debug, Default)]
struct Later(OnceLock<Arc<dyn Lightning>>);

#[async_trait]
impl Wallet for Later {
    async fn open(&self) -> Result<Arc<dyn Lightning>, WalletError> {
        let closed = || WalletError {
            code: "wallet_closed".into(),
            message: "the wallet is not open".into(),
            fix: "Start it again".into(),
        };
        self.0.get().cloned().ok_or_else(closed)
    }
}

/// Who gets a package, and where from.
pub(super) struct Buyer<'a> {
    pub(super) context: &'a Context,
    pub(super) client: &'a CoordinatorClient,
    pub(super) data: PathBuf,
    pub(super) view: &'a BountyView,
    pub(super) note: &'a Note,
    pub(super) unaccepted: Unaccepted,
    pub(super) approve: &'a dyn Approve,
}

impl Buyer<'_> {
    /// The package's bytes, which are what the sponsor signed. A token that was bought is used until it ends.
    pub(super) async fn get(&self) -> Result<(Vec<u8>, Paid), Failure> {
        let hash = self.view.manifest.body.posting.body.package;
        let place = packages_in(&self.data);
        let store = TokenStore::open(&place).map_err(FetchError::from)?;
        let path = place.join(hash.to_string());
        // One that was downloaded before its claim was interrupted.
        let payment = match read(&path, hash)? {
            Some(_) => Payment::Free,
            None => self.fetch(store, path.clone()).await?.payment,
        };
        let Some(bytes) = read(&path, hash)? else {
            let message = "the package is not the one that the sponsor has signed".to_owned();
            return Err(PeerError::Untrusted(message).into());
        };
        // From here on it is downloaded again, for nothing.
        std::fs::remove_file(&path).map_err(|error| Failure::io("remove", &path, &error))?;
        Ok((bytes, Paid::of(&payment)))
    }

    async fn fetch(&self, store: TokenStore, output: PathBuf) -> Result<Fetched, Failure> {
        let price = self.view.package_fee_msat;
        let mut request = Request {
            url: WebUrl::parse(&self.client.package_url(self.view.bounty)).map_err(FetchError::from)?,
            output,
            max_price: price,
            max_routing_fee: routing_cap(price),
            max_bytes: package::MOST_BYTES,
            unaccepted: self.unaccepted,
            tokens: Tokens::OfPath,
        };
        let wallet = Arc::new(Later::default());
        let mut session = Session::new(store, wallet.clone(), Arc::new(SystemClock));
        let standing = session.standing(&request.url)?;
        let needs_no_wallet = match standing {
            Standing::Bought => true,
            Standing::Nothing => price == Msat::ZERO,
            Standing::Begun(_) => false,
        };
        if needs_no_wallet {
            let nothing_more = Request { max_price: Msat::ZERO, ..request.clone() };
            match self.download(&mut session, &nothing_more).await? {
                // The token has ended.
                Err(FetchError::TooExpensive { .. }) if price > Msat::ZERO => {}
                ended => return ended.map_err(|error| failed(error, price)),
            }
        }
        let purchase = match standing {
            // What was agreed to before is all that may be paid now.
            Standing::Begun(agreed) => {
                (request.max_price, request.max_routing_fee) = (agreed, routing_cap(agreed));
                Purchase::Begun
            }
            Standing::Nothing | Standing::Bought if self.view.phase == BountyPhase::Open => Purchase::New(price),
            Standing::Nothing | Standing::Bought => {
                return Err(PeerError::from(NotWorthIt::NotOpen(self.view.phase)).into());
            }
        };
        let quote = Quote {
            bounty: self.view.bounty,
            title: plain(&self.note.manifest.body.posting.body.title),
            coordinator: self.client.url().to_owned(),
            fee_msat: price,
            order: Order::Package,
        };
        let asking = Asking { approve: self.approve, quote };
        let workplace = Workplace {
            context: self.context,
            client: self.client,
            bounty: self.view.bounty,
            folder: DataFolder::open(&self.data)?,
        };
        let (session, request) = (&mut session, &request);
        let work = async |bench: Bench| {
            wallet.0.get_or_init(|| bench.parts.ln.clone());
            let submitter = bench.submitter(self.note).await?;
            let buy = async {
                session.look_up_others(request).await?;
                let mut teller = Teller::new(&self.context.ui);
                session.fetch(request, |event| teller.tell(&event)).await
            };
            submitter.buy_package(purchase, &asking, buy).await
        };
        let lightning = async |client: &CoordinatorClient| Ok(client.bounty(self.view.bounty).await?.lightning);
        workplace.work(work, lightning).await?.map_err(|error| failed(error, request.max_price))
    }

    /// Without a wallet: nothing can be paid.
    async fn download(&self, session: &mut Session, request: &Request) -> Result<Result<Fetched, FetchError>, Failure> {
        let mut teller = Teller::new(&self.context.ui);
        tokio::select! {
            ended = session.fetch(request, |event| teller.tell(&event)) => Ok(ended),
            () = self.context.stop.requested() => Err(interrupted()),
        }
    }
}

/// What a failed download means where the price is known.
fn failed(error: FetchError, price: Msat) -> Failure {
    match error {
        FetchError::TooExpensive { asked, .. } => {
            PeerError::Untrusted(format!("it says that the package costs {price}, and asks for {asked}")).into()
        }
        error => error.into(),
    }
}

/// The file's bytes, if they have that hash. Others are removed.
fn read(path: &std::path::Path, hash: Blake3Hash) -> Result<Option<Vec<u8>>, Failure> {
    match std::fs::read(path) {
        Ok(bytes) if Blake3Hash::of(&bytes) == hash => Ok(Some(bytes)),
        Ok(_) => match std::fs::remove_file(path) {
            Ok(()) => Ok(None),
            Err(error) => Err(Failure::io("remove", path, &error)),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::io("read", path, &error)),
    }
}
