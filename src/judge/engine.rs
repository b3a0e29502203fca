//! What a judge computes on: the CPU's threads, or a GPU. Whoever asked for a GPU gets it or an error, never the CPU instead.

#[cfg(any(feature = "cuda", test))]
use std::sync::Arc;

use l402t_kernels::Pool;
#[cfg(feature = "cuda")]
use l402t_kernels::cuda::Gpu;
#[cfg(any(feature = "cuda", test))]
use l402t_kernels::cuda::JUDGING;

#[cfg(any(feature = "cuda", test))]
use super::gpu::DeviceJudge;
use super::outer::{ClippedUpdate, Finite, apply_one, step_in_place, take_back};
use super::{CudaError, HeldOutBatch, JudgeError, Scorer};
use crate::model::Checkpoint;
use crate::protocol::amount::Ppm;
use crate::protocol::verdict::Score;

/// What a judge computes on. Decoding, copies and clipping are the CPU's in any case.
#[derive(Clone, Debug)]
pub struct Engine {
    pool: Pool,
    forward: Forward,
}

/// Who has the weights and computes losses.
#[derive(Clone, Debug)]
enum Forward {
    Cpu,
    #[cfg(feature = "cuda")]
    Gpu(Arc<Gpu>),
    #[cfg(test)]
    Interpreter(Arc<l402t_interpreter::Interpreter>),
}

impl From<Pool> for Engine {
    fn from(pool: Pool) -> Self {
        Self { pool, forward: Forward::Cpu }
    }
}

impl Engine {
    /// A CUDA device, by its number, with the CPU's threads beside it.
    #[cfg(feature = "cuda")]
    pub fn gpu(pool: Pool, device: usize) -> Result<Self, JudgeError> {
        Ok(Self { pool, forward: Forward::Gpu(Arc::new(Gpu::open(device, &JUDGING)?)) })
    }

    /// Built without the feature `cuda`: an error.
    #[cfg(not(feature = "cuda"))]
    pub fn gpu(_pool: Pool, _device: usize) -> Result<Self, JudgeError> {
        Err(CudaError::NotBuilt.into())
    }

    /// The GPU's kernels without a GPU.
    #[cfg(test)]
    pub(super) fn interpreter() -> Self {
        let interpreter = l402t_interpreter::Interpreter::new(&JUDGING).expect("PTX that the interpreter knows");
        Self { pool: Pool::all_cores(), forward: Forward::Interpreter(Arc::new(interpreter)) }
    }

    /// The CPU's threads.
    pub fn pool(&self) -> Pool {
        self.pool
    }

    /// What it is, for people.
    pub fn describe(&self) -> String {
        match &self.forward {
            Forward::Cpu => format!("{}, {} threads", self.pool.isa(), self.pool.threads()),
            #[cfg(feature = "cuda")]
            Forward::Gpu(gpu) => gpu.name().to_owned(),
            #[cfg(test)]
            Forward::Interpreter(_) => "the interpreter".to_owned(),
        }
    }

    /// Made ready for one round: its checkpoint and its held-out batch, which is of the checkpoint's model.
    pub(super) fn meter<'a>(
        &'a self,
        start: &'a Checkpoint,
        held_out: &'a HeldOutBatch,
    ) -> Result<Box<dyn LossMeter + 'a>, JudgeError> {
        Ok(match &self.forward {
            Forward::Cpu => Box::new(OnCpu {
                scorer: Scorer::new(&start.config, held_out.predicted_per_window(), self.pool),
                start,
                held_out,
                weights: Vec::new(),
            }),
            #[cfg(feature = "cuda")]
            Forward::Gpu(gpu) => Box::new(DeviceJudge::new(gpu.as_ref(), self.pool, start, held_out)?),
            #[cfg(test)]
            Forward::Interpreter(machine) => Box::new(DeviceJudge::new(machine.as_ref(), self.pool, start, held_out)?),
        })
    }
}

/// Where one round's losses are measured. The same bits, whatever is behind it.
pub(super) trait LossMeter {
    /// The loss of the round's checkpoint; `None` if it isn't finite.
    fn loss_before(&mut self) -> Result<Option<Score>, CudaError>;

    /// The loss with one contribution applied; `None` if it, or a weight, isn't finite.
    fn loss_after(&mut self, outer_lr: Ppm, update: ClippedUpdate<'_>) -> Result<Option<Score>, CudaError>;

    /// The next checkpoint, as [`super::outer_step`] gives it, and its loss.
    fn step(&mut self, outer_lr: Ppm, updates: &[ClippedUpdate<'_>]) -> Result<(Checkpoint, Option<Score>), CudaError>;

    /// The round's checkpoint, for a round that changes nothing. The last that is asked of it.
    fn unchanged(&mut self) -> Checkpoint;

    /// The normalised states before the head under the round's checkpoint, window after window. For the self-test.
    fn hidden_states(&mut self) -> Result<Vec<f32>, CudaError>;
}

/// On the CPU's threads.
struct OnCpu<'a> {
    scorer: Scorer,
    start: &'a Checkpoint,
    held_out: &'a HeldOutBatch,
    /// The one copy of the weights: contribution after contribution is put into it and taken out, and in the end it is the
    /// next. Empty until it is needed.
    weights: Vec<f32>,
}

impl OnCpu<'_> {
    /// The copy, as long as it is the round's checkpoint.
    fn take_weights(&mut self) -> Vec<f32> {
        let weights = std::mem::take(&mut self.weights);
        if weights.is_empty() { self.start.weights.clone() } else { weights }
    }

    fn checkpoint(&self, weights: Vec<f32>) -> Checkpoint {
        Checkpoint { config: self.start.config.clone(), layout: self.start.layout.clone(), weights }
    }
}

impl LossMeter for OnCpu<'_> {
    fn loss_before(&mut self) -> Result<Option<Score>, CudaError> {
        Ok(self.scorer.loss(&self.start.weights, self.held_out))
    }

    fn loss_after(&mut self, outer_lr: Ppm, update: ClippedUpdate<'_>) -> Result<Option<Score>, CudaError> {
        let (pool, start) = (self.scorer.pool(), self.start);
        let mut weights = self.take_weights();
        let loss = match apply_one(&pool, &start.layout, &mut weights, outer_lr, update) {
            Finite::Yes => self.scorer.loss(&weights, self.held_out),
            Finite::No => None,
        };
        take_back(&start.layout, &start.weights, update.update, &mut weights);
        self.weights = weights;
        Ok(loss)
    }

    fn step(&mut self, outer_lr: Ppm, updates: &[ClippedUpdate<'_>]) -> Result<(Checkpoint, Option<Score>), CudaError> {
        let mut weights = self.take_weights();
        step_in_place(&self.scorer.pool(), &self.start.layout, &mut weights, outer_lr, updates);
        let loss = self.scorer.loss(&weights, self.held_out);
        Ok((self.checkpoint(weights), loss))
    }

    fn unchanged(&mut self) -> Checkpoint {
        let weights = self.take_weights();
        self.checkpoint(weights)
    }

    fn hidden_states(&mut self) -> Result<Vec<f32>, CudaError> {
        Ok(self.scorer.hidden_states(&self.start.weights, self.held_out))
    }
}
