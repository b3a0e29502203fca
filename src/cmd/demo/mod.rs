//! `l402t demo`: a coordinator, three honest peers, one that sends garbage and one that copies, each a process of its own
//! with its own data folder and its own Lightning node; then an audit of every round.

mod bounties;
mod folder;
#[cfg(feature = "lnd")]
pub(super) mod ground;
#[cfg(not(feature = "lnd"))]
#[path = "no_ground.rs"]
mod ground;
mod members;
mod summary;
mod watch;

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use self::folder::DemoFolder;
use self::ground::Ground;
use self::members::{MemberEvent, MemberId, Members};
use self::summary::{Books, RunFacts, Summary};
use self::watch::Watch;
use super::{Answer, Context, ExitCode, Failure, interrupted};
use crate::cli::DemoArgs;
use crate::clock::Stopwatch;
use crate::protocol::manifest::RunManifest;
use crate::protocol::sign::Signed;
use crate::protocol::transcript::Transcript;
use crate::ui::Ui;

/// The peers: name, and what they contribute. The copy takes over the first one's payloads.
const PEERS: [(&str, Role); 5] = [
    ("ada", Role::Honest),
    ("ben", Role::Honest),
    ("cho", Role::Honest),
    ("gus", Role::Garbage),
    ("kit", Role::CopyOfFirst),
];

const COORDINATOR: &str = "coordinator";

/// How long the whole demo may take before it is stopped as stuck.
const TIME_LIMIT: Duration = Duration::from_secs(20 * 60);

/// How often memory is measured.
const MEMORY_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Honest,
    Garbage,
    CopyOfFirst,
}

/// Runs the command.
pub async fn run(args: DemoArgs, context: Context) -> Result<Answer, Failure> {
    context.log_to_stderr()?;
    let folder = DemoFolder::create(&context.data_path("demo")?)?;
    let mut ground = Ground::none();
    let mut members = Members::new();
    let playing = async {
        Ok(if args.bounties {
            Played::Bounties(bounties::play(&context.ui, &folder, &mut members).await?)
        } else {
            Played::Training(play(&args, &context, &folder, &mut ground, &mut members).await?)
        })
    };
    let outcome = tokio::select! {
        outcome = playing => outcome,
        () = context.stop.requested() => Err(interrupted()),
        () = tokio::time::sleep(TIME_LIMIT) => Err(Failure::bug(format_args!(
            "the demo did not end within {} minutes; see the logs in {}", TIME_LIMIT.as_secs() / 60, folder.path().display()
        ))),
    };
    members.stop().await;
    ground.kill();
    let keep = args.keep || matches!(&outcome, Err(failure) if failure.exit != ExitCode::Interrupted);
    if keep {
        context.ui.say(format!("The data folders and logs are in {}", folder.path().display()));
    } else {
        folder.remove()?;
    }
    Ok(match outcome? {
        Played::Training(summary) if summary.as_it_should_be() => Answer::yes(summary).flat(),
        Played::Bounties(summary) if summary.as_it_should_be() => Answer::yes(summary).flat(),
        Played::Training(summary) => Answer::no(summary, not_as_it_should_be()).flat(),
        Played::Bounties(summary) => Answer::no(summary, not_as_it_should_be()).flat(),
    })
}

fn not_as_it_should_be() -> Failure {
    let fix = "See which check of the summary failed, and run it again with --keep for the logs";
    Failure::negative("demo_failed", "the demo did not come out as it should", fix)
}

/// What came of a demo.
enum Played {
    Training(Summary),
    Bounties(bounties::Summary),
}

async fn play(
    args: &DemoArgs,
    context: &Context,
    folder: &DemoFolder,
    ground: &mut Ground,
    members: &mut Members,
) -> Result<Summary, Failure> {
    let ui = &context.ui;
    let time = Stopwatch::start();
    *ground = Ground::start(args, folder, ui).await?;
    members.count_memory_of(ground.pids());
    let mut watch = Watch::new(ui, args.rounds);
    let Started { coordinator, url, lightning } = start_coordinator(args, folder, ground, members).await?;
    ui.say(format!("The coordinator serves {url}"));
    for (name, role) in PEERS {
        let config = folder.write(&format!("{name}.toml"), ground.config_of(name).as_bytes())?;
        members.start(name, folder.path(), &peer_arguments(name, role, folder, &config, &url))?;
    }
    run_rounds(members, coordinator, PEERS.len(), &mut watch).await?;

    let data = folder.of(COORDINATOR);
    let manifest: Signed<RunManifest> = read_statement(&data.join("manifest.json"))?;
    let transcripts = (0..args.rounds)
        .map(|round| {
            read_statement::<Transcript>(&data.join(format!("transcripts/{round}.json"))).map(|signed| signed.body)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let facts = RunFacts {
        dense_bytes: 4 * folder.parameters()?,
        predicted_per_window: u64::from(manifest.body.held_out.window_tokens.saturating_sub(1)),
        lightning: ground.described(lightning),
    };
    let mut books = Books::new(watch.into_reports());
    let audit = ui.progress("replay", u64::from(args.rounds), crate::ui::Unit::Count);
    for round in 0..args.rounds {
        let (identical, answer) = call(&["replay", &round.to_string(), "--from", &url, "--json"]).await?;
        if !identical {
            ui.say(format!("round {round} does not replay: {answer}"));
        }
        books.replayed(identical);
        audit.set(u64::from(round) + 1, if identical { "identical" } else { "DIFFERENT" });
    }
    members.stop_one(coordinator).await;
    books.coordinator_ledger(ledger_of(folder, COORDINATOR).await?);
    for (name, _) in PEERS {
        books.peer_ledger(name, ledger_of(folder, name).await?);
        if let Some(msat) = ground.spendable_msat(name).await? {
            books.exact_outbound(name, msat);
        }
    }
    let summary = books.summary(&facts, &transcripts, time.elapsed());
    show(ui, &books.table(&facts, &transcripts), &summary);
    Ok(summary)
}

/// A coordinator that serves.
struct Started {
    coordinator: MemberId,
    url: String,
    lightning: String,
}

async fn start_coordinator(
    args: &DemoArgs,
    folder: &DemoFolder,
    ground: &Ground,
    members: &mut Members,
) -> Result<Started, Failure> {
    let config = coordinator_config(args, folder) + &ground.config_of(COORDINATOR);
    let config = folder.write("coordinator.toml", config.as_bytes())?;
    let arguments = strings(&[
        "coordinate",
        "--json",
        "--config",
        &config.display().to_string(),
        "--data",
        &folder.of(COORDINATOR).display().to_string(),
    ]);
    let id = members.start(COORDINATOR, folder.path(), &arguments)?;
    let event = listening(members, id).await?;
    let text = |name| event.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(Started { coordinator: id, url: text("url"), lightning: text("lightning") })
}

/// Waits until a coordinator serves, and says where.
async fn wait_for_url(members: &mut Members, id: MemberId) -> Result<String, Failure> {
    let event = listening(members, id).await?;
    Ok(event.get("url").and_then(Value::as_str).unwrap_or_default().to_owned())
}

/// Why a process ended, where its last line says so.
fn failure_in(event: &Value) -> Option<&Value> {
    event.get("error").filter(|error| !error.is_null())
}

/// What a coordinator says when it serves.
async fn listening(members: &mut Members, id: MemberId) -> Result<Value, Failure> {
    loop {
        match members.next().await {
            Some((_, MemberEvent::Said(event))) => {
                if event.get("url").is_some() {
                    return Ok(event);
                }
                if let Some(error) = failure_in(&event) {
                    return Err(members.failed(id, format_args!("reported {error}")));
                }
            }
            Some((_, MemberEvent::Ended)) | None => return Err(members.failed(id, format_args!("ended at its start"))),
        }
    }
}

/// Follows the processes until every peer has ended in order and the coordinator knows where all its money is.
async fn run_rounds(
    members: &mut Members,
    coordinator: MemberId,
    peers: usize,
    watch: &mut Watch,
) -> Result<(), Failure> {
    let mut running = peers;
    let mut memory = tokio::time::interval(MEMORY_INTERVAL);
    let mut settled = false;
    while running > 0 || !settled {
        tokio::select! {
            event = members.next() => match event {
                Some((id, MemberEvent::Said(event))) => {
                    if let Some(error) = failure_in(&event) {
                        return Err(members.failed(id, format_args!("reported {error}")));
                    }
                    settled |= event.get("event").and_then(Value::as_str) == Some("run_finished");
                    watch.event(members.name(id), &event);
                }
                Some((id, MemberEvent::Ended)) => {
                    members.ended_well(id).await?;
                    if id == coordinator {
                        return Err(members.failed(id, format_args!("ended before the peers")));
                    }
                    running -= 1;
                }
                None => return Err(Failure::bug("the demo lost its processes")),
            },
            _ = memory.tick() => watch.memory(members.memory_bytes()),
        }
    }
    Ok(())
}

fn peer_arguments(name: &str, role: Role, folder: &DemoFolder, config: &Path, url: &str) -> Vec<String> {
    let behaviour = match role {
        Role::Honest => "honest".to_owned(),
        Role::Garbage => "garbage".to_owned(),
        Role::CopyOfFirst => format!("copy:{}", folder.of(PEERS[0].0).display()),
    };
    strings(&[
        "peer",
        "--json",
        "--coordinator",
        url,
        "--config",
        &config.display().to_string(),
        "--data",
        &folder.of(name).display().to_string(),
        "--threads",
        "1",
        "--behaviour",
        &behaviour,
    ])
}

fn coordinator_config(args: &DemoArgs, folder: &DemoFolder) -> String {
    format!(
        r#"[coordinator]
listen = "127.0.0.1:0"

[run]
name = "demo"
model = {model:?}
corpus = {corpus:?}

[run.held_out]
rounds = {rounds}
block_windows = 64
windows_per_round = 32

[run.training]
inner_steps = 20
micro_batch = 16
learning_rate_nano = 3000000

[run.judge]
outer_lr_ppm = 1000000

[run.timing]
close_at_contributions = {peers}

"#,
        model = folder.of("model.json").display().to_string(),
        corpus = folder.of("corpus.txt").display().to_string(),
        rounds = args.rounds,
        peers = PEERS.len(),
    )
}

/// What one of the processes has in its books.
async fn ledger_of(folder: &DemoFolder, name: &str) -> Result<Value, Failure> {
    let data = folder.of(name).display().to_string();
    Ok(call(&["ledger", "--data", &data, "--json"]).await?.1["result"].take())
}

/// Runs this program to its end: (did it exit with 0?, its last JSON line). An exit code other than 0 and 1 is an error.
async fn call(arguments: &[&str]) -> Result<(bool, Value), Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::bug(format_args!("this program's own path is unknown: {error}")))?;
    let mut command = std::process::Command::new(&program);
    command.args(arguments).stdin(std::process::Stdio::null());
    crate::sys::die_with_parent(&mut command);
    let output = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| Failure::io("start", &program, &error))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let answer = text.lines().next_back().and_then(|line| serde_json::from_str(line).ok()).unwrap_or(Value::Null);
    match output.status.code() {
        Some(0) => Ok((true, answer)),
        Some(1) => Ok((false, answer)),
        Some(_) | None => Err(Failure::bug(format_args!(
            "l402t {} ended with {}: {answer} {}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        ))),
    }
}

fn read_statement<T: crate::protocol::sign::Statement>(path: &Path) -> Result<Signed<T>, Failure> {
    let bytes = std::fs::read(path).map_err(|error| Failure::io("read", path, &error))?;
    Signed::from_bytes(&bytes).map_err(|error| Failure::bug(format_args!("{}: {error}", path.display())))
}

fn show(ui: &Ui, table: &crate::ui::Table, summary: &Summary) {
    for line in table.lines() {
        ui.line(line);
    }
    ui.line("");
    for line in summary.lines() {
        ui.line(line);
    }
}

fn strings(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|argument| (*argument).to_owned()).collect()
}
