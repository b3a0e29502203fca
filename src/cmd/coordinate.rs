//! `l402t coordinate`: the regtest chain where there is no other, the node, the rounds and the API.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::broadcast;

use super::bounty_board::{self, Bounties};
use super::corpus_view::CorpusView;
use super::judge_pool::{checked_engine, judging_device, nats_per_token};
use super::liquidity::{self, Channels, Shortage, Side};
use super::node::Node;
use super::{Answer, Context, Failure, interrupted};
use crate::cli::CoordinateArgs;
use crate::clock::SystemClock;
use crate::config::{self, CoordinatorConfig, NodeKind};
use crate::coordinator::handle::BountyBoard;
use crate::coordinator::judging::Df32Judge;
use crate::coordinator::run::{MANIFEST_FILE, Prepared};
use crate::coordinator::settings::Gate;
use crate::coordinator::{ChannelGate, Coordinator, CoordinatorError, Options, RunEvent, Surroundings, SystemEntropy};
use crate::http::server::{
    BadNetwork, ForwardedHeader, Limits, ServeError, Server, Services, Settings, TrustedProxies,
};
use crate::ln::NodeInfo;
use crate::protocol::amount::Msat;
use crate::protocol::ids::{PeerId, RunId};
use crate::store::StoreError;
use crate::store::database::Unwatched;
use crate::sys::raise_open_files;

/// With `--json`, what is told besides the run's own events.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
enum ServiceEvent<'a> {
    /// Requests are served.
    Listening {
        /// The coordinator's URL.
        url: String,
        /// The training run; `null` where there is none.
        run: Option<RunId>,
        /// Who signs for bounties; `null` where none are taken on.
        bounties: Option<PeerId>,
        /// The coordinator's Lightning node.
        node_id: String,
        /// `regtest`, `signet`, `testnet`, `bitcoin`.
        network: String,
        /// What the node is, for people.
        lightning: String,
        /// The data folder.
        data: &'a Path,
    },
    /// Its LND can't pay for one contribution now. It serves all the same: channels may come.
    Short {
        /// As `l402t doctor` says it.
        code: &'static str,
        /// What there is, and what is needed.
        message: String,
        /// What to do.
        fix: &'static str,
    },
    /// The node is stopped, and its state on disk.
    Stopped,
}

/// An embedded node's channels are opened as its peers come; an LND's are its operator's business.
fn liquidity_of(info: &NodeInfo, coordinator: &Coordinator) -> Result<String, Shortage> {
    let channels = Channels { count: info.usable_channels, outbound: info.outbound_msat, inbound: info.inbound_msat };
    match coordinator.run_info().training() {
        Some(training) => liquidity::check(Side::Coordinator, &channels, &training.manifest.body.reward),
        None => Ok(String::new()),
    }
}

/// Runs the command.
pub async fn run(args: CoordinateArgs, context: Context) -> Result<Answer, Failure> {
    let data = context.open_data("coordinator")?;
    if let Err(error) = raise_open_files() {
        tracing::warn!(%error, "fewer connections than configured may be possible");
    }
    let config = &context.config;
    let listen = args.listen.as_ref().unwrap_or(&config.coordinator.listen);
    let listen: SocketAddr = listen.parse().map_err(|_| {
        Failure::usage("listen", format!("{listen:?} is not an address and port"), "Write it as 127.0.0.1:8402")
    })?;
    check_gate(config.coordinator.gate, listen)?;
    let settings = Settings { limits: Limits::default(), proxies: proxies(&config.coordinator)? };
    let with_bounties = args.bounties || config.coordinator.bounties.enabled;
    let trains = !with_bounties || config.run.model.is_some() || data.join(MANIFEST_FILE).exists();
    let training = if trains { Some(prepare(&args, &data, &context).await?) } else { None };
    let channels = config.coordinator.channels;
    let mut node = Node::of_coordinator(&context, &data, channels.max_channels, channels.capacity_sat).await?;
    let (regtest_rpc, gate) = (node.regtest_rpc.clone(), config.coordinator.gate);
    let options = Options { channels, max_rounds: args.rounds, regtest_rpc, gate, ..Options::default() };
    let opened = open(training, with_bounties, &node, options, &data, &context).await;
    let ended = match opened {
        Ok(work) => serve(work, &mut node, (listen, settings), &data, &context).await,
        Err(error) => Err(error),
    };
    // Whatever happened, the node's state is flushed.
    node.stop().await;
    context.ui.json(&ServiceEvent::Stopped);
    ended
}

/// What a training run needs before a node waits for it: a judge, and the corpus of a new run.
struct Training {
    judge: Df32Judge,
    prepared: Option<Prepared>,
}

async fn prepare(args: &CoordinateArgs, data: &Path, context: &Context) -> Result<Training, Failure> {
    let config = &context.config;
    let threads = args.threads.unwrap_or(config.coordinator.threads);
    let device = judging_device(args.gpu, config.coordinator.device);
    let engine = context.blocking(move || checked_engine(Some(threads), device)).await?;
    let mut prepared = None;
    if !data.join(MANIFEST_FILE).exists() {
        // A long corpus takes a while: that is seen, and done before a node waits for it.
        let (settings, mut view) = (config.run.clone(), CorpusView::new(context.ui.clone(), context.stop.clone()));
        let prepare = move || Ok(Prepared::new(&settings, &mut view)?);
        prepared = Some(context.blocking(prepare).await?);
    }
    Ok(Training { judge: Df32Judge::new(engine), prepared })
}

/// A training run, and what it tells: listened to before it does anything.
struct Rounds {
    run: Coordinator,
    events: broadcast::Receiver<RunEvent>,
}

/// What a coordinator works at.
struct Work {
    training: Option<Rounds>,
    bounties: Option<Bounties>,
}

async fn open(
    training: Option<Training>,
    with_bounties: bool,
    node: &Node,
    options: Options,
    data: &Path,
    context: &Context,
) -> Result<Work, Failure> {
    // Shared by all that runs on this node.
    let (ln, channel_gate) = (node.ln.clone(), ChannelGate::default());
    let training = match training {
        Some(Training { judge, prepared }) => {
            let surroundings = Surroundings {
                ln: ln.clone(),
                channel_gate: channel_gate.clone(),
                judge: Arc::new(judge),
                clock: Arc::new(SystemClock),
                observer: Arc::new(Unwatched),
                entropy: Arc::new(SystemEntropy),
            };
            let mut run = Coordinator::open(data, &context.config.run, prepared, options.clone(), surroundings).await?;
            let events = run.events();
            run.reconcile().await?;
            Some(Rounds { run, events })
        }
        None => None,
    };
    let bounties =
        if with_bounties { Some(bounty_board::open(context, data, (ln, channel_gate), options).await?) } else { None };
    Ok(Work { training, bounties })
}

/// Without a gate of our own, only a proxy on this machine may reach the port, unless the operator says otherwise.
fn check_gate(gate: Gate, listen: SocketAddr) -> Result<(), Failure> {
    match gate {
        Gate::Proxy if !listen.ip().is_loopback() => Err(Failure::usage(
            "open_gate",
            format!("gate = \"proxy\" on {listen}: whoever reaches that address would get tickets without paying"),
            "Listen on 127.0.0.1, or set gate = \"proxy_elsewhere\" once nothing but the proxy can reach the port",
        )),
        Gate::Own | Gate::Proxy | Gate::ProxyElsewhere => Ok(()),
    }
}

fn proxies(config: &CoordinatorConfig) -> Result<TrustedProxies, Failure> {
    let networks: Result<_, BadNetwork> = config.trusted_proxies.iter().map(|text| text.trim().parse()).collect();
    let networks = networks.map_err(|error| {
        Failure::usage(
            "trusted_proxies",
            format!("trusted_proxies: {error}"),
            "See [coordinator] in config.example.toml",
        )
    })?;
    let header = match config.forwarded_header {
        config::ForwardedHeader::XForwardedFor => ForwardedHeader::XForwardedFor,
        config::ForwardedHeader::Forwarded => ForwardedHeader::Forwarded,
    };
    Ok(TrustedProxies { networks, header })
}

async fn serve(
    work: Work,
    node: &mut Node,
    (listen, settings): (SocketAddr, Settings),
    data: &Path,
    context: &Context,
) -> Result<Answer, Failure> {
    let Work { mut training, bounties } = work;
    let info = node.ln.info().await.map_err(CoordinatorError::from)?;
    let services = Services {
        training: training.as_ref().map(|rounds| rounds.run.handle()),
        board: bounties.as_ref().map(|bounties| Arc::clone(&bounties.board) as Arc<dyn BountyBoard>),
    };
    let server = Server::start(listen, services, settings).await?;
    let url = format!("http://{}", server.address());
    context.ui.say(format!("{} on {}; serving {url}", info.implementation, info.network));
    if context.config.lightning.node == NodeKind::Lnd
        && let Some(rounds) = &training
        && let Err(short) = liquidity_of(&info, &rounds.run)
    {
        context.ui.say(format!("warning: {}: {}. {}", short.code, short.message, short.fix));
        context.ui.json(&ServiceEvent::Short { code: short.code, message: short.message, fix: short.fix });
    }
    context.ui.json(&ServiceEvent::Listening {
        url,
        run: training.as_ref().map(|rounds| rounds.run.run_info().id),
        bounties: bounties.as_ref().map(|bounties| bounties.coordinator),
        node_id: info.node_id,
        network: info.network,
        lightning: info.implementation,
        data,
    });
    let ended = tokio::select! {
        ended = train(&mut training, context) => ended,
        () = tell_of_bounties(bounties.as_ref(), context) => Ok(()),
        broken = node.broken() => Err(broken),
        () = context.stop.requested() => Ok(()),
    };
    server.stop().await;
    if let Some(bounties) = &bounties {
        bounties.board.stop().await;
    }
    ended?;
    let finished = training.as_ref().is_some_and(|rounds| rounds.run.is_finished());
    let result = serde_json::json!({ "finished": finished });
    // Whoever has told it to stop knows that.
    Ok(if finished { Answer::yes(result) } else { Answer::no(result, interrupted()) })
}

/// Runs the rounds of training, where there are any. Ends by an error only: transcripts are served until somebody stops it.
async fn train(training: &mut Option<Rounds>, context: &Context) -> Result<(), Failure> {
    let Some(Rounds { run, events }) = training else { return std::future::pending().await };
    let ended = loop {
        tokio::select! {
            ended = run.run() => break ended.map_err(Failure::from),
            event = events.recv() => tell(context, event),
        }
    };
    // What was told just before the end.
    while let Ok(event) = events.try_recv() {
        tell(context, Ok(event));
    }
    ended
}

async fn tell_of_bounties(bounties: Option<&Bounties>, context: &Context) {
    let Some(bounties) = bounties else { return std::future::pending().await };
    let mut events = bounties.board.events();
    loop {
        match events.recv().await {
            Ok((bounty, event)) => bounty_board::tell(context, &bounty, &event),
            Err(broadcast::error::RecvError::Lagged(missed)) => tracing::warn!(missed, "events were missed"),
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

fn tell(context: &Context, event: Result<RunEvent, broadcast::error::RecvError>) {
    let event = match event {
        Ok(event) => event,
        Err(error) => {
            tracing::warn!(%error, "events were missed");
            return;
        }
    };
    context.ui.json(&event);
    match &event {
        RunEvent::RoundOpened { round, .. } => context.ui.say(format!("round {round} is open")),
        RunEvent::RoundJudging { round, uploads } => {
            context.ui.say(format!("round {round}: judging {uploads} updates"))
        }
        RunEvent::RoundClosed { round, loss_before, loss_after, predicted_tokens, contributions, .. } => {
            let accepted = contributions.iter().filter(|one| one.outcome == Some("accepted")).count();
            let paid = Msat::checked_sum(contributions.iter().map(|one| one.reward_msat));
            context.ui.say(format!(
                "round {round} closed: held-out loss {:.4} -> {:.4} nats a token, {accepted} of {} contributions accepted, {} paid",
                nats_per_token(*loss_before, *predicted_tokens),
                nats_per_token(*loss_after, *predicted_tokens),
                contributions.len(),
                paid.unwrap_or(Msat::MAX_MONEY),
            ));
        }
        // A bounty's, not a training run's.
        RunEvent::SubmissionsJudged { .. } | RunEvent::BountyOpened { .. } => {}
        RunEvent::DiskFull { problem, left_ms } => {
            context.ui.say(format!("{problem}. Trying again for another {} s", left_ms / 1_000));
        }
        RunEvent::DiskFreed => context.ui.say("there is space on the disk again: going on"),
        RunEvent::RunFinished { rounds } => {
            context.ui.say(format!("the run has ended after {rounds} rounds; serving its transcripts until stopped"));
        }
    }
}

impl From<CoordinatorError> for Failure {
    fn from(error: CoordinatorError) -> Self {
        let again = "Mend what the message names, then start again: nothing is lost";
        match &error {
            CoordinatorError::MissingSetting { .. }
            | CoordinatorError::BadSetting { .. }
            | CoordinatorError::ChangedSetting { .. }
            | CoordinatorError::Unreadable { .. }
            | CoordinatorError::Model(_)
            | CoordinatorError::Tokens(_) => Failure::usage("run_settings", &error, "See [run] in config.example.toml"),
            CoordinatorError::Corpus(_) => {
                Failure::usage("corpus", &error, "See corpus under [run] in config.example.toml")
            }
            CoordinatorError::Store(StoreError::InUse(_)) => {
                Failure::usage("data_in_use", &error, "Stop the other one, or choose another --data folder")
            }
            CoordinatorError::Store(StoreError::Full(_)) => {
                Failure::usage("disk_full", &error, "Free some space on that disk, then start again: nothing is lost")
            }
            CoordinatorError::Store(_) => Failure::usage("store", &error, again),
            CoordinatorError::Lightning(_) => Failure::payment("lightning", &error, again),
            CoordinatorError::Illegal(_)
            | CoordinatorError::Judge { .. }
            | CoordinatorError::Refused(_)
            | CoordinatorError::Panicked
            | CoordinatorError::NoBounty => Failure::bug(&error),
        }
    }
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Self {
        let fix = "Choose another address with --listen; port 0 takes a free one";
        Failure::usage("listen", error, fix)
    }
}
