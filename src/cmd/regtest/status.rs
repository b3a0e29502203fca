//! `l402t regtest status`: heights, balances and channels.

use serde::Serialize;

use super::folder::{Folder, State};
use crate::cmd::{Context, ExitCode, Failure};
use crate::localnet::{LndChannel, LocalnetError, NodeAccess};
use crate::ui::{Align, Table};

/// What `status --json` prints.
#[derive(Debug, Serialize)]
struct Status {
    up: bool,
    /// Of btcd's best block.
    #[serde(skip_serializing_if = "Option::is_none")]
    height: Option<u32>,
    nodes: Vec<NodeStatus>,
}

#[derive(Debug, Serialize)]
struct NodeStatus {
    name: String,
    node_id: String,
    /// gRPC.
    rpc: String,
    /// Of the best block that it knows.
    height: u32,
    /// Confirmed coins.
    on_chain_sat: u64,
    channels: Vec<LndChannel>,
}

/// Runs the command; exit code 1 if nothing is up.
pub(super) async fn run(context: &Context, folder: &Folder) -> Result<ExitCode, Failure> {
    let state = if folder.keeper()?.is_some() { folder.state() } else { None };
    let Some(state) = state else {
        context.ui.line("no regtest is up; start one with: ./x regtest up");
        context.ui.json(&Status { up: false, height: None, nodes: Vec::new() });
        return Ok(ExitCode::Negative);
    };
    let status = ask(context, &state).await?;
    let mut table = Table::new(&[
        ("node", Align::Left),
        ("height", Align::Right),
        ("on chain sat", Align::Right),
        ("channels", Align::Right),
        ("usable", Align::Right),
        ("can send sat", Align::Right),
        ("can receive sat", Align::Right),
        ("locked", Align::Right),
    ]);
    for node in &status.nodes {
        let sum = |of: fn(&LndChannel) -> u64| node.channels.iter().map(of).sum::<u64>().to_string();
        table.row([
            node.name.clone(),
            node.height.to_string(),
            node.on_chain_sat.to_string(),
            node.channels.len().to_string(),
            node.channels.iter().filter(|channel| channel.active).count().to_string(),
            sum(|channel| channel.local_sat),
            sum(|channel| channel.remote_sat),
            sum(|channel| channel.pending_htlcs as u64),
        ]);
    }
    for line in table.lines() {
        context.ui.line(line);
    }
    if let Some(height) = status.height {
        context.ui.line(format!("btcd at height {height}; logs and data are in {}", folder.path().display()));
    }
    context.ui.json(&status);
    Ok(ExitCode::Ok)
}

async fn ask(context: &Context, state: &State) -> Result<Status, Failure> {
    let btcd = state.btcd.clone();
    let height = context.blocking(move || btcd.height().map_err(Failure::from)).await?;
    let mut nodes = Vec::new();
    for access in &state.nodes {
        nodes.push(ask_node(access).await?);
    }
    Ok(Status { up: true, height: Some(height), nodes })
}

async fn ask_node(access: &NodeAccess) -> Result<NodeStatus, LocalnetError> {
    let mut wallet = access.files.wallet().await?;
    Ok(NodeStatus {
        name: access.name.clone(),
        node_id: access.node_id.clone(),
        rpc: access.files.rpc.to_string(),
        height: wallet.height().await?,
        on_chain_sat: wallet.balance_sat().await?,
        channels: wallet.channels().await?,
    })
}
