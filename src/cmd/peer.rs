//! `l402t peer`: identity, wallet, and round after round.

use std::sync::Arc;
use std::time::Duration;

use super::bounty::joined::under_way;
use super::node::Node;
use super::peer_guard::Watch;
use super::peer_view::PeerView;
use super::{Answer, Context, ExitCode, Failure, interrupted};
use crate::cli::{self, PeerArgs};
use crate::clock::SystemClock;
use crate::config::{Device, PeerConfig, Precision};
use crate::http::client::{ClientError, CoordinatorClient, Policy};
use crate::peer::behaviour::Behaviour;
use crate::peer::cheats::{Copycat, Garbage};
use crate::peer::error::{Blame, PeerError};
use crate::peer::events::{EventSink, Summary};
use crate::peer::folder::DataFolder;
use crate::peer::journal::Journal;
use crate::peer::remote::WithOthers;
use crate::peer::session::{Session, patiently};
use crate::peer::settings::PeerSettings;
use crate::peer::trainer::{LocalTrainer, TrainerSlot};
use crate::peer::{Limits, check_run, identity};
use crate::protocol::amount::Msat;
use crate::protocol::api::RunView;

/// The client's own tries: short ones, because the peer has its own patience on top and tells of it.
const CLIENT_TRIES: u32 = 2;
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Runs the command.
pub async fn run(args: PeerArgs, context: Context) -> Result<Answer, Failure> {
    let data = context.open_data("peer")?;
    let config = merged(&context.config.peer, &args);
    let client = client(&config, None)?;
    let trainer = trainer(&args.behaviour, &config)?;
    let folder = DataFolder::open(&data)?;
    // A damaged key is said before anybody is asked.
    identity::load_or_create(&data)?;
    let settings = settings(&config);
    let view = PeerView::new(context.ui.clone());
    let events = EventSink::new(move |event| view.show(event));
    let journal = Arc::new(Journal::open(&folder.journal()).map_err(PeerError::from)?);
    let others = under_way(&context, &data, &journal)?;
    let watch = Watch {
        context: &context,
        journal,
        folder: &folder,
        api: Arc::new(WithOthers::new(client, others)),
        clock: Arc::new(SystemClock),
        events,
    };
    let find = |patience_ms| find_run(&watch, patience_ms);
    let Some(run) = watch.find(find, settings.give_up_after_ms).await? else { return Ok(stopped()) };
    let ended = take_part(&watch, &run, settings, &trainer, args.rounds).await;
    if !ended.as_ref().is_ok_and(|answer| answer.exit == ExitCode::Interrupted) {
        watch.until_nothing_is_held().await;
    }
    ended
}

async fn take_part(
    watch: &Watch<'_>,
    run: &RunView,
    settings: PeerSettings,
    trainer: &TrainerSlot,
    rounds: Option<u32>,
) -> Result<Answer, Failure> {
    // Before a wallet is made for it.
    check_run(run, &settings.limits)?;
    let mut node = Node::of_peer(watch.context, &run.lightning, &watch.folder.lightning()).await?;
    let session = watch.parts(node.ln.clone(), settings).and_then(|parts| Session::open(parts, run));
    let ended = match session {
        Ok(session) => serve(&session, trainer, &mut node, rounds, watch.context).await,
        Err(error) => Err(error.into()),
    };
    // Whatever happened, the node's state is flushed.
    node.stop().await;
    ended
}

async fn serve(
    session: &Session,
    trainer: &TrainerSlot,
    node: &mut Node,
    rounds: Option<u32>,
    context: &Context,
) -> Result<Answer, Failure> {
    let summary = tokio::select! {
        summary = session.serve(trainer, rounds) => Some(summary?),
        broken = node.broken() => return Err(broken),
        () = context.stop.requested() => None,
    };
    // A training step that nobody waits for any more comes to rest first.
    let resting = trainer.clone();
    let _ = tokio::task::spawn_blocking(move || drop(resting.lock())).await;
    match summary {
        Some(summary) => {
            show_summary(context, &summary);
            Ok(Answer::yes(summary).then("l402t ledger"))
        }
        None => Ok(stopped()),
    }
}

/// Told to stop: nothing that people don't know.
fn stopped() -> Answer {
    Answer::no(serde_json::Value::Null, interrupted())
}

fn show_summary(context: &Context, summary: &Summary) {
    context.ui.line(format!(
        "{} contributions: {} accepted, {} rejected; {} rounds missed",
        summary.contributions, summary.accepted, summary.rejected, summary.missed
    ));
    context.ui.line(format!("earned {}, paid {} in fees", summary.reward_msat, summary.fee_msat));
    context.ui.line(format!("ever: earned {}, paid {}", summary.reward_ever_msat, summary.fee_ever_msat));
    if summary.unfinished > 0 {
        let text = "wait for a receipt or their money: start the peer again later";
        context.ui.line(format!("{} contributions {text}", summary.unfinished));
    }
}

fn merged(config: &PeerConfig, args: &PeerArgs) -> PeerConfig {
    PeerConfig {
        coordinator: args.coordinator.clone().or_else(|| config.coordinator.clone()),
        device: if args.gpu { Device::Cuda } else { config.device },
        threads: args.threads.unwrap_or(config.threads),
        precision: match args.precision {
            Some(cli::Precision::F32) => Precision::F32,
            Some(cli::Precision::Bf16) => Precision::Bf16,
            None => config.precision,
        },
        gradient_checkpointing: args.gradient_checkpointing || config.gradient_checkpointing,
        micro_batch: args.micro_batch.unwrap_or(config.micro_batch),
        ..config.clone()
    }
}

pub(super) fn settings(config: &PeerConfig) -> PeerSettings {
    PeerSettings {
        limits: Limits {
            max_fee: Msat::new(config.max_fee_msat),
            min_reward: Msat::new(config.min_reward_msat),
            max_hold_blocks: config.max_hold_blocks,
        },
        give_up_after_ms: u64::from(config.give_up_after_s) * 1_000,
        ..PeerSettings::default()
    }
}

/// A client of the coordinator at `url`, or of the configured one.
pub(super) fn client(config: &PeerConfig, url: Option<&str>) -> Result<CoordinatorClient, Failure> {
    let url = url.or(config.coordinator.as_deref()).ok_or_else(|| {
        let fix = "Give it with --coordinator URL, or as coordinator under [peer] in the configuration";
        Failure::usage("no_coordinator", "no coordinator is named", fix)
    })?;
    let policy = Policy {
        tries: CLIENT_TRIES,
        connect: CONNECT_LIMIT,
        max_blob_bytes: config.max_blob_bytes,
        ..Policy::default()
    };
    CoordinatorClient::with_policy(url, policy).map_err(|error| match &error {
        ClientError::BadUrl { .. } => Failure::usage("bad_url", &error, "Write it as http://host:port"),
        ClientError::SetUp(_)
        | ClientError::Unreachable { .. }
        | ClientError::Interrupted { .. }
        | ClientError::Refused { .. }
        | ClientError::BadAnswer { .. }
        | ClientError::TooLarge { .. }
        | ClientError::WrongBytes { .. }
        | ClientError::Disk { .. } => Failure::bug(&error),
    })
}

async fn find_run(watch: &Watch<'_>, patience_ms: u64) -> Result<RunView, PeerError> {
    let doing = "read the run";
    let view = patiently(&watch.clock, &watch.events, patience_ms, doing, || watch.api.run()).await;
    view.map_err(|failure| PeerError::api(doing, patience_ms / 1_000, failure))
}

fn trainer(behaviour: &Behaviour, config: &PeerConfig) -> Result<TrainerSlot, Failure> {
    let trainer: Box<dyn LocalTrainer> = match behaviour {
        Behaviour::Honest => honest(config)?,
        Behaviour::Garbage => Box::new(Garbage),
        Behaviour::Copy(victim) => Box::new(Copycat::of(victim.clone())),
    };
    Ok(TrainerSlot::new(trainer))
}

#[cfg(feature = "torch")]
fn honest(config: &PeerConfig) -> Result<Box<dyn LocalTrainer>, Failure> {
    use crate::peer::honest::Honest;
    use crate::train::inner::{self, Activations, TrainDevice, TrainerOptions};
    use std::num::{NonZeroI32, NonZeroU32};
    let options = TrainerOptions {
        device: match config.device {
            Device::Cpu => TrainDevice::Cpu,
            Device::Cuda => TrainDevice::Cuda(0),
        },
        precision: match config.precision {
            Precision::F32 => inner::Precision::F32,
            Precision::Bf16 => inner::Precision::Bf16,
        },
        activations: if config.gradient_checkpointing { Activations::Recompute } else { Activations::Keep },
        micro_batch: NonZeroU32::new(config.micro_batch),
        threads: i32::try_from(config.threads).ok().and_then(NonZeroI32::new),
    };
    Ok(Box::new(Honest::new(options)))
}

#[cfg(not(feature = "torch"))]
fn honest(_: &PeerConfig) -> Result<Box<dyn LocalTrainer>, Failure> {
    let message = "this l402t was built without libtorch (feature torch), so it can't train";
    Err(Failure::usage("no_torch", message, "Build it with default features"))
}

impl From<PeerError> for Failure {
    fn from(error: PeerError) -> Self {
        let exit = match error.blame() {
            Blame::Local => ExitCode::Usage,
            Blame::Coordinator => ExitCode::Remote,
            Blame::Payment => ExitCode::Payment,
        };
        Failure::new(exit, error.code(), &error, error.fix())
    }
}
