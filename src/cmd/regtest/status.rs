//! `l402t regtest status`: heights, balances and channels.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::folder::{Folder, State};
use crate::cmd::{Answer, Context, Failure};
use crate::localnet::{LndChannel, LocalnetError, NodeAccess};
use crate::ui::{Align, Table};

/// What btcd is called here.
pub(super) const CHAIN: &str = "btcd";

/// What starts it, and what has ended of it.
const UP: &str = "./x regtest up";

/// How long one node may take to answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// What `status --json` prints.
#[derive(Debug, Serialize)]
struct Status {
    /// Does everything run?
    up: bool,
    /// Of btcd's best block, if it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    height: Option<u32>,
    nodes: Vec<NodeStatus>,
    /// What has ended or doesn't answer.
    ended: Vec<Ended>,
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

/// Something that does not answer.
#[derive(Debug, Serialize)]
struct Ended {
    name: String,
    /// What it wrote.
    log: PathBuf,
    why: String,
}

/// Runs the command; exit code 1 if nothing is up, or something of it has ended.
pub(super) async fn run(context: &Context, folder: &Folder) -> Result<Answer, Failure> {
    let state = if folder.keeper()?.is_some() { folder.state() } else { None };
    let Some(state) = state else {
        context.ui.line("no regtest is up; start one with: ./x regtest up");
        let status = Status { up: false, height: None, nodes: Vec::new(), ended: Vec::new() };
        return Ok(Answer::no(status, Failure::negative("regtest_down", "no regtest is up", UP)));
    };
    let status = ask(context, folder, &state).await?;
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
    for Ended { name, log, why } in &status.ended {
        context.ui.line(format!("{name} has ended or does not answer ({why}); its log is {}", log.display()));
    }
    if !status.up {
        context.ui.line("Bring back what has ended with: ./x regtest up");
    }
    if status.up {
        return Ok(Answer::yes(status));
    }
    let names: Vec<&str> = status.ended.iter().map(|ended| ended.name.as_str()).collect();
    let message = format!("has ended or does not answer: {}", names.join(", "));
    Ok(Answer::no(&status, Failure::negative("regtest_ended", message, UP)))
}

/// The names of what has ended or does not answer.
pub(super) async fn ended(context: &Context, folder: &Folder, state: &State) -> Result<Vec<String>, Failure> {
    Ok(ask(context, folder, state).await?.ended.into_iter().map(|ended| ended.name).collect())
}

async fn ask(context: &Context, folder: &Folder, state: &State) -> Result<Status, Failure> {
    let btcd = state.btcd.clone();
    let (mut nodes, mut ended) = (Vec::new(), Vec::new());
    let height = match context.blocking(move || Ok(btcd.height())).await? {
        Ok(height) => Some(height),
        Err(error) => {
            ended.push(Ended { name: CHAIN.into(), log: folder.btcd_log(), why: error.to_string() });
            None
        }
    };
    for access in &state.nodes {
        let asked = tokio::time::timeout(PATIENCE, ask_node(access)).await;
        let why = match asked {
            Ok(Ok(node)) => {
                nodes.push(node);
                continue;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
        };
        ended.push(Ended { name: access.name.clone(), log: access.files.log.clone(), why });
    }
    Ok(Status { up: ended.is_empty(), height, nodes, ended })
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
