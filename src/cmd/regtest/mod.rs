//! `l402t regtest`: a Bitcoin regtest with LND nodes, which stays up after the command has ended.
//!
//! A hidden command keeps it: a process of its own that mines, serves the chain to embedded nodes, and ends everything
//! when it ends itself, however that happens.

mod folder;
mod keep;
mod status;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde::Serialize;

use self::folder::{Folder, State};
use super::{Answer, Context, Failure, interrupted};
use crate::cli::{RegtestArgs, RegtestCommand, RegtestUpArgs};
use crate::cmd::demo::ground::{embedded_config, lnd_config};
use crate::localnet::{LocalnetError, Tools};
use crate::sys::{StopSignal, signal_group};

/// How long all of it may take to come up: a dozen nodes on a busy machine take minutes.
const UP_LIMIT: Duration = Duration::from_secs(10 * 60);

/// How long the nodes may take to end in order.
const DOWN_LIMIT: Duration = Duration::from_secs(60);

const POLL: Duration = Duration::from_millis(100);

/// The last lines of a log that say why its process ended.
const TAIL_LINES: usize = 5;

/// Runs the command.
pub async fn run(args: RegtestArgs, context: Context) -> Result<Answer, Failure> {
    let folder = Folder::at(&context.data_path("regtest")?)?;
    match args.command {
        RegtestCommand::Up(args) => up(&args, &context, &folder).await,
        RegtestCommand::Down => down(&context, &folder).await,
        RegtestCommand::Status => status::run(&context, &folder).await,
        RegtestCommand::Keep(args) => keep::run(&args, &context, folder).await,
    }
}

/// What `up --json` prints.
#[derive(Debug, Serialize)]
struct Up<'a> {
    /// Did it run before?
    already_up: bool,
    /// What had ended by itself since, and runs again.
    started_again: Vec<String>,
    #[serde(flatten)]
    state: &'a State,
}

async fn up(args: &RegtestUpArgs, context: &Context, folder: &Folder) -> Result<Answer, Failure> {
    let already_up = folder.keeper()?.is_some();
    let mut keeper = None;
    if !already_up {
        // Here already, so that a wrong folder is named before anything is started.
        Tools::in_folder(&args.tools)?;
        folder.make_fresh()?;
        context.ui.say(format!("starting btcd and {} LND nodes in {}", args.peers + 1, folder.path().display()));
        keeper = Some(start_keeper(args, folder)?);
    }
    let state = tokio::select! {
        state = wait_until_up(folder, keeper.as_mut()) => state,
        () = context.stop.requested() => Err(interrupted()),
    };
    if state.is_err() && keeper.is_some() {
        stop_keeper(folder).await?;
    }
    let state = state?;
    let mut started_again = Vec::new();
    if already_up {
        started_again = status::ended(context, folder, &state).await?;
        if started_again.iter().any(|name| name == status::CHAIN) {
            let message = "btcd has ended, and its chain with it: no node can go on";
            return Err(Failure::usage("regtest_chain_gone", message, "Begin anew: ./x regtest down, then up"));
        } else if started_again.is_empty() {
            context.ui.say("it is up already");
        } else {
            context.ui.say(format!("starting again what has ended: {}", started_again.join(", ")));
            tokio::select! {
                revived = revive(context, folder, &state) => revived?,
                () = context.stop.requested() => return Err(interrupted()),
            }
        }
    }
    show(context, folder, &state);
    Ok(Answer::yes(Up { already_up, started_again, state: &state }))
}

/// Has the keeper start again what has ended, and waits until all of it answers.
async fn revive(context: &Context, folder: &Folder, state: &State) -> Result<(), Failure> {
    let look =
        |text: String| Failure::usage("regtest_failed", text, "Look into its log, or begin anew: l402t regtest down");
    folder.ask_to_revive()?;
    for _ in 0..UP_LIMIT.as_millis() / POLL.as_millis() {
        if folder.keeper()?.is_none() {
            return Err(look(format!("the keeper has ended: {}", tail(&folder.log()))));
        }
        if !folder.is_asked_to_revive() {
            if let Some(why) = folder.not_revived() {
                return Err(look(why));
            }
            let silent = status::ended(context, folder, state).await?;
            return match silent.is_empty() {
                true => Ok(()),
                false => Err(look(format!("running, but without an answer: {}", silent.join(", ")))),
            };
        }
        tokio::time::sleep(POLL).await;
    }
    let message = format!("what has ended did not come up again within {} minutes", UP_LIMIT.as_secs() / 60);
    Err(Failure::usage("regtest_slow", message, format!("See the logs in {}", folder.path().display())))
}

/// Starts the process that stays: in a process group of its own, so that Ctrl-C here doesn't reach it.
fn start_keeper(args: &RegtestUpArgs, folder: &Folder) -> Result<Child, Failure> {
    use std::os::unix::process::CommandExt;
    let program = std::env::current_exe()
        .map_err(|error| Failure::bug(format_args!("this program's own path is unknown: {error}")))?;
    let log_path = folder.log();
    let log = std::fs::File::create(&log_path).map_err(|error| Failure::io("write", &log_path, &error))?;
    let mut command = Command::new(&program);
    command.args(["regtest", "keep", "--peers", &args.peers.to_string(), "--tools"]).arg(&args.tools);
    command.arg("--data").arg(folder.path());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
    command.spawn().map_err(|error| Failure::io("start", &program, &error))
}

async fn wait_until_up(folder: &Folder, mut keeper: Option<&mut Child>) -> Result<State, Failure> {
    for _ in 0..UP_LIMIT.as_millis() / POLL.as_millis() {
        if let Some(state) = folder.state() {
            return Ok(state);
        }
        let ended = match &mut keeper {
            Some(child) => !matches!(child.try_wait(), Ok(None)),
            None => folder.keeper()?.is_none(),
        };
        if ended {
            return Err(Failure::usage("regtest_failed", tail(&folder.log()), "Mend what it names, then run it again"));
        }
        tokio::time::sleep(POLL).await;
    }
    let message = format!("the regtest did not come up within {} minutes", UP_LIMIT.as_secs() / 60);
    Err(Failure::usage("regtest_slow", message, format!("See the logs in {}", folder.path().display())))
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join(" / ")
}

async fn down(context: &Context, folder: &Folder) -> Result<Answer, Failure> {
    let was_up = stop_keeper(folder).await?;
    folder.remove()?;
    context.ui.line(if was_up { "the regtest is down, and its folder is removed" } else { "no regtest is up" });
    Ok(Answer::yes(serde_json::json!({ "was_up": was_up })))
}

/// Ends the keeper, and with it all that it runs. True if there was one.
async fn stop_keeper(folder: &Folder) -> Result<bool, Failure> {
    if folder.keeper()?.is_none() {
        return Ok(false);
    }
    let mut signal = StopSignal::Terminate;
    for round in 0..2 * DOWN_LIMIT.as_millis() / POLL.as_millis() {
        // The lock says that the process still is the one that wrote its id.
        let Some(pid) = folder.keeper()? else { return Ok(true) };
        if round == DOWN_LIMIT.as_millis() / POLL.as_millis() {
            signal = StopSignal::Kill;
        }
        if pid != 0 && (round == 0 || signal == StopSignal::Kill) {
            signal_group(pid, signal).map_err(|error| Failure::io("stop the keeper of", folder.path(), &error))?;
        }
        tokio::time::sleep(POLL).await;
    }
    let message = format!("the processes of {} don't end", folder.path().display());
    Err(Failure::usage("regtest_stuck", message, "Look for btcd and lnd among the processes of this user"))
}

fn show(context: &Context, folder: &Folder, state: &State) {
    let ui = &context.ui;
    for node in &state.nodes {
        ui.line(format!("# {}: {}", node.name, node.node_id));
        ui.line(lnd_config(node));
    }
    if let Some(bridge) = &state.bridge {
        ui.line(format!("# an embedded node on the same chain\n{}", embedded_config(bridge)));
    }
    ui.line(format!("It stays up until `./x regtest down`; logs and data are in {}", folder.path().display()));
}

impl From<LocalnetError> for Failure {
    fn from(error: LocalnetError) -> Self {
        Failure::usage("localnet", error, "Mend what the message names, then start again")
    }
}
