//! `l402t regtest keep`: the process that stays.

use super::folder::{Folder, State};
use crate::cli::RegtestUpArgs;
use crate::cmd::{Context, ExitCode, Failure, interrupted};
use crate::localnet::{Funding, Network, Tools};

/// Of each balanced channel.
const CAPACITY_SAT: u64 = 10_000_000;

/// Coins that the coordinator's node has left for channels to others.
const SPARE_CHANNELS: u32 = 8;

/// Runs the command: until it is told to stop.
pub(super) async fn run(args: &RegtestUpArgs, context: &Context, folder: Folder) -> Result<ExitCode, Failure> {
    context.log_to_stderr()?;
    let kept = folder.keep()?;
    let tools = Tools::in_folder(&args.tools)?;
    let names: Vec<String> = (1..=args.peers).map(|number| format!("peer-{number}")).collect();
    let mut all = vec!["coordinator"];
    all.extend(names.iter().map(String::as_str));
    let funding = Funding { channels: args.peers.saturating_add(SPARE_CHANNELS), capacity_sat: CAPACITY_SAT };
    let starting = async {
        let network = Network::start(&tools, kept.path(), &all, funding).await?;
        network.open_balanced_channels(CAPACITY_SAT).await?;
        Ok::<_, Failure>(network)
    };
    let network = tokio::select! {
        network = starting => network?,
        // What has been started is dropped, and killed with that.
        () = context.stop.requested() => return Err(interrupted()),
    };
    kept.write_state(&State {
        btcd: network.btcd(),
        bridge: network.bridge(),
        nodes: network.nodes().cloned().collect(),
    })?;
    context.stop.requested().await;
    network.stop();
    Ok(ExitCode::Ok)
}
