//! One fetch from its first request to the finished file.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::challenge;
use super::download::{Download, Progress};
use super::error::FetchError;
use super::purchase::{Errand, Purchase, pay_once};
use super::store::{State, Token, TokenStore};
use super::{FetchEvent, Fetched, Payment, Request, Standing, Unaccepted, Wallet};
use crate::clock::Clock;
use crate::http::client::web::{Reply, Wanted, WebClient, WebError, WebUrl};

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
        if let Some(begun) = self.store.unfinished(&url.origin())?.iter().find(|token| is_for(token)) {
            return Ok(Standing::Begun(begun.amount));
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
            let bytes = download.finish(&mut self.store).await?;
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
        if let Some(token) = &token {
            self.store.set_state(&token.payment_hash, State::Accepted)?;
        }
        let header = token.as_ref().and_then(Token::header);
        self.receive(&client, request, &mut download, given, header.as_deref(), &mut tell).await?;
        let bytes = download.finish(&mut self.store).await?;
        Ok(Fetched { bytes, resumed_from: resumed_from.min(bytes), payment })
    }

    /// Finds out what became of purchases for other paths that an earlier run did not see the end of, and starts nothing.
    pub async fn look_up_others(&mut self, request: &Request) -> Result<(), FetchError> {
        for token in self.store.unfinished(&request.url.origin())? {
            if token.path != request.url.path() {
                self.pay(&token, Errand::LookUp, request, &mut |_| {}).await?;
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
            self.pay(&token, errand, request, tell).await?;
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
        self.store.begin_purchase(&token)?;
        tell(FetchEvent::Paying { amount: token.amount, payee: offer.invoice.payee_node_id });
        let routing_fee = match self.pay(&token, Errand::Pay, request, tell).await? {
            Purchase::Paid { routing_fee, .. } => routing_fee,
            Purchase::Unpaid { reason } => return Err(FetchError::NotPaid { reason }),
        };
        let payment = Payment::Bought { payment_hash: token.payment_hash, amount: token.amount, routing_fee };
        let stored = self.store.token(&token.payment_hash)?;
        Ok((stored.ok_or(crate::store::StoreError::Corrupt { what: "token" })?, payment))
    }

    /// Pays a purchase that is written down, or finds its end, and writes that down.
    async fn pay(
        &mut self,
        token: &Token,
        errand: Errand,
        request: &Request,
        tell: &mut (impl FnMut(FetchEvent) + Send),
    ) -> Result<Purchase, FetchError> {
        let ln = self.wallet.open().await?;
        let purchase = pay_once(&*ln, &*self.clock, &token.invoice, errand, request.max_routing_fee).await?;
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
