//! The seam between rounds and training, so that everything but training works and is tested without libtorch.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::PeerError;
use crate::protocol::ids::{PeerId, RoundNumber};
use crate::protocol::manifest::RunManifest;

/// What there is to do in a round. The files are verified blobs.
#[derive(Clone, Debug)]
pub struct RoundWork {
    /// The run's rules.
    pub manifest: RunManifest,
    /// Which round.
    pub round: RoundNumber,
    /// Who trains: decides, with the round, on which data.
    pub peer: PeerId,
    /// The model's config.json.
    pub model_config: PathBuf,
    /// The round's checkpoint (safetensors).
    pub checkpoint: PathBuf,
    /// The shards that this peer reads from in this round, each with its place in the manifest.
    pub training_data: Vec<(usize, PathBuf)>,
    /// Where states are; a state's files have its name and an extension.
    pub state_folder: PathBuf,
    /// The state after the last accepted contribution; `None` before the first. Only read.
    pub state: Option<String>,
    /// The state that holds if this contribution is accepted. Complete and synced before the work is returned.
    pub staged_state: String,
    /// Unfinished work on this round, to go on with after an interruption.
    pub partial_state: String,
}

/// An inner step is done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// From 1.
    pub step: u32,
    /// H.
    pub steps: u32,
    /// Mean loss of the step, in nats a token.
    pub loss_nats: f64,
    /// Tokens trained on in this step.
    pub tokens: u64,
}

/// The work on a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalUpdate {
    /// The encoded sparse update.
    pub payload: Vec<u8>,
    /// Its size before compression: 4 bytes a weight.
    pub dense_bytes: u64,
}

/// Who looks on while a trainer works.
pub trait Onlooker {
    /// A step is done.
    fn step(&mut self, report: StepReport);

    /// Is the result not wanted any more? To be asked about once a second.
    fn should_stop(&self) -> bool;
}

/// Makes an update out of a round's checkpoint.
pub trait LocalTrainer: Send + std::fmt::Debug {
    /// Trains and compresses. `None` if the onlooker wants it no more.
    fn contribute(&mut self, work: &RoundWork, onlooker: &mut dyn Onlooker) -> Result<Option<LocalUpdate>, PeerError>;
}

/// A trainer that a blocking thread can borrow. Whoever drops the wait for it can later see that it has come to rest.
#[derive(Clone, Debug)]
pub struct TrainerSlot(Arc<Mutex<Box<dyn LocalTrainer>>>);

impl TrainerSlot {
    /// Around a trainer.
    pub fn new(trainer: Box<dyn LocalTrainer>) -> Self {
        Self(Arc::new(Mutex::new(trainer)))
    }

    /// The trainer, once it is at rest.
    // A trainer that panicked has its state on disk, not in memory, so it can be used again.
    pub fn lock(&self) -> MutexGuard<'_, Box<dyn LocalTrainer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
