//! From a round's opening to a signed commitment: blobs, training on a thread of its own, and the files that training
//! leaves behind.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::PeerError;
use super::events::{EventSink, PeerEvent};
use super::folder::{self, StateName};
use super::session::{CoordinatorClock, Session};
use super::stage::{Entry, Stage};
use super::trainer::{LocalUpdate, Onlooker, RoundWork, StepReport, TrainerSlot};
use crate::clock::Stopwatch;
use crate::offload;
use crate::protocol::api::RoundView;
use crate::protocol::ids::{Blake3Hash, RoundNumber, UnixMs};
use crate::protocol::shards;
use crate::protocol::sign::Statement;
use crate::protocol::statements::{Commitment, RoundOpening};

impl Session {
    /// Trains for a round and journals the signed commitment. `None` if the round takes no more commitments by then.
    pub(super) async fn train(&self, view: &RoundView, trainer: &TrainerSlot) -> Result<Option<Entry>, PeerError> {
        let opening = &view.opening.body;
        self.begin_round(opening.round);
        self.emit(&PeerEvent::RoundStarted {
            round: opening.round,
            checkpoint: opening.checkpoint,
            commit_in_ms: opening.commit_deadline_ms.0.saturating_sub(self.coordinator_now().0),
        });
        let work = self.prepare(opening).await?;
        let watch = self.timer();
        let Some(update) = self.run_trainer(work, opening, trainer).await? else { return Ok(None) };
        let train_ms = watch.elapsed_ms();
        let payload_bytes = update.payload.len() as u64;
        self.emit(&PeerEvent::Trained {
            round: opening.round,
            train_ms,
            payload_bytes,
            dense_bytes: update.dense_bytes,
        });
        if self.coordinator_now() > opening.commit_deadline_ms {
            return Ok(None);
        }
        let payload = Blake3Hash::of(&update.payload);
        folder::write_durably(&self.parts.folder.payload(&payload), &update.payload)?;
        let commitment = Commitment {
            run: self.terms.run,
            round: opening.round,
            opening: opening.digest(),
            peer: self.parts.key.id(),
            payload,
            payload_bytes,
            claim: None,
        };
        let entry = Entry {
            contribution: commitment.contribution_id(),
            commitment: self.parts.key.sign(commitment),
            dense_bytes: update.dense_bytes,
            train_ms,
            lock_ms: None,
            stage: Stage::Committed,
        };
        self.save(&entry, &[])?;
        Ok(Some(entry))
    }

    /// Downloads what the round needs, unless it is here already or can be made from what is.
    pub(super) async fn prepare(&self, opening: &RoundOpening) -> Result<RoundWork, PeerError> {
        let folder = &self.parts.folder;
        let (run, round) = (&self.terms.run, opening.round);
        self.tidy(round)?;
        let manifest = self.terms.training()?;
        let model_config = self.blob("download the model's configuration", manifest.model_config).await?;
        self.catch_up(opening, &model_config).await?;
        let data = &manifest.training_data;
        let mut training_data = Vec::new();
        for place in shards::assigned(data, run, round, &self.parts.key.id()) {
            let path = self.blob("download the training data", data.shards[place].hash).await;
            training_data.push((place, path.map_err(|error| of_shard(place, error))?));
        }
        let work = RoundWork {
            manifest: manifest.clone(),
            round,
            peer: self.parts.key.id(),
            model_config,
            training_data,
            checkpoint: self.blob("download the checkpoint", opening.checkpoint).await?,
            state_folder: folder.states(),
            state: self.journal.last_accepted(*run)?.map(|accepted| StateName::After(accepted).of(run)),
            staged_state: StateName::After(round).of(run),
            partial_state: StateName::Within(round).of(run),
        };
        // All shards stay: they come up again, and are a part of what somebody decided to train on.
        let kept = data.shards.iter().map(|shard| shard.hash);
        let kept: Vec<Blake3Hash> = kept.chain([manifest.model_config, opening.checkpoint]).collect();
        folder.keep_blobs(&kept)?;
        Ok(work)
    }

    /// A blob's file, downloaded once.
    async fn blob(&self, doing: &'static str, hash: Blake3Hash) -> Result<PathBuf, PeerError> {
        let path = self.parts.folder.blob(&hash);
        let events = self.parts.events.clone();
        let progress = move |bytes, total_bytes| events.emit(&PeerEvent::Download { doing, bytes, total_bytes });
        let done = self.patiently(doing, || self.parts.api.download(hash, &path, &progress)).await;
        done.map_err(|failure| self.failed(doing, failure))?;
        Ok(path)
    }

    async fn run_trainer(
        &self,
        work: RoundWork,
        opening: &RoundOpening,
        trainer: &TrainerSlot,
    ) -> Result<Option<LocalUpdate>, PeerError> {
        let stop = StopOnDrop(Arc::new(AtomicBool::new(false)));
        let mut onlooker = RoundOnlooker {
            round: opening.round,
            deadline: opening.commit_deadline_ms,
            clock: self.coordinator_clock(),
            events: self.parts.events.clone(),
            stop: stop.0.clone(),
            watch: Stopwatch::start(),
            tokens: 0,
        };
        let slot = trainer.clone();
        let trained = offload::run(move || slot.lock().contribute(&work, &mut onlooker)).await;
        trained.unwrap_or_else(|error| Err(PeerError::Training(error.to_string())))
    }

    /// Removes what no contribution needs any more. `current` is the round that is being worked on.
    ///
    /// The state after a round is kept while its contribution is undecided, and then if it is the latest accepted one: an
    /// update that is not in the next checkpoint was never sent, as far as error feedback goes.
    pub(super) fn tidy(&self, current: RoundNumber) -> Result<(), PeerError> {
        let folder = &self.parts.folder;
        let unfinished = self.journal.unfinished(None)?;
        let payloads: Vec<Blake3Hash> = unfinished.iter().map(|entry| entry.commitment.body.payload).collect();
        folder.keep_payloads(&payloads, current)?;
        let accepted = self.journal.last_accepted(self.terms.run)?;
        let undecided: Vec<RoundNumber> =
            unfinished.iter().filter(|entry| entry.run() == self.terms.run).map(Entry::round).collect();
        let committed = self.journal.entry(self.terms.run, current)?.is_some();
        folder.keep_states(&self.terms.run, |state| match state {
            StateName::After(round) => Some(round) == accepted || undecided.contains(&round),
            StateName::Within(round) => round == current && !committed,
        })
    }
}

/// Says which training shard was refused.
fn of_shard(place: usize, error: PeerError) -> PeerError {
    let named = |text: String| format!("training shard {place}: {text}");
    match error {
        PeerError::Untrusted(detail) => PeerError::Untrusted(named(detail)),
        PeerError::Refused { doing, code, message, fix } => {
            PeerError::Refused { doing, code, message: named(message), fix }
        }
        other => other,
    }
}

/// Tells the trainer to stop when nobody waits for it any more.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Looks on for a round: tells of the steps, and stops what comes too late.
struct RoundOnlooker {
    round: RoundNumber,
    deadline: UnixMs,
    clock: CoordinatorClock,
    events: EventSink,
    stop: Arc<AtomicBool>,
    watch: Stopwatch,
    tokens: u64,
}

impl Onlooker for RoundOnlooker {
    fn step(&mut self, report: StepReport) {
        self.tokens += report.tokens;
        self.events.emit(&PeerEvent::Step {
            round: self.round,
            step: report.step,
            steps: report.steps,
            loss_nats: report.loss_nats,
            tokens_per_s: (self.tokens * 1_000).checked_div(self.watch.elapsed_ms()).unwrap_or(0),
        });
    }

    fn should_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.clock.now() > self.deadline
    }
}
