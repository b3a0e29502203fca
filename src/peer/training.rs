//! From a round's opening to a signed commitment: blobs, training on a thread of its own, and the files that training
//! leaves behind.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::PeerError;
use super::events::{EventSink, PeerEvent};
use super::folder;
use super::session::{CoordinatorClock, Session};
use super::stage::{Ending, Entry, Stage};
use super::trainer::{LocalUpdate, Onlooker, RoundWork, StepReport, TrainerSlot};
use crate::clock::Stopwatch;
use crate::protocol::api::RoundView;
use crate::protocol::ids::{Blake3Hash, RoundNumber, UnixMs};
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
        let watch = Stopwatch::start();
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
            run: self.run,
            round: opening.round,
            opening: opening.digest(),
            peer: self.parts.key.id(),
            payload,
            payload_bytes,
        };
        let entry = Entry {
            contribution: commitment.contribution_id(),
            commitment: self.parts.key.sign(commitment),
            dense_bytes: update.dense_bytes,
            train_ms,
            lock_ms: None,
            stage: Stage::Trained,
        };
        self.save(&entry, &[])?;
        folder::remove_if_there(&self.parts.folder.partial_state(&self.run, opening.round))?;
        Ok(Some(entry))
    }

    /// Downloads what the round needs, unless it is here already.
    async fn prepare(&self, opening: &RoundOpening) -> Result<RoundWork, PeerError> {
        let folder = &self.parts.folder;
        let (run, round) = (&self.run, opening.round);
        let work = RoundWork {
            manifest: self.manifest.clone(),
            round,
            peer: self.parts.key.id(),
            model_config: self.blob("download the model's configuration", self.manifest.model_config).await?,
            training_data: self.blob("download the training data", self.manifest.training_data).await?,
            checkpoint: self.blob("download the checkpoint", opening.checkpoint).await?,
            state: folder.state(run),
            staged_state: folder.staged_state(run, round),
            partial_state: folder.partial_state(run, round),
        };
        folder.keep_blobs(&[self.manifest.model_config, self.manifest.training_data, opening.checkpoint])?;
        Ok(work)
    }

    /// A blob's file, downloaded once. A file under a blob's name was verified when it was put there.
    async fn blob(&self, doing: &'static str, hash: Blake3Hash) -> Result<PathBuf, PeerError> {
        let path = self.parts.folder.blob(&hash);
        if path.exists() {
            return Ok(path);
        }
        let events = self.parts.events.clone();
        let progress = move |bytes, total_bytes| events.emit(&PeerEvent::Download { doing, bytes, total_bytes });
        let max_bytes = self.parts.settings.max_blob_bytes;
        let done = self.patiently(doing, || self.parts.api.download(hash, &path, max_bytes, &progress)).await;
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
        let trained = tokio::task::spawn_blocking(move || slot.lock().contribute(&work, &mut onlooker)).await;
        trained.unwrap_or_else(|error| Err(PeerError::Training(error.to_string())))
    }

    /// Once a contribution has ended: the trainer's state becomes what the verdict says, and the payload goes.
    pub(super) fn settle_files(&self, entry: &Entry, ending: &Ending) -> Result<(), PeerError> {
        let files = &self.parts.folder;
        let staged = files.staged_state(&entry.run(), entry.round());
        match ending {
            // Not over the state of a later round, which may have been decided first.
            Ending::Accepted { .. } if staged.exists() && !self.accepted_after(entry)? => {
                folder::rename_durably(&staged, &files.state(&entry.run()))?;
            }
            // An update that is not in the next checkpoint was never sent, as far as error feedback goes.
            Ending::Accepted { .. }
            | Ending::Rejected { .. }
            | Ending::FeeUnpaid { .. }
            | Ending::NoTicket { .. }
            | Ending::Missed { .. } => folder::remove_if_there(&staged)?,
        }
        folder::remove_if_there(&files.payload(&entry.commitment.body.payload))?;
        folder::remove_if_there(&files.outbox(entry.round()))
    }

    fn accepted_after(&self, entry: &Entry) -> Result<bool, PeerError> {
        Ok(self.journal.entries()?.iter().any(|other| {
            other.run() == entry.run()
                && other.round() > entry.round()
                && matches!(other.stage, Stage::Closed(Ending::Accepted { .. }))
        }))
    }

    /// On start: files of contributions that ended just before a crash, and of training that never came to a commitment.
    pub(super) fn tidy(&self) -> Result<(), PeerError> {
        for entry in self.journal.entries()? {
            if let Stage::Closed(ending) = &entry.stage {
                self.settle_files(&entry, ending)?;
            }
        }
        for (run, round, path) in self.parts.folder.staged_states()? {
            if run == self.run && self.journal.entry(run, round)?.is_none() {
                folder::remove_if_there(&path)?;
            }
        }
        Ok(())
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
