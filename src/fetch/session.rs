//! One fetch from its first request to the finished file.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::challenge;
use super::download::{Download, Progress};
use super::error::FetchError;
use super::purchase::{Errand, PATIENCE, Purchase, pay_once};
use super::store::{State, Token, TokenStore};
use super::{FetchEvent, Fetched, Payment, Request, Standing, Unaccepted, Wallet};
use crate::clock::Clock;
use crate::http::client::web::{Reply, Wanted, WebClient, WebError, WebUrl};
use crate::ln::{Lightning, PaymentStatus};
use crate::protocol::amount::Msat;

/// Tokens of one origin that are tried before another is bought: each refusal costs the server an invoice.
const MAX_TOKENS_TRIED: usize = 3;
/// Tries in a row that bring little or nothing.
const TRIES: u32 = 6;
/// A try that brought so many bytes is followed by another one at once.
const PROGRESS_BYTES: u64 = 64 * 1_024;
/// Before the second try; doubled before each further one.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// The most before any try, whatever the server asks for.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// What fetching needs.
pub struct Session {
    store: TokenStore,
    wallet: Arc<dyn Wallet>,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("store", &self.store).finish_non_exhaustive()
    }
}

/// What the server gave.
enum Given {
    /// The content, or its rest.
    Content(Reply),
    /// There is nothing after what is here.
    Nothing,
    /// Challenges instead.
    Challenges(Vec<String>),
}

impl Session {
    /// With the tokens of one folder.
    pub fn new(store: TokenStore, wallet: Arc<dyn Wallet>, clock: Arc<dyn Clock>) -> Self {
        Self { store, wallet, clock }
    }

    /// What an earlier run has left for a URL.
    pub fn standing(&self, url: &WebUrl) -> Result<Standing, FetchError> {
        let is_for = |token: &Token| token.path == url.path();
        if self.store.unfinished(&url.origin())?.iter().any(is_for) {
            return Ok(Standing::Begun);
        }
        let tokens = self.store.usable(&url.origin(), url.path(), self.clock.now())?;
        Ok(if tokens.iter().any(is_for) { Standing::Bought } else { Standing::Nothing })
    }

    /// Downloads a resource, and pays for it at most once.
    pub async fn fetch(
        &mut self,
        request: &Request,
        mut tell: impl FnMut(FetchEvent) + Send,
    ) -> Result<Fetched, FetchError> {
        let mut download = Download::open(&mut self.store, request).await?;
        let resumed_from = download.have();
        if download.is_whole() {
            let bytes = download.finish(&mut self.store, request.digest).await?;
            return Ok(Fetched { bytes, resumed_from, payment: Payment::Free });
        }
        let client = WebClient::new(&request.url)?;
        self.end_unfinished(request, &mut tell).await?;
        let (mut payment, mut token) = (Payment::Free, None);
        let mut given = self.ask_with_tokens(&client, request, &mut download, &mut token).await?;
        if let Given::Challenges(challenges) = given {
            let (bought, paid) = self.buy(request, &challenges, &mut tell).await?;
            payment = paid;
            given = ask(&client, request, &mut download, bought.header().as_deref()).await?;
            if matches!(given, Given::Challenges(_)) {
                return Err(FetchError::PaidInVain { amount: bought.amount, payment_hash: bought.payment_hash });
            }
            token = Some(bought);
        } else if let Some(token) = &token {
            payment = Payment::Reused { payment_hash: token.payment_hash };
        }
        let accepted = |store: &mut TokenStore| match &token {
            Some(token) => store.set_state(&token.payment_hash, State::Accepted),
            None => Ok(()),
        };
        if request.digest.is_none() {
            accepted(&mut self.store)?;
        }
        let header = token.as_ref().and_then(Token::header);
        self.receive(&client, request, &mut download, given, header.as_deref(), &mut tell).await?;
        let bytes = download.finish(&mut self.store, request.digest).await?;
        accepted(&mut self.store)?;
        Ok(Fetched { bytes, resumed_from: resumed_from.min(bytes), payment })
    }

    /// Finds out what became of purchases that earlier runs did not see the end of, anywhere, and starts nothing. One that is still
    /// under way stays so.
    pub async fn look_up(&mut self) -> Result<(), FetchError> {
        for token in self.store.all_unfinished()? {
            match self.pay(&token, (Errand::LookUp, Msat::ZERO, Duration::ZERO), &mut |_| {}).await {
                Ok(_) | Err(FetchError::UnderWay(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Purchases that an earlier run did not see the end of: until that is known, nothing else is bought there.
    async fn end_unfinished(
        &mut self,
        request: &Request,
        tell: &mut (impl FnMut(FetchEvent) + Send),
    ) -> Result<(), FetchError> {
        for token in self.store.unfinished(&request.url.origin())? {
            if !request.shows(&token.path) {
                continue;
            }
            // What was allowed then need not be allowed or wanted now.
            let wanted = token.path == request.url.path() && token.amount <= request.max_price;
            let errand = if wanted { Errand::Pay } else { Errand::LookUp };
            self.pay(&token, (errand, request.max_routing_fee, PATIENCE), tell).await?;
        }
        Ok(())
    }

    /// Asks with the tokens that there are, or without one where there is none.
    async fn ask_with_tokens(
        &mut self,
        client: &WebClient,
        request: &Request,
        download: &mut Download,
        used: &mut Option<Token>,
    ) -> Result<Given, FetchError> {
        let path = request.url.path();
        let mut tokens = self.store.usable(&request.url.origin(), path, self.clock.now())?;
        tokens.retain(|token| request.shows(&token.path));
        let mut last = None;
        for token in tokens.into_iter().take(MAX_TOKENS_TRIED) {
            let given = ask(client, request, download, token.header().as_deref()).await?;
            let Given::Challenges(challenges) = given else {
                *used = Some(token);
                return Ok(given);
            };
            last = Some(challenges);
            // Another path's token may be good for that one all the same.
            if token.path == path {
                self.refused(&token, request)?;
            }
        }
        match last {
            Some(challenges) => Ok(Given::Challenges(challenges)),
            None => ask(client, request, download, None).await,
        }
    }

    /// A token for this very path isn't taken. Once it was: it has ended. Never: something is wrong, and buying another
    /// one would only add to the loss.
    fn refused(&mut self, token: &Token, request: &Request) -> Result<(), FetchError> {
        match (token.state, request.unaccepted) {
            (State::Paid, Unaccepted::Refuse) => {
                Err(FetchError::PaidInVain { amount: token.amount, payment_hash: token.payment_hash })
            }
            _ => Ok(self.store.set_state(&token.payment_hash, State::Refused)?),
        }
    }

    async fn buy(
        &mut self,
        request: &Request,
        challenges: &[String],
        tell: &mut (impl FnMut(FetchEvent) + Send),
    ) -> Result<(Token, Payment), FetchError> {
        let now = self.clock.now();
        let offer = challenge::check(challenges, request.max_price, now)?;
        let ln = self.wallet.open().await?;
        let (invoice, wallet) = (offer.invoice.network.to_string(), ln.info().await?.network);
        if invoice != wallet {
            return Err(FetchError::OtherNetwork { invoice, wallet });
        }
        let token = Token::to_buy(&offer, request.url.origin(), request.url.path(), now);
        self.begin(&*ln, &token).await?;
        tell(FetchEvent::Paying { amount: token.amount, payee: offer.invoice.payee_node_id });
        let routing_fee = match self.pay(&token, (Errand::Pay, request.max_routing_fee, PATIENCE), tell).await? {
            Purchase::Paid { routing_fee, .. } => routing_fee,
            Purchase::Unpaid { reason } => return Err(FetchError::NotPaid { reason }),
        };
        let payment = Payment::Bought { payment_hash: token.payment_hash, amount: token.amount, routing_fee };
        let stored = self.store.token(&token.payment_hash)?;
        Ok((stored.ok_or(crate::store::StoreError::Corrupt { what: "token" })?, payment))
    }

    /// Writes a purchase down. A payment hash that something else was paid with would make the books tell of one payment, or none.
    async fn begin(&mut self, ln: &dyn Lightning, token: &Token) -> Result<(), FetchError> {
        let is_untried = match ln.payment(token.payment_hash).await? {
            PaymentStatus::NotFound | PaymentStatus::Failed { .. } => true,
            PaymentStatus::InFlight | PaymentStatus::Succeeded { .. } => false,
            PaymentStatus::Unknown => return Err(FetchError::UnderWay(token.payment_hash)),
        };
        let known = self.store.token(&token.payment_hash)?;
        if !is_untried || known.is_some_and(|known| !known.is_unpaid_and_the_same(token)) {
            let message = "its invoice has the payment hash of another payment of this wallet";
            return Err(FetchError::Untrusted(message.into()));
        }
        Ok(self.store.begin_purchase(token)?)
    }

    /// Pays a purchase that is written down, or finds its end, and writes that down.
    async fn pay(
        &mut self,
        token: &Token,
        (errand, max_routing_fee, patience): (Errand, Msat, Duration),
        tell: &mut (impl FnMut(FetchEvent) + Send),
    ) -> Result<Purchase, FetchError> {
        let ln = self.wallet.open().await?;
        let purchase = pay_once(&*ln, &*self.clock, &token.invoice, errand, (max_routing_fee, patience)).await?;
        match &purchase {
            Purchase::Paid { preimage, routing_fee } => {
                self.store.paid(&token.payment_hash, preimage, *routing_fee)?;
                tell(FetchEvent::Paid { routing_fee: *routing_fee });
            }
            Purchase::Unpaid { .. } => self.store.set_state(&token.payment_hash, State::Unpaid)?,
        }
        Ok(purchase)
    }

    /// Receives the content, asking for the rest as often as it breaks off.
    async fn receive(
        &mut self,
        client: &WebClient,
        request: &Request,
        download: &mut Download,
        mut given: Given,
        header: Option<&str>,
        tell: &mut (impl FnMut(FetchEvent) + Send),
    ) -> Result<(), FetchError> {
        let (mut tries, mut wait) = (1, FIRST_WAIT);
        loop {
            let before = download.have();
            let reason = match given {
                Given::Nothing => return Ok(()),
                Given::Challenges(_) => return Err(FetchError::Expired { done_bytes: download.have() }),
                Given::Content(reply) => match download.take(&mut self.store, reply, tell).await? {
                    Progress::Whole => return Ok(()),
                    Progress::Broken(reason) => reason,
                },
            };
            if download.have().saturating_sub(before) >= PROGRESS_BYTES {
                (tries, wait) = (1, FIRST_WAIT);
            } else if tries >= TRIES {
                let host = request.url.origin();
                return Err(WebError::Broken { host, reason }.into());
            } else {
                tries += 1;
                sleep(wait).await;
                wait = (wait * 2).min(LONGEST_WAIT);
            }
            tell(FetchEvent::GoingOn { reason });
            given = ask(client, request, download, header).await?;
        }
    }
}

/// Asks until there is an answer that asking again won't change.
async fn ask(
    client: &WebClient,
    request: &Request,
    download: &mut Download,
    authorization: Option<&str>,
) -> Result<Given, FetchError> {
    let (mut tries, mut wait) = (1, FIRST_WAIT);
    loop {
        let answer = client.get(&request.url, Wanted { authorization, rest: download.rest() }).await;
        let (failed, asked_wait) = match answer {
            Ok(reply) => {
                let url = || request.url.as_str().to_owned();
                match reply.status().as_u16() {
                    200 => {
                        download.start_over();
                        return Ok(Given::Content(reply));
                    }
                    206 if download.rest().is_some() && reply.part().is_some() => {
                        return Ok(Given::Content(reply));
                    }
                    402 => return Ok(Given::Challenges(reply.challenges())),
                    // Nothing after what is here: either it is the whole, or the content is another by now.
                    416 if download.is_whole() => return Ok(Given::Nothing),
                    206 | 416 if download.have() > 0 => {
                        download.start_over();
                        (FetchError::Status { url: url(), status: reply.status().as_u16() }, Duration::ZERO)
                    }
                    300..=399 => {
                        let to = reply.location().unwrap_or_default().chars().take(500).collect();
                        return Err(FetchError::Moved { url: url(), to });
                    }
                    status @ (408 | 429 | 502..=504) => {
                        (FetchError::Status { url: url(), status }, reply.retry_after().unwrap_or_default())
                    }
                    status => return Err(FetchError::Status { url: url(), status }),
                }
            }
            Err(error) => (error.into(), Duration::ZERO),
        };
        if tries >= TRIES {
            return Err(failed);
        }
        tries += 1;
        sleep(wait.max(asked_wait).min(LONGEST_WAIT)).await;
        wait *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::super::WalletError;
    use super::*;
    use crate::clock::SystemClock;
    use crate::ln::simulated::{Faults, Network};
    use crate::ln::{InvoiceRequest, PayLimits};
    use crate::protocol::ids::{PaymentHash, Preimage, UnixMs};
    use crate::protocol::l402::Scheme;

    struct NoWallet;

    #[async_trait::async_trait]
    impl Wallet for NoWallet {
        async fn open(&self) -> Result<Arc<dyn Lightning>, WalletError> {
            unreachable!("nothing is paid here")
        }
    }

    fn token(payment_hash: PaymentHash, invoice: &str) -> Token {
        Token {
            payment_hash,
            origin: "http://shop".into(),
            path: "/package".into(),
            scheme: Scheme::L402,
            macaroon: "m".into(),
            invoice: invoice.into(),
            amount: Msat::new(1_000),
            bought: UnixMs(1),
            state: State::Paying,
            preimage: None,
        }
    }

    #[tokio::test]
    async fn one_payment_hash_is_one_purchase_and_never_another_ones() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = TokenStore::open(folder.path()).expect("opened");
        let mut session = Session::new(store, Arc::new(NoWallet), Arc::new(SystemClock));
        let network = Network::new(5, Faults::NONE);
        network.channel("buyer", "shop", Msat::new(50_000_000), Msat::ZERO);
        let buyer = network.node("buyer");

        // Tried in vain: the same invoice may be tried again, and counts as under way from then on; another one may not.
        let cheap = token(Preimage::from_bytes([7; 32]).payment_hash(), "lnbcrt1cheap");
        session.begin(&*buyer, &cheap).await.expect("new");
        assert!(session.begin(&*buyer, &cheap).await.is_err(), "it is under way");
        session.store.set_state(&cheap.payment_hash, State::Unpaid).expect("noted");
        let dear = Token { invoice: "lnbcrt1dear".into(), amount: Msat::new(100_000), ..cheap.clone() };
        assert!(matches!(session.begin(&*buyer, &dear).await, Err(FetchError::Untrusted(_))));
        assert_eq!(session.store.all_unfinished().expect("read"), []);
        session.begin(&*buyer, &Token { bought: UnixMs(9), ..cheap.clone() }).await.expect("again");
        let begun = session.store.all_unfinished().expect("read");
        assert_eq!((begun.len(), begun[0].bought, begun[0].amount), (1, UnixMs(9), cheap.amount));

        // What the wallet has paid for something else is no purchase.
        let request = InvoiceRequest { amount: Msat::new(1_000), description: "x".into(), expiry_s: 600 };
        let invoice = network.node("shop").create_invoice(&request).await.expect("made");
        let limits = PayLimits { max_fee: Msat::new(1_000), max_cltv_blocks: 1_008 };
        buyer.pay(&invoice.bolt11, limits).await.expect("paid");
        let paid = token(invoice.payment_hash, &invoice.bolt11);
        assert!(matches!(session.begin(&*buyer, &paid).await, Err(FetchError::Untrusted(_))));
    }
}
