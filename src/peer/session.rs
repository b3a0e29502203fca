//! One peer in one run: what every step needs, and patience with the coordinator.

use std::future::Future;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::broadcast;

use super::api::{ApiFailure, BountyApi, CoordinatorApi};
use super::checks;
use super::error::PeerError;
use super::events::{EventSink, PeerEvent};
use super::folder::DataFolder;
use super::guard::Guardian;
use super::journal::{Journal, Line};
use super::settings::PeerSettings;
use super::stage::Entry;
use super::terms::RunTerms;
use crate::clock::{Clock, Timer};
use crate::ln::bolt11::Network;
use crate::ln::{Lightning, LnError, LnEvent};
use crate::protocol::api::{BountyView, RoundView, RunView};
use crate::protocol::ids::{RoundNumber, UnixMs};
use crate::protocol::sign::IdentityKey;
use crate::store::database::{CommitObserver, Unwatched};

/// First and longest pause between two tries.
const FIRST_PAUSE_MS: u64 = 250;
const LONGEST_PAUSE_MS: u64 = 10_000;

/// How long this peer's own node may be unavailable.
const NODE_PATIENCE_MS: u64 = 60_000;

/// What a peer is made of.
#[derive(Debug)]
pub struct PeerParts {
    /// The data folder.
    pub folder: DataFolder,
    /// Who this is.
    pub key: IdentityKey,
    /// The coordinator.
    pub api: Arc<dyn CoordinatorApi>,
    /// This peer's own node.
    pub ln: Arc<dyn Lightning>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What it may do.
    pub settings: PeerSettings,
    /// Where it tells about itself.
    pub events: EventSink,
}

/// One peer in one run.
#[derive(Debug)]
pub struct Session {
    pub(super) parts: PeerParts,
    pub(super) journal: Arc<Journal>,
    pub(super) guardian: Guardian,
    pub(super) terms: RunTerms,
    pub(super) network: Network,
    /// The coordinator's clock minus this one's, in ms.
    offset_ms: Arc<AtomicI64>,
    /// The round that is being worked on since this process was started, and since when.
    working: Mutex<Option<(RoundNumber, Timer)>>,
}

impl Session {
    /// Opens the journal and checks the run against the owner's limits.
    pub fn open(parts: PeerParts, view: &RunView) -> Result<Self, PeerError> {
        Self::open_watched(parts, view, Arc::new(Unwatched))
    }

    /// [`Session::open`], with someone to be told of the journal's every commit.
    pub fn open_watched(
        parts: PeerParts,
        view: &RunView,
        observer: Arc<dyn CommitObserver>,
    ) -> Result<Self, PeerError> {
        let manifest = checks::check_run(view, &parts.settings.limits)?.clone();
        Self::of(parts, RunTerms::of_training(view.run, manifest), &view.lightning.network, observer)
    }

    /// The same for a bounty's run. The owner's limits are checked where it is entered: a sponsor has others.
    pub fn open_bounty(parts: PeerParts, view: &BountyView) -> Result<Self, PeerError> {
        let manifest = checks::check_bounty(view)?.clone();
        Self::of(parts, RunTerms::of_bounty(view.run, manifest), &view.lightning.network, Arc::new(Unwatched))
    }

    fn of(
        parts: PeerParts,
        terms: RunTerms,
        network: &str,
        observer: Arc<dyn CommitObserver>,
    ) -> Result<Self, PeerError> {
        let network = network
            .parse()
            .map_err(|_| PeerError::Untrusted(format!("its Lightning network {network:?} is none that is known")))?;
        let journal = Arc::new(Journal::open_watched(&parts.folder.journal(), observer)?);
        let PeerParts { ln, api, clock, events, .. } = &parts;
        let guardian = Guardian::new(Arc::clone(&journal), ln.clone(), api.clone(), clock.clone(), events.clone());
        Ok(Self { parts, journal, guardian, terms, network, offset_ms: Arc::default(), working: Mutex::new(None) })
    }

    /// The journal.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Does something, and guards held tranches meanwhile.
    pub(super) async fn guarded<T>(
        &self,
        work: impl Future<Output = Result<T, PeerError>> + Send,
    ) -> Result<T, PeerError> {
        tokio::select! {
            biased;
            ended = work => ended,
            never = self.guardian.guard() => match never {},
        }
    }

    pub(super) fn emit(&self, event: &PeerEvent) {
        self.parts.events.emit(event);
    }

    pub(super) fn save(&self, entry: &Entry, lines: &[Line]) -> Result<(), PeerError> {
        tracing::debug!(contribution = %entry.contribution, round = %entry.round(), stage = entry.stage.name(), "journal");
        Ok(self.journal.save(entry, lines, self.parts.clock.now())?)
    }

    /// The coordinator's time, by which its deadlines go.
    pub(super) fn coordinator_now(&self) -> UnixMs {
        self.coordinator_clock().now()
    }

    /// The same for other threads.
    pub(super) fn coordinator_clock(&self) -> CoordinatorClock {
        CoordinatorClock { clock: self.parts.clock.clone(), offset_ms: self.offset_ms.clone() }
    }

    /// Work on a round begins now.
    pub(super) fn begin_round(&self, round: RoundNumber) {
        *self.working.lock().unwrap_or_else(PoisonError::into_inner) = Some((round, self.timer()));
    }

    /// Since work on the round began; `None` if that was before this process was started.
    pub(super) fn round_ms(&self, round: RoundNumber) -> Option<u64> {
        let working = self.working.lock().unwrap_or_else(PoisonError::into_inner);
        working.as_ref().filter(|(current, _)| *current == round).map(|(_, watch)| watch.elapsed_ms())
    }

    /// A round, with its opening checked.
    pub(super) async fn round(&self, round: RoundNumber) -> Result<RoundView, PeerError> {
        let doing = "read the round";
        let view = self.patiently(doing, || self.parts.api.round(round)).await;
        let view = view.map_err(|failure| self.failed(doing, failure))?;
        checks::check_opening(&view.opening, &self.terms, round)?;
        self.go_by(view.now_ms);
        Ok(view)
    }

    /// The coordinator has said what time it is.
    pub(super) fn go_by(&self, coordinators_now: UnixMs) {
        let offset = i128::from(coordinators_now.0) - i128::from(self.parts.clock.now().0);
        self.offset_ms.store(i64::try_from(offset).unwrap_or(0), Ordering::Relaxed);
    }

    /// The run as it is now; it must still be the same run.
    pub(super) async fn run_view(&self) -> Result<RunView, PeerError> {
        let doing = "read the run";
        let view = self.patiently(doing, || self.parts.api.run()).await;
        let view = view.map_err(|failure| self.failed(doing, failure))?;
        let run = self.terms.run;
        if view.run == run {
            Ok(view)
        } else {
            Err(PeerError::Untrusted(format!(
                "it has changed from run {run} to run {}: start again to join that",
                view.run
            )))
        }
    }

    /// The session's bounty as it is now.
    pub(super) async fn bounty(&self, board: &dyn BountyApi) -> Result<BountyView, PeerError> {
        let doing = "read the bounty";
        let view = self.patiently(doing, || board.bounty()).await;
        self.is_ours(view.map_err(|failure| self.failed(doing, failure))?)
    }

    /// A view of the session's bounty, if it can be believed; it must still be the same run.
    pub(super) fn is_ours(&self, view: BountyView) -> Result<BountyView, PeerError> {
        checks::check_bounty(&view)?;
        let run = self.terms.run;
        if view.run != run {
            return Err(PeerError::Untrusted(format!("the bounty's run was {run}, and now it is {}", view.run)));
        }
        self.go_by(view.now_ms);
        Ok(view)
    }

    /// What a failed call means once it is not tried again.
    pub(super) fn failed(&self, doing: &'static str, failure: ApiFailure) -> PeerError {
        PeerError::api(doing, self.parts.settings.give_up_after_ms / 1_000, failure)
    }

    /// Repeats a call while the coordinator can't be reached, with growing pauses, within the owner's budget.
    pub(super) async fn patiently<T, F, Fut>(&self, doing: &'static str, call: F) -> Result<T, ApiFailure>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, ApiFailure>>,
    {
        let (clock, budget_ms) = (&self.parts.clock, self.parts.settings.give_up_after_ms);
        patiently(clock, &self.parts.events, budget_ms, doing, call).await
    }

    /// Repeats a call to the node while it is unavailable. For calls that change nothing when repeated: all but `pay`.
    pub(super) async fn ask_node<T, F, Fut>(&self, mut call: F) -> Result<T, LnError>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, LnError>>,
    {
        let watch = self.timer();
        loop {
            match call().await {
                Err(LnError::Unavailable(_)) if watch.elapsed_ms() < NODE_PATIENCE_MS => self.pause().await,
                other => return other,
            }
        }
    }

    /// Waits for a hint from the node, at most for the polling time.
    pub(super) async fn hint(&self, hints: &mut broadcast::Receiver<LnEvent>) {
        tokio::select! {
            biased;
            hint = hints.recv() => match hint {
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                // A node that tells nothing any more is polled.
                Err(broadcast::error::RecvError::Closed) => self.pause().await,
            },
            () = self.pause() => {}
        }
    }

    pub(super) async fn pause(&self) {
        self.parts.clock.sleep(self.parts.settings.poll_ms).await;
    }

    /// Measures by this peer's clock.
    pub(super) fn timer(&self) -> Timer {
        Timer::start(&self.parts.clock)
    }
}

/// This machine's clock, put right by what the coordinator last said about its own.
#[derive(Clone, Debug)]
pub(super) struct CoordinatorClock {
    clock: Arc<dyn Clock>,
    offset_ms: Arc<AtomicI64>,
}

impl CoordinatorClock {
    pub(super) fn now(&self) -> UnixMs {
        UnixMs(self.clock.now().0.saturating_add_signed(self.offset_ms.load(Ordering::Relaxed)))
    }
}

/// Repeats a call while it ends in [`ApiFailure::Unreachable`], until `budget_ms` has gone by.
pub async fn patiently<T, F, Fut>(
    clock: &Arc<dyn Clock>,
    events: &EventSink,
    budget_ms: u64,
    doing: &'static str,
    mut call: F,
) -> Result<T, ApiFailure>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, ApiFailure>>,
{
    let watch = Timer::start(clock);
    let mut pause_ms = FIRST_PAUSE_MS;
    loop {
        let reason = match call().await {
            Err(ApiFailure::Unreachable(reason)) => reason,
            other @ (Ok(_) | Err(ApiFailure::Refused { .. } | ApiFailure::Garbled(_) | ApiFailure::Disk { .. })) => {
                return other;
            }
        };
        let left_ms = budget_ms.saturating_sub(watch.elapsed_ms());
        if left_ms == 0 {
            return Err(ApiFailure::Unreachable(reason));
        }
        events.emit(&PeerEvent::Waiting { doing, reason, left_ms });
        clock.sleep(pause_ms.min(left_ms)).await;
        pause_ms = (pause_ms * 2).min(LONGEST_PAUSE_MS);
    }
}
