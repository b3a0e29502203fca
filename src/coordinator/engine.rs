//! The engine: looks at what there is to do, does it, and waits for the next thing.
//!
//! Every step may be repeated. Whatever it finds, it finds again after a crash.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, broadcast};

use super::bounty::{BountyState, Funding, Takes};
use super::challenges::Arriving;
use super::core::Core;
use super::error::CoordinatorError;
use super::handle::{BountyHandle, CoordinatorHandle};
use super::judging::{Bench, Decided, Judge};
use super::news::RunEvent;
use super::run::{self, DataFolder, Prepared, Run, RunTask};
use super::secrets::Entropy;
use super::settings::{ChannelSettings, Gate, RunSettings};
use super::status;
use crate::clock::{Clock, Timer};
use crate::ln::bolt11::Network;
use crate::ln::{Lightning, LnError, LnEvent, NodeInfo};
use crate::offload::{self, Task};
use crate::protocol::amount::Msat;
use crate::protocol::api::Phase;
use crate::protocol::ids::{Blake3Hash, RoundNumber, UnixMs};
use crate::protocol::round::Event;
use crate::store::StoreError;
use crate::store::coordinator as tables;
use crate::store::database::CommitObserver;

/// How long the engine waits for news before it looks by itself: events may be lost.
const LOOK_MS: u64 = 1_000;
/// Events come in crowds: so much time is left between two looks.
const BREATHER_MS: u64 = 20;
/// How old the height of the chain may be: far less than a block takes.
const HEIGHT_MS: u64 = 1_000;
/// How long it waits after something failed.
const FAILURE_MS: u64 = 2_000;
/// How long it waits before a round that couldn't be judged is judged again. Payments go on in the meantime.
const JUDGE_FAILURE_MS: u64 = 30_000;
/// How long it waits while the disk is full, and for how long in all until it ends.
const FULL_DISK_MS: u64 = 10_000;
const FULL_DISK_PATIENCE_MS: u64 = 600_000;

/// What may change from one start to the next.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Channels to peers.
    pub channels: ChannelSettings,
    /// The run ends after this many rounds, if the held-out pool lasts so long.
    pub max_rounds: Option<u32>,
    /// Where peers on this machine find the in-process regtest chain.
    pub regtest_rpc: Option<String>,
    /// Who takes the fee.
    pub gate: Gate,
    /// What a bounty's package costs; zero: nothing.
    pub package_fee: Msat,
}

/// Held while it is decided whether to open a channel, so that no peer gets two. All who share a node have clones of one.
#[derive(Clone, Debug, Default)]
pub struct ChannelGate(Arc<tokio::sync::Mutex<()>>);

impl ChannelGate {
    pub(super) async fn lock(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.0.lock().await
    }
}

/// What a coordinator is put into.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Its node.
    pub ln: Arc<dyn Lightning>,
    /// Who decides about that node's channels holds it.
    pub channel_gate: ChannelGate,
    /// Its judge.
    pub judge: Arc<dyn Judge>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Told of every commit: tests stop everything at the n-th one.
    pub observer: Arc<dyn CommitObserver>,
    /// Where the secrets of a new run come from.
    pub entropy: Arc<dyn Entropy>,
}

/// What requests and the engine share.
#[derive(Debug)]
pub(super) struct Shared {
    core: Arc<Mutex<Core>>,
    pub(super) run: Arc<Run>,
    pub(super) ln: Arc<dyn Lightning>,
    pub(super) channel_gate: ChannelGate,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) options: Options,
    pub(super) network: Network,
    /// Challenges that wait for the next commit.
    pub(super) arriving: Arc<Arriving>,
    /// Has anybody asked for the run since the last round opened?
    asked: Arc<AtomicBool>,
    wake: Notify,
}

impl Shared {
    /// Runs something on the state, off the async threads.
    pub(super) async fn with<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Core) -> Result<T, CoordinatorError> + Send + 'static,
    ) -> Result<T, CoordinatorError> {
        let core = Arc::clone(&self.core);
        // What a panic left is whole: memory follows the disk, which follows a finished transaction.
        let act = move || act(&mut core.lock().unwrap_or_else(PoisonError::into_inner));
        offload::run(act).await.unwrap_or(Err(CoordinatorError::Panicked))
    }

    /// Looks something up in the state: that takes microseconds, less than going to another thread does. Only where
    /// somebody has the state already (and may be writing) it waits off the async threads.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Core) -> Result<T, CoordinatorError> + Send + 'static,
    ) -> Result<T, CoordinatorError> {
        match self.core.try_lock() {
            Ok(core) => return act(&core),
            Err(TryLockError::Poisoned(left)) => return act(&left.into_inner()),
            Err(TryLockError::WouldBlock) => {}
        }
        self.with(move |core| act(core)).await
    }

    /// Has the engine look at once.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Notes the height of the chain.
    pub(super) async fn look_at_chain(&self) -> Result<(), CoordinatorError> {
        let read_ms = self.with(|core| Ok(core.height.map(|_| core.height_read_ms))).await?;
        let now_ms = self.clock.uptime_ms();
        if read_ms.is_some_and(|read_ms| now_ms.saturating_sub(read_ms) < HEIGHT_MS) {
            return Ok(());
        }
        let height = match self.ln.info().await {
            Ok(info) => Some(info.block_height),
            Err(error) => {
                tracing::warn!("no block height: {error}");
                None
            }
        };
        self.with(move |core| {
            (core.height, core.height_read_ms) = (height, now_ms);
            Ok(())
        })
        .await
    }

    /// Notes that somebody is there: rounds are worth opening.
    pub(super) fn somebody_asks(&self) {
        if !self.asked.swap(true, Ordering::SeqCst) {
            self.wake();
        }
    }

    /// Rounds of the run in all.
    pub(super) fn last_rounds(&self) -> u32 {
        let pool = self.run.training().map_or(u32::MAX, |training| training.manifest.body.held_out.rounds());
        self.options.max_rounds.map_or(pool, |most| most.min(pool))
    }
}

/// A round being judged.
#[derive(Debug)]
struct Judging {
    round: RoundNumber,
    task: Task<Result<Decided, String>>,
}

/// A coordinator: the engine and its service.
#[derive(Debug)]
pub struct Coordinator {
    pub(super) shared: Arc<Shared>,
    pub(super) bench: Bench,
    pub(super) funding: Funding,
    judging: Option<Judging>,
    /// Not to be tried before, after a failure.
    judge_again_ms: UnixMs,
    /// Since the disk has been full, and how much was written before.
    disk_full: Option<(Timer, u64)>,
    ln_events: broadcast::Receiver<LnEvent>,
    events: broadcast::Sender<RunEvent>,
    finished: bool,
}

impl Coordinator {
    /// Opens a data folder, starting a run if it has none: as it was `prepared`, if it was. Serve requests only after
    /// [`Coordinator::reconcile`].
    pub async fn open(
        folder: &Path,
        settings: &RunSettings,
        prepared: Option<Prepared>,
        options: Options,
        surroundings: Surroundings,
    ) -> Result<Self, CoordinatorError> {
        let Surroundings { ln, channel_gate, judge, clock, observer, entropy } = surroundings;
        let (path, settings, time) = (folder.to_owned(), settings.clone(), Arc::clone(&clock));
        let open = move || {
            let mut data = DataFolder::open(&path, observer)?;
            let run = run::open_or_start(&mut data, &path, &settings, prepared, &*time, &*entropy)?;
            Core::new(data, Arc::new(run), time, &path)
        };
        let core = offload::run(open).await.unwrap_or(Err(CoordinatorError::Panicked))?;
        Self::assemble(core, options, (ln, channel_gate), clock, Bench::Training(judge)).await
    }

    /// A coordinator of either kind of run.
    pub(super) async fn assemble(
        core: Core,
        options: Options,
        (ln, channel_gate): (Arc<dyn Lightning>, ChannelGate),
        clock: Arc<dyn Clock>,
        bench: Bench,
    ) -> Result<Self, CoordinatorError> {
        let run = Arc::clone(&core.run);
        let (ln_events, events) = (ln.events(), core.events.clone());
        let network = network_of(&ln.info().await?)?;
        let shared = Arc::new(Shared {
            core: Arc::new(Mutex::new(core)),
            run,
            ln,
            channel_gate,
            clock,
            options,
            network,
            arriving: Arc::default(),
            asked: Arc::default(),
            wake: Notify::new(),
        });
        Ok(Self {
            shared,
            bench,
            funding: Funding::default(),
            judging: None,
            judge_again_ms: UnixMs(0),
            disk_full: None,
            ln_events,
            events,
            finished: false,
        })
    }

    /// The run.
    pub fn run_info(&self) -> &Run {
        &self.shared.run
    }

    /// What the HTTP server talks to.
    pub fn handle(&self) -> Arc<dyn CoordinatorHandle> {
        Arc::clone(&self.shared) as Arc<dyn CoordinatorHandle>
    }

    /// What the HTTP server talks to about a bounty.
    pub fn bounty_handle(&self) -> Arc<dyn BountyHandle> {
        Arc::clone(&self.shared) as Arc<dyn BountyHandle>
    }

    /// What happens from now on.
    pub fn events(&self) -> broadcast::Receiver<RunEvent> {
        self.events.subscribe()
    }

    /// Has the last round closed, and no money is locked any more?
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Brings fees and payments up to date with the node, after whatever happened while nobody looked.
    pub async fn reconcile(&mut self) -> Result<(), CoordinatorError> {
        self.shared.look_at_chain().await?;
        self.shared.look_at_all_fees().await?;
        self.shared.look_at_all_sales().await?;
        self.shared.move_payments().await
    }

    /// Does what there is to do now.
    pub async fn step(&mut self) -> Result<(), CoordinatorError> {
        self.shared.look_at_chain().await?;
        self.open_round().await?;
        self.shared.watch_fees().await?;
        self.shared.watch_sales().await?;
        self.tick().await?;
        self.shared.move_payments().await?;
        // What it waits for must not keep an agent's reward waiting.
        self.fund().await?;
        self.judge().await?;
        self.open_round().await
    }

    /// Runs until dropped (safe at any await: what was begun is found again). Ends by itself only to report an error that no repetition can mend.
    pub async fn run(&mut self) -> Result<(), CoordinatorError> {
        loop {
            let wait_ms = match self.step().await {
                Ok(()) => {
                    self.look_at_disk().await?;
                    self.wait_ms().await?
                }
                Err(error) => {
                    if !is_passing(&error) || self.disk_is_full_for_good(&error).await? {
                        return Err(error);
                    }
                    tracing::error!("{error}");
                    self.failed_ms(&error)
                }
            };
            self.shared.clock.sleep(BREATHER_MS).await;
            self.wait(wait_ms).await;
        }
    }

    /// How long to wait after a failure.
    fn failed_ms(&mut self, error: &CoordinatorError) -> u64 {
        if is_full(error) || matches!(error, CoordinatorError::Judge { .. }) {
            self.judge_again_ms = self.shared.clock.now().plus_ms(JUDGE_FAILURE_MS);
        }
        if is_full(error) { FULL_DISK_MS } else { FAILURE_MS }
    }

    /// Notes that the disk is full, and tells the owner once. True when it has been for too long.
    async fn disk_is_full_for_good(&mut self, error: &CoordinatorError) -> Result<bool, CoordinatorError> {
        if !is_full(error) {
            return Ok(false);
        }
        if let Some((full, _)) = &self.disk_full {
            return Ok(full.elapsed_ms() >= FULL_DISK_PATIENCE_MS);
        }
        self.disk_full = Some((Timer::start(&self.shared.clock), self.commits().await?));
        let event = RunEvent::DiskFull { problem: error.to_string(), left_ms: FULL_DISK_PATIENCE_MS };
        // Nobody need listen.
        let _ = self.events.send(event);
        Ok(false)
    }

    /// Only what was written shows that there is room again.
    async fn look_at_disk(&mut self) -> Result<(), CoordinatorError> {
        if let Some((_, before)) = self.disk_full
            && self.commits().await? > before
        {
            self.disk_full = None;
            let _ = self.events.send(RunEvent::DiskFreed);
        }
        Ok(())
    }

    async fn commits(&self) -> Result<u64, CoordinatorError> {
        self.shared.with(|core| Ok(core.db.commits())).await
    }

    async fn wait_ms(&self) -> Result<u64, CoordinatorError> {
        let now = self.shared.clock.now();
        let next =
            |core: &mut Core| Ok(core.rounds.values().filter_map(crate::protocol::round::Round::next_deadline).min());
        let deadline = self.shared.with(next).await?;
        // A deadline is over one millisecond after it.
        Ok(deadline.map_or(LOOK_MS, |deadline| (deadline.0 + 1).saturating_sub(now.0)).clamp(1, LOOK_MS))
    }

    async fn wait(&mut self, at_most_ms: u64) {
        let clock = Arc::clone(&self.shared.clock);
        let judged = async {
            match &mut self.judging {
                Some(judging) => {
                    while !judging.task.is_finished() {
                        clock.sleep(BREATHER_MS).await;
                    }
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = clock.sleep(at_most_ms) => {}
            () = self.shared.wake.notified() => {}
            () = judged => {}
            event = self.ln_events.recv() => if event == Err(RecvError::Closed) {
                // The node has stopped: nothing more will be heard from it, so wait instead of spinning.
                clock.sleep(at_most_ms).await;
            }
        }
    }

    /// Opens the next round once the last one has closed. After one that nobody came to, it waits until somebody asks:
    /// every round uses up held-out windows.
    async fn open_round(&mut self) -> Result<(), CoordinatorError> {
        let most = self.shared.last_rounds();
        let initial = match &self.shared.run.task {
            RunTask::Training(training) => training.manifest.body.initial_checkpoint,
            RunTask::Bounty(bounty) => bounty.manifest.body.posting.body.baseline_tree,
        };
        let asked = Arc::clone(&self.shared.asked);
        let next = self.shared.with(move |core| core.open_next(most, initial, &asked)).await?;
        if let Next::Finished { rounds } = next
            && !self.finished
        {
            self.finished = true;
            // Nobody need listen.
            let _ = self.events.send(RunEvent::RunFinished { rounds });
        }
        Ok(())
    }

    async fn tick(&mut self) -> Result<(), CoordinatorError> {
        self.shared
            .with(|core| {
                let Some(round) = core.open_round() else { return Ok(()) };
                let number = round.number;
                let selling = round.phase == Phase::Committing && core.clock.now() <= round.commit_deadline_ms;
                let open_challenges = if selling { core.promised_seats(number)? } else { 0 };
                let is_last = core.bounty.as_ref().is_some_and(BountyState::is_closing);
                if is_last && selling && open_challenges == 0 {
                    core.apply_event(number, &Event::LastCall)?;
                }
                core.apply_event(number, &Event::Tick { open_challenges, height: core.height })
            })
            .await
    }

    /// Starts to judge, or takes the judge's answer. That reveals preimages, so it waits for a node that tells the height.
    async fn judge(&mut self) -> Result<(), CoordinatorError> {
        let knows_height = self.shared.with(|core| Ok(core.height.is_some())).await?;
        match self.judging.take() {
            Some(judging) if judging.task.is_finished() && knows_height => self.judged(judging).await,
            Some(judging) => {
                self.judging = Some(judging);
                Ok(())
            }
            None => self.start_judging().await,
        }
    }

    async fn start_judging(&mut self) -> Result<(), CoordinatorError> {
        if self.shared.clock.now() < self.judge_again_ms {
            return Ok(());
        }
        let request = |core: &mut Core| {
            let due = core.open_round().filter(|round| round.phase == Phase::Judging);
            let due = due.map(|round| (round.number, round.uploads()));
            due.map(|(number, uploads)| Ok((number, uploads, core.due(number)?))).transpose()
        };
        let Some((round, uploads, due)) = self.shared.with(request).await? else { return Ok(()) };
        let _ = self.events.send(RunEvent::RoundJudging { round, uploads });
        let bench = self.bench.clone();
        let task = Task::start(move || bench.judge(due));
        self.judging = Some(Judging { round, task });
        Ok(())
    }

    async fn judged(&mut self, judging: Judging) -> Result<(), CoordinatorError> {
        let round = judging.round;
        let answer = judging.task.join().await.map_err(|_| CoordinatorError::Panicked)?;
        let decided = answer.map_err(|problem| CoordinatorError::Judge { round: round.0, problem })?;
        let (request, judgement) = match decided {
            Decided::Training(request, judgement) => (request, judgement),
            Decided::Bounty(request, judged) => {
                let again = self.judged_submissions(round, request, judged).await?;
                self.judging = again.map(|decided| Judging { round, task: Task::Done(Ok(decided)) });
                return Ok(());
            }
        };
        let training = self.shared.run.training().ok_or(CoordinatorError::Panicked)?;
        let predicted_tokens = status::predicted_tokens(&training.manifest.body);
        let closed = move |core: &mut Core| {
            if !core.close(round, &request, &judgement)? {
                tracing::warn!(%round, "a lock was lost while the round was being judged: it is judged again without it");
                return Ok(());
            }
            let row = core.round_row(round)?.ok_or(StoreError::Corrupt { what: "round" })?;
            let documents = tables::contributions(core.db.read(), round)?;
            let (Some(transcript), Some(next_checkpoint)) = (row.transcript, row.next_checkpoint) else {
                return Err(StoreError::Corrupt { what: "round" }.into());
            };
            core.tell(RunEvent::RoundClosed {
                round,
                loss_before: judgement.loss_before,
                loss_after: judgement.loss_after,
                predicted_tokens,
                closed_ms: row.state.closed_ms.unwrap_or_default(),
                transcript,
                next_checkpoint,
                contributions: status::contributions(&row.state, &documents),
            });
            Ok(())
        };
        self.shared.with(closed).await
    }
}

/// The network that a node is on.
pub(super) fn network_of(info: &NodeInfo) -> Result<Network, CoordinatorError> {
    let unknown = |_| LnError::Refused(format!("it is on the network {}, which BOLT 11 doesn't know", info.network));
    Ok(info.network.parse().map_err(unknown)?)
}

fn is_full(error: &CoordinatorError) -> bool {
    matches!(error, CoordinatorError::Store(StoreError::Full(_)))
}

/// May the same step succeed if it is tried again?
fn is_passing(error: &CoordinatorError) -> bool {
    match error {
        CoordinatorError::Lightning(_) | CoordinatorError::Refused(_) | CoordinatorError::Illegal(_) => true,
        // Rewards of other rounds are still being settled: that must go on, whatever ails this one.
        CoordinatorError::Judge { .. } | CoordinatorError::Panicked | CoordinatorError::NoBounty => true,
        CoordinatorError::Store(StoreError::Full(_) | StoreError::Io { .. } | StoreError::Sqlite(_)) => true,
        CoordinatorError::Store(
            StoreError::InUse(_)
            | StoreError::NewerSchema { .. }
            | StoreError::Corrupt { .. }
            | StoreError::NoBlob(_)
            | StoreError::DamagedBlob(_)
            | StoreError::LargeBlob { .. }
            | StoreError::Halted,
        ) => false,
        CoordinatorError::MissingSetting { .. }
        | CoordinatorError::BadSetting { .. }
        | CoordinatorError::ChangedSetting { .. }
        | CoordinatorError::Unreadable { .. }
        | CoordinatorError::Model(_)
        | CoordinatorError::Tokens(_)
        | CoordinatorError::Corpus(_) => false,
    }
}

/// What came of looking for the next round.
enum Next {
    /// The run is over.
    Finished { rounds: u32 },
    /// It goes on.
    Going,
}

impl Core {
    fn open_next(&mut self, most: u32, initial: Blake3Hash, asked: &AtomicBool) -> Result<Next, CoordinatorError> {
        let now = self.clock.now();
        match self.bounty.as_ref().map(|bounty| bounty.takes_submissions(now)) {
            Some(Takes::Over) => return Ok(Next::Finished { rounds: tables::count_closed(self.db.read())? }),
            Some(Takes::NotNow) => return Ok(Next::Going),
            Some(Takes::Now) | None => {}
        }
        let (number, previous, checkpoint) = match self.open_round() {
            Some(_) => return Ok(Next::Going),
            None => match tables::last_round(self.db.read())? {
                None => (RoundNumber(0), None, initial),
                Some(last) if last.state.number.next().0 >= most => {
                    let ended = self.rounds.is_empty();
                    return Ok(if ended { Next::Finished { rounds: last.state.number.next().0 } } else { Next::Going });
                }
                Some(_) if self.bounty.is_some() && !asked.load(Ordering::SeqCst) => return Ok(Next::Going),
                Some(last) if last.state.contributions.is_empty() && !asked.load(Ordering::SeqCst) => {
                    return Ok(Next::Going);
                }
                Some(last) => {
                    let checkpoint = last.next_checkpoint.ok_or(StoreError::Corrupt { what: "round" })?;
                    (last.state.number.next(), last.transcript, checkpoint)
                }
            },
        };
        if number.0 >= most {
            return Ok(Next::Going);
        }
        let opening = self.open(number, previous, checkpoint)?.body;
        asked.store(false, Ordering::SeqCst);
        self.tell(RunEvent::RoundOpened {
            round: number,
            checkpoint,
            opened_ms: opening.opened_ms,
            commit_deadline_ms: opening.commit_deadline_ms,
            upload_deadline_ms: opening.upload_deadline_ms,
        });
        Ok(Next::Going)
    }
}
