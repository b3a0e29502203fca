//! `l402t fetch`: the wallet that pays, and what is told while it goes on.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use serde::Serialize;
use tokio::sync::Mutex;

use super::node::Node;
use super::{Answer, Context, ExitCode, Failure, interrupted};
use crate::cli::FetchArgs;
use crate::clock::SystemClock;
use crate::config::NodeKind;
use crate::fetch::{
    Blame, FetchError, FetchEvent, Fetched, Payment, Request, Session, TokenStore, Tokens, Unaccepted, Wallet,
    WalletError,
};
use crate::http::client::web::WebUrl;
use crate::http::client::{ClientError, CoordinatorClient};
use crate::ln::Lightning;
use crate::peer::folder::DataFolder;
use crate::protocol::amount::Msat;
use crate::protocol::api::LightningView;
use crate::protocol::ids::PaymentHash;
use crate::ui::{Progress, Ui, Unit};

/// Where tokens are, in the data folder.
pub(super) const FOLDER: &str = "fetch";
/// What a coordinator says that has bounties only.
const NO_TRAINING: &str = "no_training";
/// The most bytes of a download.
const MOST_BYTES: u64 = 1 << 40;

/// With `--json`, the result.
#[derive(Debug, Serialize)]
struct Report<'a> {
    url: &'a str,
    file: &'a PathBuf,
    bytes: u64,
    /// How many of them an earlier run had brought.
    resumed_from: u64,
    #[serde(flatten)]
    paid: Paid,
}

/// How a download was paid for.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Paid {
    /// `free`, `reused`, `bought`; `kept` where an earlier run had downloaded a package.
    token: &'static str,
    payment_hash: Option<PaymentHash>,
    /// To the server, now.
    paid_msat: Msat,
    /// To nodes on the way.
    routing_msat: Msat,
}

impl Paid {
    pub(super) const KEPT: Self =
        Self { token: "kept", payment_hash: None, paid_msat: Msat::ZERO, routing_msat: Msat::ZERO };

    pub(super) fn of(payment: &Payment) -> Self {
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

/// Runs the command.
pub async fn run(args: FetchArgs, context: Context) -> Result<Answer, Failure> {
    let data = context.open_data("peer")?;
    let url = WebUrl::parse(&args.url).map_err(FetchError::from)?;
    let output = match (&args.output, url.file_name()) {
        (Some(output), _) => output.clone(),
        (None, Some(name)) => PathBuf::from(name),
        (None, None) => {
            let message = format!("{} does not end in a file's name", url.as_str());
            return Err(Failure::usage("no_file_name", message, "Name the file with --output FILE"));
        }
    };
    let limits = &context.config.fetch;
    let request = Request {
        url,
        output,
        max_price: sat(args.max_price.unwrap_or(limits.max_price_sat))?,
        max_routing_fee: sat(limits.max_routing_fee_sat)?,
        max_bytes: MOST_BYTES,
        digest: None,
        tokens: Tokens::OfOrigin,
        unaccepted: if args.pay_again { Unaccepted::PayAgain } else { Unaccepted::Refuse },
    };
    let store = TokenStore::open(&data.join(FOLDER)).map_err(FetchError::from)?;
    let wallet = Arc::new(PeersWallet { context: context.clone(), data, node: Mutex::new(None) });
    let mut session = Session::new(store, wallet.clone(), Arc::new(SystemClock));
    let mut teller = Teller::new(&context.ui);
    let ended = tokio::select! {
        ended = session.fetch(&request, |event| teller.tell(&event)) => ended.map_err(Failure::from),
        () = context.stop.requested() => Err(interrupted()),
    };
    // Whatever happened, the node's state is flushed.
    wallet.close().await;
    drop(teller);
    Ok(report(&context.ui, &request, &ended?))
}

fn sat(amount: u64) -> Result<Msat, Failure> {
    let msat = amount.checked_mul(1_000).map(Msat::new).filter(|msat| *msat <= Msat::MAX_MONEY);
    msat.ok_or_else(|| Failure::usage("amount", format!("{amount} sat will never exist"), "Allow less"))
}

fn report(ui: &Ui, request: &Request, fetched: &Fetched) -> Answer {
    let how = match fetched.payment {
        Payment::Free => "for nothing".to_owned(),
        Payment::Reused { .. } => "with a token bought before".to_owned(),
        Payment::Bought { amount, routing_fee, .. } => format!("for {amount} and {routing_fee} of routing fees"),
    };
    ui.line(format!("{}: {} bytes, {how}", request.output.display(), fetched.bytes));
    Answer::yes(Report {
        url: request.url.as_str(),
        file: &request.output,
        bytes: fetched.bytes,
        resumed_from: fetched.resumed_from,
        paid: Paid::of(&fetched.payment),
    })
}

/// Tells people on stderr.
pub(super) struct Teller {
    ui: Ui,
    bar: Option<Progress>,
}

impl Teller {
    pub(super) fn new(ui: &Ui) -> Self {
        Self { ui: ui.clone(), bar: None }
    }

    pub(super) fn tell(&mut self, event: &FetchEvent) {
        match event {
            FetchEvent::Paying { amount, payee } => self.ui.say(format!("paying {amount} to node {payee}")),
            FetchEvent::Paid { routing_fee } => self.ui.say(format!("paid, {routing_fee} in routing fees")),
            FetchEvent::GoingOn { reason } => self.ui.say(format!("{reason}; going on")),
            FetchEvent::Progress { done_bytes, total_bytes: Some(total) } => {
                let ui = &self.ui;
                let bar = self.bar.get_or_insert_with(|| ui.progress("downloading", *total, Unit::Bytes));
                bar.set(*done_bytes, "");
            }
            FetchEvent::Progress { total_bytes: None, .. } => {}
        }
    }
}

/// The configured node: by default the embedded one in the peer's data folder.
struct PeersWallet {
    context: Context,
    data: PathBuf,
    node: Mutex<Option<(Node, DataFolder)>>,
}

impl PeersWallet {
    async fn start(&self) -> Result<(Node, DataFolder), Failure> {
        // A running peer has its wallet open.
        let folder = DataFolder::open(&self.data)?;
        let config = &self.context.config;
        // An embedded peer's node follows its coordinator's chain, where no other one is configured.
        let view = match (config.lightning.node, &config.lightning.chain, &config.peer.coordinator) {
            (NodeKind::Embedded, None, Some(url)) => {
                let client = CoordinatorClient::new(url).map_err(no_coordinator)?;
                Some(lightning_of(&client).await.map_err(no_coordinator)?)
            }
            (NodeKind::Embedded | NodeKind::Lnd, _, _) => None,
        };
        let node = Node::of_wallet(&self.context, view.as_ref(), &folder.lightning()).await?;
        Ok((node, folder))
    }

    async fn close(&self) {
        if let Some((node, _folder)) = self.node.lock().await.take() {
            node.stop().await;
        }
    }
}

/// A coordinator's node, whatever it has work for.
async fn lightning_of(client: &CoordinatorClient) -> Result<LightningView, ClientError> {
    match client.run().await {
        Ok(run) => Ok(run.lightning),
        Err(ClientError::Refused { error, .. }) if error.code == NO_TRAINING => Ok(client.bounties().await?.lightning),
        Err(error) => Err(error),
    }
}

fn no_coordinator(error: ClientError) -> Failure {
    let fix = "Start the coordinator, or name a chain under [lightning.chain] in the configuration";
    Failure::payment("no_chain", format!("the wallet follows its coordinator's chain, but {error}"), fix)
}

#[async_trait]
impl Wallet for PeersWallet {
    async fn open(&self) -> Result<Arc<dyn Lightning>, WalletError> {
        let mut node = self.node.lock().await;
        if node.is_none() {
            let started = self.start().await;
            *node = Some(started.map_err(|Failure { code, message, fix, .. }| WalletError { code, message, fix })?);
        }
        match &*node {
            Some((node, _)) => Ok(node.ln.clone()),
            None => Err(WalletError { code: "bug".into(), message: "no node".into(), fix: "Report this".into() }),
        }
    }
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        let exit = match error.blame() {
            Blame::Local => ExitCode::Usage,
            Blame::Remote => ExitCode::Remote,
            Blame::Payment => ExitCode::Payment,
        };
        Failure::new(exit, error.code(), &error, error.fix())
    }
}
