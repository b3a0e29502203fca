//! `l402t wallet`: what the embedded node holds, copies of it, and ways out for its money.

mod backup;
mod restore;
mod show;
mod spend;

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::node::for_owner;
use super::{Answer, Context, Failure};
use crate::cli::{WalletArgs, WalletCommand};
use crate::config::NodeKind;
use crate::ln::embedded::{EmbeddedNode, Recovery, Settings};
use crate::ln::regtest::RegtestChain;
use crate::ln::{Lightning, LnError};

/// Between two looks at what takes time.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Runs the command.
pub async fn run(args: WalletArgs, context: Context) -> Result<Answer, Failure> {
    context.log_to_stderr()?;
    match context.config.lightning.node {
        NodeKind::Embedded => {}
        NodeKind::Lnd => {
            let fix = "Use lncli, and LND's own backups; see docs/wallet.md";
            return Err(Failure::usage("wallet_of_lnd", "the configured node is an LND, which keeps the money", fix));
        }
    }
    let place = Place::find(&context)?;
    match args.command {
        WalletCommand::Show => show::run(&place, &context),
        WalletCommand::Words(args) => backup::words(&args, &place, &context),
        WalletCommand::Backup(args) => {
            let shared = context.clone();
            context.blocking(move || backup::run(&args, &place, &shared)).await
        }
        WalletCommand::Restore(args) => restore::run(&args, &place, &context).await,
        WalletCommand::Send(args) => spend::send(&args, &place, &context).await,
        WalletCommand::Close(args) => spend::close(&args, &place, &context).await,
    }
}

/// Where a wallet lies.
#[derive(Clone, Debug)]
struct Place {
    /// A coordinator's or a peer's data folder.
    data: PathBuf,
    /// The wallet's own in it.
    wallet: PathBuf,
}

impl Place {
    fn find(context: &Context) -> Result<Self, Failure> {
        let data = context.data_path("peer")?;
        Ok(Self { wallet: data.join("lightning"), data })
    }

    fn wallet(&self) -> &Path {
        &self.wallet
    }

    fn settings(&self, context: &Context) -> Result<(Settings, Option<RegtestChain>), Failure> {
        for_owner(&context.config.lightning, &self.data, &self.wallet)
    }
}

/// A wallet's node, started for one command, and its chain if nobody else runs that.
struct Started {
    node: EmbeddedNode,
    chain: Option<RegtestChain>,
}

impl Started {
    async fn start(place: &Place, context: &Context) -> Result<Self, Failure> {
        let (settings, chain) = place.settings(context)?;
        let node = EmbeddedNode::start(&settings, place.wallet()).await?;
        Ok(Self { node, chain })
    }

    async fn stop(self) {
        self.node.stop().await;
        if let Some(mut chain) = self.chain {
            chain.stop();
        }
    }
}

/// On the regtest chain no block comes by itself: coins from its faucet bring one.
async fn wait_for_blocks(recovery: &Recovery) {
    // There is no faucet on any other chain, where blocks come by themselves.
    recovery.node().ask_faucet_for_a_block().await.ok();
}

fn refused(error: LnError) -> Failure {
    match error {
        LnError::Unavailable(_) => Failure::payment("unavailable", error, "Try again when what it names is there"),
        LnError::Refused(_) | LnError::BadInvoice(_) | LnError::UnknownHash(_) | LnError::WrongPreimage(_) => {
            Failure::payment("refused", error, "See what the wallet holds with l402t wallet show")
        }
    }
}
