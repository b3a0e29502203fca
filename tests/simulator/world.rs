//! A coordinator and its peers as processes of a simulation: started, killed, started again until the run has ended.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use l402t::coordinator::settings::{ChannelSettings, Gate, HeldOutSettings, OpenChannels, RunSettings};
use l402t::coordinator::{ChannelGate, Coordinator, CoordinatorError, Entropy, Options, RunEvent, Surroundings};
use l402t::ln::simulated::Network;
use l402t::ln::{InvoiceStatus, Lightning, PaymentStatus};
use l402t::peer::api::CoordinatorApi;
use l402t::peer::error::PeerError;
use l402t::peer::events::EventSink;
use l402t::peer::folder::DataFolder;
use l402t::peer::guard::Guardian;
use l402t::peer::journal::{Journal, JournalError};
use l402t::peer::session::{PeerParts, Session, patiently};
use l402t::peer::settings::PeerSettings;
use l402t::peer::trainer::{LocalTrainer, LocalUpdate, Onlooker, RoundWork, TrainerSlot};
use l402t::protocol::amount::{Msat, Ppm};
use l402t::protocol::api::Phase;
use l402t::protocol::hold::GIVE_BACK_MARGIN_BLOCKS;
use l402t::protocol::ids::Blake3Hash;
use l402t::protocol::manifest::{RewardParams, TimingParams, TrainingParams};
use l402t::protocol::sign::IdentityKey;
use l402t::store::StoreError;
use tokio::sync::oneshot;

use crate::audit;
use crate::history::History;
use crate::judge::FakeJudge;
use crate::life::{Fate, Life, Mortal};
use crate::plan::{Manner, PeerPlan, Plan, ProcessPlan};
use crate::sim::{Executor, Sim, SimClock};
use crate::wire::{Slot, Wire};

pub(crate) const COORDINATOR: &str = "coordinator";
pub(crate) const FUNDS: Msat = Msat::new(10_000_000_000);
pub(crate) const PUSH: Msat = Msat::new(100_000_000);
const CAPACITY_SAT: u64 = 1_000_000;
/// Longer than a fee invoice can be paid.
const FEE_INVOICE_MS: u64 = 125_000;
/// Longer than the coordinator is ever down, and than it takes to book what came in last.
const IDLE_MS: u64 = 400_000;
/// How long an owner takes to look at a full disk.
const OWNER_MS: u64 = 30_000;
/// A simulation that takes longer is stuck.
const MAX_MS: u64 = 6 * 3_600_000;
const MAX_STEPS: u64 = 3_000_000;
/// An owner starts a peer again that gave up.
const MAX_GIVEN_UP: u32 = 200;

const MODEL: &str = r#"{"model_type":"llama","architectures":["LlamaForCausalLM"],"vocab_size":256,"hidden_size":8,
"intermediate_size":16,"num_hidden_layers":1,"num_attention_heads":2,"num_key_value_heads":1,"head_dim":4,
"max_position_embeddings":32,"rms_norm_eps":1e-5,"rope_theta":10000.0,"tie_word_embeddings":true,
"hidden_act":"silu"}"#;

/// Everything but what the processes remember.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) sim: Arc<Sim>,
    pub(crate) network: Network,
    pub(crate) root: PathBuf,
    pub(crate) history: History,
    /// How often the coordinator ended because its disk was full.
    full_disk_ends: AtomicU32,
    slot: Slot,
    settings: RunSettings,
    /// The run is over.
    finished: AtomicBool,
    /// The last round had no contributions: the next one waits until somebody asks.
    idle: AtomicBool,
}

/// How a simulation went.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) violations: Vec<String>,
    pub(crate) digest: String,
    pub(crate) last_lines: String,
    pub(crate) rewards_settled: Msat,
    pub(crate) rewards_refunded: Msat,
    pub(crate) full_disk_ends: u32,
}

#[derive(Debug)]
struct SeededEntropy(Arc<Sim>);

impl Entropy for SeededEntropy {
    fn bytes32(&self) -> std::io::Result<[u8; 32]> {
        Ok(self.0.dice(|dice| dice.bytes32()))
    }
}

/// Trains nothing.
#[derive(Debug)]
struct NoTraining {
    name: &'static str,
    good: bool,
}

impl LocalTrainer for NoTraining {
    fn contribute(&mut self, work: &RoundWork, _: &mut dyn Onlooker) -> Result<Option<LocalUpdate>, PeerError> {
        let worth = if self.good { "good" } else { "bad" };
        let payload = format!("{worth} work of {} in round {}", self.name, work.round).into_bytes();
        Ok(Some(LocalUpdate { payload, dense_bytes: 4_096 }))
    }
}

/// Where a simulation's files are: in memory if that is possible, because nothing here survives a power failure anyway.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a folder")
}

/// Runs a simulation to its end and audits it.
pub(crate) fn run(plan: &Plan) -> Outcome {
    let folder = scratch();
    let sim = Sim::new(plan.seed);
    let clock = Arc::new(SimClock { sim: Arc::clone(&sim), ahead_ms: 0 });
    let network = Network::with_clock(plan.seed, plan.lightning, clock);
    network.fund(COORDINATOR, FUNDS);
    for peer in &plan.peers {
        network.node(peer.name);
        if !plan.opens_channels {
            network.channel(COORDINATOR, peer.name, Msat::from_sat(CAPACITY_SAT).expect("small"), PUSH);
        }
    }
    let world = Arc::new(World {
        settings: settings(plan, folder.path()),
        plan: plan.clone(),
        sim: Arc::clone(&sim),
        network,
        root: folder.path().to_path_buf(),
        history: History::default(),
        full_disk_ends: AtomicU32::new(0),
        slot: Slot::default(),
        finished: AtomicBool::new(false),
        idle: AtomicBool::new(false),
    });
    let total = world.network.total_msat();
    let mut executor = Executor::new(&sim);
    (executor.dawdle_ppm, executor.shuffle) = (plan.dawdle, plan.shuffle);
    let scene = Life::begin(&sim, "scene", &Fate::none());
    world.note_height();
    sim.spawn(&scene, Arc::clone(&world).keep_coordinator());
    sim.spawn(&scene, Arc::clone(&world).mine());
    sim.spawn(&scene, Arc::clone(&world).fill_disk());
    let peers = plan.peers.iter().map(|peer| {
        let (sender, done) = oneshot::channel();
        let life = Arc::clone(&world).keep_peer(peer.clone());
        sim.spawn(&scene, async move {
            life.await;
            let _ = sender.send(());
        });
        done
    });
    let mut peers: Vec<oneshot::Receiver<()>> = peers.collect();
    let mut steps = 0;
    let mut over_since_ms = None;
    while !peers.is_empty() || !world.is_over(&mut over_since_ms) {
        steps += 1;
        if !executor.step() || sim.elapsed_ms() > MAX_MS || steps > MAX_STEPS {
            sim.violated(format_args!("no end after {} ms and {steps} steps", sim.elapsed_ms()));
            break;
        }
        world.network.advance(1);
        peers.retain_mut(|peer| peer.try_recv() == Err(oneshot::error::TryRecvError::Empty));
        if world.network.total_msat() != total {
            sim.violated("msat were made or lost");
            break;
        }
    }
    scene.kill();
    world.slot.clear();
    drop(executor);
    // What nobody knows of any more must end by itself.
    sim.silence(FEE_INVOICE_MS);
    let books = audit::audit(&world);
    Outcome {
        violations: sim.violations(),
        digest: sim.digest(),
        last_lines: sim.last_lines(),
        rewards_settled: books.rewards_settled_msat,
        rewards_refunded: books.rewards_refunded_msat,
        full_disk_ends: world.full_disk_ends.load(Ordering::Relaxed),
    }
}

fn settings(plan: &Plan, folder: &Path) -> RunSettings {
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).expect("written");
        Some(path)
    };
    RunSettings {
        model: write("model.json", MODEL),
        corpus: write("corpus.txt", &"All happy rounds are alike. ".repeat(60)),
        held_out: HeldOutSettings { rounds: 4, block_windows: 2, windows_per_round: 1, window_tokens: 17 },
        training: TrainingParams { sequence_tokens: 16, ..Default::default() },
        reward: RewardParams {
            pool_msat: Msat::new(1_000_000),
            max_share_ppm: Ppm::new(600_000).expect("valid"),
            tranches: 2,
            fee_msat: Msat::new(5_000),
            hold_blocks: plan.hold_blocks,
        },
        timing: TimingParams {
            commit_ms: plan.commit_ms,
            upload_ms: plan.commit_ms * 2,
            close_at_contributions: plan.close_at_contributions,
            max_contributions: 4,
        },
        ..RunSettings::default()
    }
}

impl World {
    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Is the run over, or would nothing more happen without peers? The coordinator gets the time to see it, too, and room
    /// to write it down.
    fn is_over(&self, over_since_ms: &mut Option<u64>) -> bool {
        let locked = || self.network.payments(COORDINATOR).iter().any(|(_, _, s)| *s == PaymentStatus::InFlight);
        let finished = self.finished.load(Ordering::Relaxed);
        let idle = self.idle.load(Ordering::Relaxed) && !locked();
        let books_kept = !finished || self.slot.is_taken() && !self.sim.disk_is_full(COORDINATOR);
        let now_ms = self.sim.elapsed_ms();
        *over_since_ms = ((finished || idle) && books_kept).then(|| over_since_ms.unwrap_or(now_ms));
        over_since_ms.is_some_and(|since_ms| now_ms - since_ms > IDLE_MS)
    }

    fn clock(&self, process: &ProcessPlan) -> Arc<SimClock> {
        Arc::new(SimClock { sim: Arc::clone(&self.sim), ahead_ms: process.ahead_ms })
    }

    fn node(&self, name: &str, life: &Arc<Life>) -> Arc<dyn Lightning> {
        Arc::new(Mortal { life: Arc::clone(life), node: self.network.node(name) })
    }

    /// Blocks, reorganisations, and nodes that go down by themselves.
    async fn mine(self: Arc<Self>) {
        let Plan { block_ms, reorgs, node_crashes, .. } = self.plan;
        loop {
            let pause_ms = self.sim.dice(|dice| dice.between(block_ms / 2, block_ms * 3 / 2));
            self.sim.sleep(pause_ms).await;
            if self.sim.dice(|dice| dice.happens(reorgs)) {
                let depth = self.sim.dice(|dice| dice.between(1, 3)) as u32;
                self.network.unmine(depth);
                self.note_height();
                self.sim.note("chain", format_args!("{depth} blocks are gone"));
                let gap_ms = self.sim.dice(|dice| dice.between(0, block_ms));
                self.sim.sleep(gap_ms).await;
                self.mine_guarded(depth);
            }
            self.mine_guarded(1);
            self.sim.note("chain", format_args!("height {}", self.network.height()));
            if self.sim.dice(|dice| dice.happens(node_crashes)) {
                self.network.crash(COORDINATOR);
                self.history.ends(COORDINATOR, self.sim.elapsed_ms());
                let gap_ms = self.sim.dice(|dice| dice.between(0, block_ms));
                self.sim.sleep(gap_ms).await;
                self.network.restart(COORDINATOR);
                if self.slot.is_taken() {
                    self.history.begins(COORDINATOR, self.sim.elapsed_ms());
                }
            }
        }
    }

    fn note_height(&self) {
        self.history.height_is(self.sim.elapsed_ms(), self.network.height());
    }

    /// Mines blocks. A node that gives back by itself what its peer should have given back breaks a rule.
    fn mine_guarded(&self, blocks: u32) {
        let held = |name| {
            let held = self.network.invoices(name).into_iter();
            held.filter_map(|(hash, _, status)| match status {
                InvoiceStatus::Accepted { expiry_height: Some(height), .. } => Some((hash, height)),
                _ => None,
            })
        };
        let before: Vec<_> =
            self.plan.peers.iter().map(|peer| (peer.name, held(peer.name).collect::<Vec<_>>())).collect();
        self.network.mine(blocks);
        let now_ms = self.sim.elapsed_ms();
        for (name, held) in before {
            let after: BTreeMap<_, _> =
                self.network.invoices(name).into_iter().map(|(hash, _, status)| (hash, status)).collect();
            for (hash, expiry_height) in held {
                let duty_ms = self.history.on_duty_ms(name, expiry_height - GIVE_BACK_MARGIN_BLOCKS, now_ms);
                let timed_out = after.get(&hash) == Some(&InvoiceStatus::Canceled);
                if timed_out && duty_ms >= self.plan.guard_ms() {
                    self.sim.violated(format_args!("{name} was there for {duty_ms} ms and let {hash} time out"));
                }
            }
        }
        self.note_height();
    }

    async fn fill_disk(self: Arc<Self>) {
        if let Some((from_ms, for_ms)) = self.plan.disk_full_ms {
            self.sim.sleep(from_ms).await;
            self.sim.fill_disk(COORDINATOR, for_ms);
        }
    }

    async fn keep_coordinator(self: Arc<Self>) {
        let process = self.plan.coordinator.clone();
        let mut fate = process.fate.clone();
        loop {
            let life = Life::begin(&self.sim, COORDINATOR, &fate);
            let (sender, ended) = oneshot::channel();
            let (world, own) = (Arc::clone(&self), Arc::clone(&life));
            self.sim.spawn(&life, async move { drop(sender.send(world.coordinate(own).await)) });
            match ended.await {
                Err(_) | Ok(Err(CoordinatorError::Store(StoreError::Halted) | CoordinatorError::Lightning(_))) => {}
                // Its owner looks after the disk before it is started again.
                Ok(Err(CoordinatorError::Store(StoreError::Full(_)))) => {
                    self.full_disk_ends.fetch_add(1, Ordering::Relaxed);
                    self.history.ends(COORDINATOR, self.sim.elapsed_ms());
                    self.slot.clear();
                    self.sim.sleep(OWNER_MS).await;
                }
                Ok(Ok(())) => self.sim.violated("the engine has ended by itself"),
                Ok(Err(error)) => self.sim.violated(format_args!("the coordinator has failed: {error}")),
            }
            life.kill();
            self.slot.clear();
            self.history.ends(COORDINATOR, self.sim.elapsed_ms());
            self.down(COORDINATOR, &process).await;
            fate = Fate { moments: i64::MAX, ..fate };
        }
    }

    /// The time between two lives.
    async fn down(&self, name: &str, process: &ProcessPlan) {
        if process.owns_node {
            self.network.crash(name);
        }
        let down_ms = self.sim.dice(|dice| dice.between(1, process.down_ms_max.max(1)));
        self.sim.sleep(down_ms).await;
        if process.owns_node {
            self.network.restart(name);
        }
    }

    async fn coordinate(self: Arc<Self>, life: Arc<Life>) -> Result<(), CoordinatorError> {
        let open_to_peers = if self.plan.opens_channels { OpenChannels::Always } else { OpenChannels::Never };
        let options = Options {
            channels: ChannelSettings {
                open_to_peers,
                capacity_sat: CAPACITY_SAT,
                push_msat: PUSH,
                ..ChannelSettings::default()
            },
            max_rounds: Some(self.plan.rounds),
            regtest_rpc: None,
            gate: Gate::Own,
            ..Options::default()
        };
        let surroundings = Surroundings {
            ln: self.node(COORDINATOR, &life),
            channel_gate: ChannelGate::default(),
            judge: Arc::new(FakeJudge),
            clock: self.clock(&self.plan.coordinator),
            observer: Arc::clone(&life) as _,
            entropy: Arc::new(SeededEntropy(Arc::clone(&self.sim))),
        };
        let mut coordinator =
            Coordinator::open(&self.data(COORDINATOR), &self.settings, None, options, surroundings).await?;
        coordinator.reconcile().await?;
        // What it did last may have gone untold.
        let last = coordinator.handle().round(None).await;
        let waits = last.is_ok_and(|round| round.phase == Phase::Closed && round.tickets == 0);
        self.idle.store(waits, Ordering::Relaxed);
        let mut events = coordinator.events();
        let world = Arc::clone(&self);
        self.sim.spawn(&life, async move {
            while let Ok(event) = events.recv().await {
                match &event {
                    // Where its folder is differs from run to run.
                    RunEvent::DiskFull { left_ms, .. } => {
                        world.sim.note(COORDINATOR, format_args!("DiskFull {left_ms}"))
                    }
                    other => world.sim.note(COORDINATOR, format_args!("{other:?}")),
                }
                match event {
                    RunEvent::RunFinished { .. } => world.finished.store(true, Ordering::Relaxed),
                    RunEvent::RoundOpened { .. } => world.idle.store(false, Ordering::Relaxed),
                    RunEvent::RoundClosed { contributions, .. } => {
                        world.idle.store(contributions.is_empty(), Ordering::Relaxed);
                    }
                    RunEvent::RoundJudging { .. } | RunEvent::DiskFull { .. } | RunEvent::DiskFreed => {}
                    RunEvent::SubmissionsJudged { .. } | RunEvent::BountyOpened { .. } => unreachable!("it trains"),
                }
            }
        });
        self.slot.put(&life, coordinator.handle());
        self.history.begins(COORDINATOR, self.sim.elapsed_ms());
        coordinator.run().await
    }

    async fn keep_peer(self: Arc<Self>, plan: PeerPlan) {
        let mut fate = plan.process.fate.clone();
        for _ in 0..MAX_GIVEN_UP {
            let life = Life::begin(&self.sim, plan.name, &fate);
            let (sender, ended) = oneshot::channel();
            let (world, own, one) = (Arc::clone(&self), Arc::clone(&life), plan.clone());
            self.sim.spawn(&life, async move { drop(sender.send(world.contribute(own, one).await)) });
            let ended = ended.await;
            self.history.ends(plan.name, self.sim.elapsed_ms());
            if plan.manner == Manner::Vanishes {
                self.network.crash(plan.name);
                return;
            }
            match ended {
                Ok(Ok(0)) => {
                    self.sim.note(plan.name, "is done");
                    return;
                }
                // It has told its owner to start it again later.
                Ok(Ok(unfinished)) => self.sim.note(plan.name, format_args!("leaves {unfinished} unfinished")),
                Err(_) | Ok(Err(PeerError::Journal(JournalError::Halted))) => {}
                Ok(Err(
                    error @ (PeerError::Unreachable { .. }
                    | PeerError::Lightning(_)
                    | PeerError::NoChannel { .. }
                    | PeerError::FeeNotPaid { .. }
                    | PeerError::FeesTaken { .. }),
                )) => self.sim.note(plan.name, format_args!("gives up: {error}")),
                Ok(Err(error)) => self.sim.violated(format_args!("{} has failed: {error}", plan.name)),
            }
            life.kill();
            self.down(plan.name, &plan.process).await;
            fate = Fate { moments: i64::MAX, ..fate };
        }
        self.sim.violated(format_args!("{} gives up again and again", plan.name));
    }

    /// How many contributions it has not finished.
    async fn contribute(self: Arc<Self>, life: Arc<Life>, plan: PeerPlan) -> Result<u32, PeerError> {
        let api: Arc<dyn CoordinatorApi> = Arc::new(Wire {
            sim: Arc::clone(&self.sim),
            who: plan.name,
            slot: self.slot.clone(),
            faults: self.plan.wire,
            uploads: plan.manner != Manner::NeverUploads,
        });
        let (sim, who) = (Arc::clone(&self.sim), plan.name);
        let events = EventSink::new(move |event| sim.note(who, format_args!("{event:?}")));
        let clock: Arc<dyn l402t::clock::Clock> = self.clock(&plan.process);
        let settings = PeerSettings { poll_ms: 2_000, ..PeerSettings::default() };
        let folder = DataFolder::open(&self.data(plan.name))?;
        let ln = self.node(plan.name, &life);
        let journal = Arc::new(Journal::open_watched(&folder.journal(), Arc::clone(&life) as _)?);
        let guardian = Guardian::new(journal, Arc::clone(&ln), Arc::clone(&api), Arc::clone(&clock), events.clone());
        self.history.begins(plan.name, self.sim.elapsed_ms());
        let doing = "read the run";
        let view = tokio::select! {
            biased;
            view = patiently(&clock, &events, settings.give_up_after_ms, doing, || api.run()) => view,
            never = guardian.guard() => match never {},
        };
        drop(guardian);
        let view = view.map_err(|failure| PeerError::api(doing, 0, failure))?;
        let secret = *Blake3Hash::of(plan.name.as_bytes()).as_bytes();
        let parts = PeerParts {
            folder,
            key: IdentityKey::from_secret_bytes(&secret).expect("a key"),
            api,
            ln,
            clock,
            settings,
            events,
        };
        let session = Session::open_watched(parts, &view, Arc::clone(&life) as _)?;
        let trainer = TrainerSlot::new(Box::new(NoTraining { name: plan.name, good: plan.good }));
        Ok(session.serve(&trainer, None).await?.unfinished)
    }
}
