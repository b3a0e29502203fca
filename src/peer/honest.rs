//! Honest work: trains with libtorch, compresses with error feedback, and keeps what the next round needs.

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::PeerError;
use super::trainer::{self, LocalTrainer, LocalUpdate, Onlooker, RoundWork};
use crate::model::tokens::Tokens;
use crate::model::{Checkpoint, LlamaConfig};
use crate::protocol::codec;
use crate::protocol::ids::{Blake3Hash, RunId};
use crate::protocol::manifest::ShardParams;
use crate::train::TrainError;
use crate::train::compress::Compressor;
use crate::train::data::{Assignment, TrainingData};
use crate::train::inner::{Begin, InnerLoop, Observer, StepReport, Trainer, TrainerOptions};
use crate::train::state::{LocalState, OptimiserState, Snapshot, StateFile};

/// After so many inner steps unfinished work is kept, in case this process is killed.
const SNAPSHOT_STEPS: NonZeroU32 = NonZeroU32::new(16).unwrap();

/// Trains honestly.
#[derive(Debug)]
pub struct Honest {
    options: TrainerOptions,
    /// The model's memory, kept from round to round of one run.
    trainer: Option<(RunId, Trainer)>,
}

impl Honest {
    /// As the machine's owner wants it.
    pub fn new(options: TrainerOptions) -> Self {
        Self { options, trainer: None }
    }

    fn trainer(&mut self, run: RunId, start: &Checkpoint, work: &RoundWork) -> Result<&mut Trainer, PeerError> {
        let known = self.trainer.take().filter(|(known, _)| *known == run);
        let trainer = match known {
            Some((_, trainer)) => trainer,
            None => {
                let (config, layout) = (start.config.clone(), start.layout.clone());
                Trainer::new(config, layout, work.manifest.training, self.options).map_err(failed)?
            }
        };
        Ok(&mut self.trainer.insert((run, trainer)).1)
    }
}

fn failed(error: impl std::fmt::Display) -> PeerError {
    PeerError::Training(error.to_string())
}

fn read(path: &Path) -> Result<Vec<u8>, PeerError> {
    std::fs::read(path).map_err(|error| PeerError::io("read", path, error))
}

/// A training shard, checked again: it was downloaded whole, but disks lose bits.
fn shard(place: usize, expected: &ShardParams, path: &Path, vocab_size: u32) -> Result<Tokens, PeerError> {
    let bytes = read(path)?;
    let found = Blake3Hash::of(&bytes);
    if found != expected.hash {
        return Err(PeerError::Training(format!(
            "training shard {place} ({}) has the hash {found}, the run's manifest says {}; start again, and it is downloaded \
             again",
            path.display(),
            expected.hash
        )));
    }
    let tokens = Tokens::from_token_file(&bytes, vocab_size)
        .map_err(|error| PeerError::Training(format!("training shard {place}: {error}")))?;
    if tokens.len() as u64 != expected.tokens {
        let (found, expected) = (tokens.len(), expected.tokens);
        let problem = format!("training shard {place} has {found} tokens, the run's manifest says {expected}");
        return Err(PeerError::Training(problem));
    }
    Ok(tokens)
}

impl LocalTrainer for Honest {
    fn contribute(&mut self, work: &RoundWork, onlooker: &mut dyn Onlooker) -> Result<Option<LocalUpdate>, PeerError> {
        let run = work.manifest.run_id();
        let config = LlamaConfig::from_json(&read(&work.model_config)?).map_err(failed)?;
        let vocab_size = u32::try_from(config.vocab_size).map_err(failed)?;
        let start = Checkpoint::from_safetensors(config, &read(&work.checkpoint)?).map_err(failed)?;
        let promised = &work.manifest.training_data.shards;
        let shards = work.training_data.iter().map(|(place, path)| shard(*place, &promised[*place], path, vocab_size));
        let shards = shards.collect::<Result<Vec<Tokens>, PeerError>>()?;
        let data = TrainingData::of_shards(shards, work.manifest.training.sequence_tokens).map_err(failed)?;
        let shapes = start.layout.shapes();

        let kept = self.kept_state(work, run)?;
        let decay = work.manifest.training.error_feedback_decay_ppm;
        let mut compressor = Compressor::new(work.manifest.codec, decay, shapes.clone()).map_err(failed)?;
        let optimiser = match kept {
            Some(kept) => {
                compressor.restore(&kept.error_feedback).map_err(failed)?;
                kept.optimiser
            }
            None => OptimiserState::new(start.layout.numel),
        };

        let assignment = Assignment { run, round: work.round, peer: work.peer };
        let (partial, snapshot) =
            StateFile::<Snapshot>::open(&work.state_folder, &work.partial_state).map_err(failed)?;
        let fits = |snapshot: &Snapshot| {
            (snapshot.run, snapshot.round, snapshot.peer) == (run, work.round, work.peer)
                && snapshot.start == start.hash()
        };
        let begin = match snapshot.filter(fits) {
            Some(snapshot) => Begin::Resume(Box::new(snapshot)),
            None => Begin::Fresh(optimiser),
        };
        let cancel = AtomicBool::new(false);
        let tokens_a_step = u64::from(work.manifest.training.micro_batch)
            * u64::from(work.manifest.training.gradient_accumulation)
            * u64::from(work.manifest.training.sequence_tokens);
        let inner_loop = InnerLoop {
            assignment,
            start: &start,
            data: &data,
            snapshot_every_steps: Some(SNAPSHOT_STEPS),
            cancel: &cancel,
        };
        let mut watch = Watch { onlooker, cancel: &cancel, partial, tokens_a_step };
        let trained = match self.trainer(run, &start, work)?.train(&inner_loop, begin, &mut watch) {
            Ok(trained) => trained,
            Err(TrainError::Cancelled { .. }) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };

        let compressed = compressor.compress(trained.pseudo_gradient).map_err(failed)?;
        let payload = codec::encode(&work.manifest.codec, &shapes, &compressed.update).map_err(failed)?;
        let state = LocalState {
            run,
            peer: work.peer,
            round: work.round,
            optimiser: trained.optimiser,
            error_feedback: compressed.next.to_bytes(),
        };
        let (mut staged, _) = StateFile::open(&work.state_folder, &work.staged_state).map_err(failed)?;
        staged.save(&state).map_err(failed)?;
        Ok(Some(LocalUpdate { payload, dense_bytes: 4 * start.layout.numel as u64 }))
    }
}

impl Honest {
    /// What the last accepted contribution left behind, if it is this run's and this peer's.
    fn kept_state(&self, work: &RoundWork, run: RunId) -> Result<Option<LocalState>, PeerError> {
        let Some(name) = &work.state else { return Ok(None) };
        let (_, state) = StateFile::<LocalState>::open(&work.state_folder, name).map_err(failed)?;
        Ok(state.filter(|state| state.run == run && state.peer == work.peer))
    }
}

/// Passes steps on to the onlooker, and its wish to stop to the loop.
struct Watch<'a> {
    onlooker: &'a mut dyn Onlooker,
    cancel: &'a AtomicBool,
    partial: StateFile<Snapshot>,
    tokens_a_step: u64,
}

impl Observer for Watch<'_> {
    fn step(&mut self, report: &StepReport) {
        self.onlooker.step(trainer::StepReport {
            step: report.finished_steps,
            steps: report.inner_steps,
            loss_nats: report.loss_nats,
            tokens: self.tokens_a_step,
        });
        if self.onlooker.should_stop() {
            self.cancel.store(true, Ordering::Relaxed);
        }
    }

    fn snapshot(&mut self, snapshot: Snapshot) -> Result<(), TrainError> {
        self.partial.save(&snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_that_is_not_the_manifests_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("blob");
        let file = Tokens::new(vec![1, 2, 300], 301).expect("valid").to_token_file();
        std::fs::write(&path, &file).expect("written");
        let promised = ShardParams { hash: Blake3Hash::of(&file), tokens: 3 };
        assert_eq!(shard(7, &promised, &path, 301).expect("whole").as_slice(), [1, 2, 300]);
        let refused = |promised: ShardParams, vocab_size| {
            shard(7, &promised, &path, vocab_size).expect_err("refused").to_string()
        };
        for error in [
            refused(ShardParams { hash: Blake3Hash::of(b"other"), ..promised }, 301),
            refused(ShardParams { tokens: 4, ..promised }, 301),
            refused(promised, 300),
        ] {
            assert!(error.contains("shard 7"), "{error}");
        }
    }
}
