//! `l402t regtest keep`: the process that stays.

use std::time::Duration;

use super::folder::{Folder, State};
use crate::cli::RegtestUpArgs;
use crate::cmd::{Answer, Context, Failure, interrupted};
use crate::localnet::{Funding, Network, Tools};

/// Of each balanced channel.
const CAPACITY_SAT: u64 = 10_000_000;

/// Coins that the coordinator's node has left for channels to others.
const SPARE_CHANNELS: u32 = 8;

/// How often it looks whether it is asked for something.
const LOOK: Duration = Duration::from_millis(200);

/// Runs the command: until it is told to stop.
pub(super) async fn run(args: &RegtestUpArgs, context: &Context, folder: Folder) -> Result<Answer, Failure> {
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
    let mut network = tokio::select! {
        network = starting => network?,
        // What has been started is dropped, and killed with that.
        () = context.stop.requested() => return Err(interrupted()),
    };
    kept.write_state(&State {
        btcd: network.btcd(),
        bridge: network.bridge(),
        nodes: network.nodes().cloned().collect(),
    })?;
    loop {
        tokio::select! {
            () = context.stop.requested() => break,
            () = tokio::time::sleep(LOOK) => {}
        }
        if kept.is_asked_to_revive() {
            let revived = tokio::select! {
                revived = network.revive() => revived,
                () = context.stop.requested() => break,
            };
            kept.has_revived(revived.err().map(|error| error.to_string()))?;
        }
    }
    network.stop();
    Ok(Answer::yes(serde_json::Value::Null))
}
