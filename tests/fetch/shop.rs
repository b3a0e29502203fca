//! A server that sells one file by L402, a buyer with a wallet, and what the two have done.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use l402t::clock::{Clock, ManualClock};
use l402t::fetch::{FetchError, Fetched, Request, Session, TokenStore, Tokens, Unaccepted, Wallet, WalletError};
use l402t::http::client::web::WebUrl;
use l402t::ln::simulated::{Faults, Network};
use l402t::ln::{InvoiceRequest, InvoiceStatus, Lightning};
use l402t::protocol::amount::Msat;
use l402t::protocol::ids::UnixMs;
use l402t::protocol::l402::{Credentials, Identifier, Macaroon, TokenId};
use l402t::store::database::CommitObserver;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::fuse::{Fuse, FusedLightning};

pub(crate) const PRICE: Msat = Msat::new(7_000);
const ROOT_KEY: [u8; 32] = [0x22; 32];

/// How the server behaves. Every field may change while it serves.
#[derive(Clone, Debug)]
pub(crate) struct Manner {
    pub(crate) content: Vec<u8>,
    pub(crate) etag: Option<&'static str>,
    /// Hangs up after so many bytes of a body.
    pub(crate) cut_after: Option<usize>,
    /// For how long a token is good, in seconds.
    pub(crate) valid_s: u64,
    /// Takes no token after so many requests.
    pub(crate) ends_after: Option<usize>,
    /// Takes no token at all.
    pub(crate) takes_none: bool,
    /// Asks for nothing.
    pub(crate) free: bool,
    pub(crate) challenge: Challenge,
}

/// What the server writes into its challenges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// As Aperture does: LSAT first, then L402.
    Both,
    OnlyLsat,
    /// An invoice for another payment hash than the macaroon's.
    OtherInvoice,
    NoAmount,
    Nonsense,
}

pub(crate) struct Shop {
    pub(crate) url: String,
    pub(crate) manner: Arc<Mutex<Manner>>,
    /// The heads of all requests, in lower case.
    pub(crate) heads: Arc<Mutex<Vec<String>>>,
    pub(crate) invoices: Arc<AtomicUsize>,
    pub(crate) network: Network,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) folder: tempfile::TempDir,
}

/// BOLT 11's example of an invoice without an amount, on mainnet.
const DONATION: &str = "lnbc1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdpl2pkx2ctnv5sxxmmwwd5kgetjypeh2ursdae8g6twvus8g6rfwvs8qun0dfjkxaq9qrsgq357wnc5r2ueh7ck6q93dj32dlqnls087fxdwk8qakdyafkq3yap9us6v52vjjsrvywa6rt52cm9r9zqt8r2t7mlcwspyetp5h2tztugp9lfyql";

impl Shop {
    pub(crate) async fn open() -> Self {
        let clock = Arc::new(ManualClock::new(UnixMs(1_800_000_000_000)));
        let network = Network::with_clock(3, Faults::NONE, clock.clone());
        network.channel("buyer", "shop", Msat::new(50_000_000), Msat::ZERO);
        let manner = Manner {
            content: (0..300_000u32).map(|i| (i % 251) as u8).collect(),
            etag: Some("\"one\""),
            cut_after: None,
            valid_s: 3_600,
            ends_after: None,
            takes_none: false,
            free: false,
            challenge: Challenge::Both,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/data.bin", listener.local_addr().expect("an address"));
        let shop = Self {
            url,
            manner: Arc::new(Mutex::new(manner)),
            heads: Arc::default(),
            invoices: Arc::default(),
            network,
            clock,
            folder: tempfile::tempdir().expect("a folder"),
        };
        let till = Till {
            manner: shop.manner.clone(),
            heads: shop.heads.clone(),
            invoices: shop.invoices.clone(),
            ln: shop.network.node("shop"),
            clock: shop.clock.clone(),
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let till = till.clone();
                tokio::spawn(async move { till.serve(stream).await });
            }
        });
        shop
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Manner)) {
        change(&mut self.manner.lock().expect("unpoisoned"));
    }

    pub(crate) fn content(&self) -> Vec<u8> {
        self.manner.lock().expect("unpoisoned").content.clone()
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.heads.lock().expect("unpoisoned").clone()
    }

    /// What the shop has been paid so far.
    pub(crate) fn spent(&self) -> Msat {
        self.network.balance("shop")
    }

    pub(crate) fn output(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn request(&self, name: &str) -> Request {
        self.request_for(&self.url, name)
    }

    pub(crate) fn request_for(&self, url: &str, name: &str) -> Request {
        Request {
            url: WebUrl::parse(url).expect("a URL"),
            output: self.output(name),
            max_price: PRICE,
            max_routing_fee: Msat::new(1_000),
            max_bytes: 1 << 30,
            digest: None,
            unaccepted: Unaccepted::Refuse,
            tokens: Tokens::OfOrigin,
        }
    }

    /// Fetches as a new process would.
    pub(crate) async fn fetch(&self, request: &Request) -> Result<Fetched, FetchError> {
        self.fetch_watched(request, &Fuse::never()).await
    }

    /// Fetches as a process that dies when the fuse blows: `None`.
    pub(crate) async fn fetch_until(&self, request: &Request, fuse: &Arc<Fuse>) -> Option<Fetched> {
        let blown = async {
            while !fuse.is_blown() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            fetched = self.fetch_watched(request, fuse) => fetched.ok(),
            () = blown => None,
        }
    }

    /// A new process's.
    pub(crate) fn session(&self) -> Session {
        self.session_of(&Fuse::never()).expect("opened")
    }

    async fn fetch_watched(&self, request: &Request, fuse: &Arc<Fuse>) -> Result<Fetched, FetchError> {
        self.session_of(fuse)?.fetch(request, |_| {}).await
    }

    fn session_of(&self, fuse: &Arc<Fuse>) -> Result<Session, FetchError> {
        let watched = Arc::clone(fuse) as Arc<dyn CommitObserver>;
        let store = TokenStore::open_watched(&self.folder.path().join("tokens"), watched)?;
        let ln: Arc<dyn Lightning> =
            Arc::new(FusedLightning { node: self.network.node("buyer"), fuse: Arc::clone(fuse) });
        let clock: Arc<dyn Clock> = self.clock.clone();
        Ok(Session::new(store, Arc::new(Purse(ln)), clock))
    }
}

struct Purse(Arc<dyn Lightning>);

#[async_trait]
impl Wallet for Purse {
    async fn open(&self) -> Result<Arc<dyn Lightning>, WalletError> {
        Ok(self.0.clone())
    }
}

#[derive(Clone)]
struct Till {
    manner: Arc<Mutex<Manner>>,
    heads: Arc<Mutex<Vec<String>>>,
    invoices: Arc<AtomicUsize>,
    ln: Arc<dyn Lightning>,
    clock: Arc<ManualClock>,
}

static NEXT_TOKEN: AtomicU64 = AtomicU64::new(1);

impl Till {
    async fn serve(&self, mut stream: TcpStream) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_buf(&mut head).await {
                Ok(1..) => {}
                _ => return,
            }
        }
        let head = String::from_utf8(head).expect("text");
        self.heads.lock().expect("unpoisoned").push(head.to_ascii_lowercase());
        let manner = self.manner.lock().expect("unpoisoned").clone();
        let header = |name: &str| {
            let mut lines = head.split("\r\n").filter_map(|line| line.split_once(": "));
            lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
        };
        let answer = match header("authorization") {
            _ if manner.free => content(&manner, header("range"), header("if-range")),
            Some(value) if self.takes(&manner, &value).await => content(&manner, header("range"), header("if-range")),
            _ => self.ask_for_payment(&manner).await,
        };
        let _ = stream.write_all(&answer).await;
    }

    async fn takes(&self, manner: &Manner, authorization: &str) -> bool {
        let Ok(credentials) = Credentials::parse(authorization) else { return false };
        let text = authorization.split_once(' ').and_then(|(_, rest)| rest.split_once(':')).expect("parsed").0;
        let macaroon = Macaroon::from_base64(text).expect("parsed");
        let settled = self.ln.invoice(credentials.payment_hash()).await;
        let ends = macaroon.caveats().find_map(|caveat| {
            std::str::from_utf8(caveat).ok()?.strip_prefix("shop_valid_until=")?.parse::<u64>().ok()
        });
        let asked = self.heads.lock().expect("unpoisoned").len();
        !manner.takes_none
            && manner.ends_after.is_none_or(|most| asked <= most)
            && macaroon.is_signed_by(&ROOT_KEY)
            && matches!(settled, Ok(InvoiceStatus::Settled { .. }))
            && ends.is_some_and(|ends| self.clock.now().0 / 1_000 < ends)
    }

    async fn ask_for_payment(&self, manner: &Manner) -> Vec<u8> {
        let mut hashes = Vec::new();
        for _ in 0..2 {
            let request = InvoiceRequest { amount: PRICE, description: "a file".into(), expiry_s: 600 };
            hashes.push(self.ln.create_invoice(&request).await.expect("made"));
            if manner.challenge != Challenge::OtherInvoice {
                break;
            }
        }
        self.invoices.fetch_add(1, Ordering::SeqCst);
        let mut token_id = [0; 32];
        token_id[..8].copy_from_slice(&NEXT_TOKEN.fetch_add(1, Ordering::SeqCst).to_be_bytes());
        let identifier = Identifier { payment_hash: hashes[0].payment_hash, token_id: TokenId::from_bytes(token_id) };
        let ends = self.clock.now().0 / 1_000 + manner.valid_s;
        let macaroon = Macaroon::new(&ROOT_KEY, &identifier.to_bytes(), "lsat")
            .with_caveat("services=shop:0")
            .with_caveat("shop_capabilities=read")
            .with_caveat(&format!("shop_valid_until={ends}"))
            .to_base64();
        let invoice = match manner.challenge {
            Challenge::NoAmount => DONATION,
            Challenge::Both | Challenge::OnlyLsat | Challenge::OtherInvoice | Challenge::Nonsense => {
                &hashes[hashes.len() - 1].bolt11
            }
        };
        let params = format!("macaroon=\"{macaroon}\", invoice=\"{invoice}\"");
        let challenges = match manner.challenge {
            Challenge::OnlyLsat => format!("WWW-Authenticate: LSAT {params}\r\n"),
            Challenge::Nonsense => "WWW-Authenticate: L402 macaroon=\"AAAA\", invoice=\"lnbcrt1\"\r\n".to_owned(),
            Challenge::Both | Challenge::OtherInvoice | Challenge::NoAmount => {
                format!("WWW-Authenticate: LSAT {params}\r\nWWW-Authenticate: L402 {params}\r\n")
            }
        };
        let head =
            format!("HTTP/1.1 402 Payment Required\r\n{challenges}Content-Length: 0\r\nConnection: close\r\n\r\n");
        head.into_bytes()
    }
}

fn content(manner: &Manner, range: Option<String>, if_range: Option<String>) -> Vec<u8> {
    let all = &manner.content;
    let same = if_range.as_deref() == manner.etag;
    let from = range.filter(|_| same).and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let (status, first) = match from {
        Some(first) if first >= all.len() => {
            let head = format!("HTTP/1.1 416 No\r\nContent-Range: bytes */{}\r\n", all.len());
            return format!("{head}Content-Length: 0\r\nConnection: close\r\n\r\n").into_bytes();
        }
        Some(first) => (format!("206 Part\r\nContent-Range: bytes {first}-{}/{}", all.len() - 1, all.len()), first),
        None => ("200 OK".to_owned(), 0),
    };
    let etag = manner.etag.map(|etag| format!("ETag: {etag}\r\n")).unwrap_or_default();
    let body = &all[first..];
    let head = format!("HTTP/1.1 {status}\r\n{etag}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let sent = manner.cut_after.map_or(body, |most| &body[..most.min(body.len())]);
    [head.as_bytes(), sent].concat()
}
