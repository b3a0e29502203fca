//! `l402t coordinate`: the regtest chain where there is no other, the node, the rounds and the API.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::broadcast;

use super::corpus_view::CorpusView;
use super::judge_pool::{checked_engine, judging_device, nats_per_token};
use super::liquidity::{self, Channels, Shortage, Side};
use super::node::Node;
use super::{Context, ExitCode, Failure};
use crate::cli::CoordinateArgs;
use crate::clock::SystemClock;
use crate::config::{self, CoordinatorConfig, NodeKind};
use crate::coordinator::judging::Df32Judge;
use crate::coordinator::run::{MANIFEST_FILE, Prepared};
use crate::coordinator::settings::Gate;
use crate::coordinator::{Coordinator, CoordinatorError, Options, RunEvent};
use crate::http::server::{
    BadNetwork, ForwardedHeader, Limits, ServeError, Server, Services, Settings, TrustedProxies,
};
use crate::ln::NodeInfo;
use crate::protocol::amount::Msat;
use crate::protocol::ids::RunId;
use crate::store::StoreError;
use crate::sys::raise_open_files;

/// With `--json`, what is told besides the run's own events.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
enum ServiceEvent<'a> {
    /// Requests are served.
    Listening {
        /// The coordinator's URL.
        url: String,
        /// The run.
        run: RunId,
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
    /// The last line.
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
pub async fn run(args: CoordinateArgs, context: Context) -> Result<ExitCode, Failure> {
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
    let threads = args.threads.unwrap_or(config.coordinator.threads);
    let device = judging_device(args.gpu, config.coordinator.device);
    let engine = context.blocking(move || checked_engine(Some(threads), device)).await?;
    let mut prepared = None;
    if !data.join(MANIFEST_FILE).exists() {
        // A long corpus takes a while: that is seen, and done before a node waits for it.
        let (settings, ui) = (config.run.clone(), context.ui.clone());
        let prepare = move || Ok(Prepared::new(&settings, &mut CorpusView::new(ui))?);
        prepared = Some(context.blocking(prepare).await?);
    }
    let channels = config.coordinator.channels;
    let mut node = Node::of_coordinator(&context, &data, channels.max_channels, channels.capacity_sat).await?;
    let (regtest_rpc, gate) = (node.regtest_rpc.clone(), config.coordinator.gate);
    let options = Options { channels, max_rounds: args.rounds, regtest_rpc, gate };
    let judge = Arc::new(Df32Judge::new(engine));
    let (ln, clock) = (node.ln.clone(), Arc::new(SystemClock));
    let opened = Coordinator::open(&data, &config.run, prepared, options, ln, judge, clock).await;
    let ended = match opened {
        Ok(coordinator) => serve(coordinator, &mut node, (listen, settings), &data, &context).await,
        Err(error) => Err(error.into()),
    };
    // Whatever happened, the node's state is flushed.
    node.stop().await;
    context.ui.json(&ServiceEvent::Stopped);
    ended
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
    mut coordinator: Coordinator,
    node: &mut Node,
    (listen, settings): (SocketAddr, Settings),
    data: &Path,
    context: &Context,
) -> Result<ExitCode, Failure> {
    let mut events = coordinator.events();
    coordinator.reconcile().await?;
    let info = node.ln.info().await.map_err(CoordinatorError::from)?;
    let server = Server::start(listen, Services::training(coordinator.handle()), settings).await?;
    let url = format!("http://{}", server.address());
    context.ui.say(format!("{} on {}; serving {url}", info.implementation, info.network));
    if context.config.lightning.node == NodeKind::Lnd
        && let Err(short) = liquidity_of(&info, &coordinator)
    {
        context.ui.say(format!("warning: {}: {}. {}", short.code, short.message, short.fix));
        context.ui.json(&ServiceEvent::Short { code: short.code, message: short.message, fix: short.fix });
    }
    context.ui.json(&ServiceEvent::Listening {
        url,
        run: coordinator.run_info().id,
        node_id: info.node_id,
        network: info.network,
        lightning: info.implementation,
        data,
    });
    let mut ended = loop {
        tokio::select! {
            ended = coordinator.run() => break ended.map_err(Failure::from),
            broken = node.broken() => break Err(broken),
            event = events.recv() => tell(context, event),
            () = context.stop.requested() => break Ok(()),
        }
    };
    // What was told just before the end.
    while let Ok(event) = events.try_recv() {
        tell(context, Ok(event));
    }
    if ended.is_ok() && coordinator.is_finished() && !context.stop.is_requested() {
        context.ui.say("the run is over; serving its transcripts until stopped");
        tokio::select! {
            broken = node.broken() => ended = Err(broken),
            () = context.stop.requested() => {}
        }
    }
    server.stop().await;
    ended?;
    if coordinator.is_finished() { Ok(ExitCode::Ok) } else { Ok(ExitCode::Interrupted) }
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
        RunEvent::SubmissionsJudged { contributions, .. } => {
            let reached = contributions.iter().filter(|one| one.outcome == Some("accepted")).count();
            let paid = Msat::checked_sum(contributions.iter().map(|one| one.reward_msat)).unwrap_or(Msat::MAX_MONEY);
            context.ui.say(format!("{reached} of {} claims reached, {paid} paid", contributions.len()));
        }
        RunEvent::BountyOpened { bounty } => context.ui.say(format!("bounty {bounty} is open")),
        RunEvent::DiskFull { problem, left_ms } => {
            context.ui.say(format!("{problem}. Trying again for another {} s", left_ms / 1_000));
        }
        RunEvent::DiskFreed => context.ui.say("there is space on the disk again: going on"),
        RunEvent::RunFinished { rounds } => context.ui.say(format!("the run has ended after {rounds} rounds")),
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
            | CoordinatorError::Panicked => Failure::bug(&error),
        }
    }
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Self {
        let fix = "Choose another address with --listen; port 0 takes a free one";
        Failure::usage("listen", error, fix)
    }
}
