//! The inner loop: H AdamW steps from the round's checkpoint, and the pseudo-gradient they add up to.
//!
//! Keeps nothing between rounds but device memory: the optimiser's state goes in and comes out, so its owner decides what
//! is durable. On one machine's CPU, the same inputs and thread count give the same bits, interrupted or not; CUDA adds up in
//! an order of its own.

use std::num::{NonZeroI32, NonZeroU32};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tch::{Kind, Tensor};

use super::TrainError;
use super::adamw::AdamW;
use super::backward;
use super::data::{Assignment, TrainingData};
use super::device;
use super::llama::{Batch, Llama, Rope};
use super::state::{OptimiserState, Snapshot};
use crate::clock::Stopwatch;
use crate::model::{Checkpoint, Layout, LlamaConfig};
use crate::protocol::amount::Ppm;
use crate::protocol::ids::Blake3Hash;
use crate::protocol::manifest::TrainingParams;

pub use super::device::TrainDevice;

/// Whether a device can be used here.
///
/// # Errors
/// Why it can't, and what to do.
pub fn can_train_on(device: TrainDevice) -> Result<(), TrainError> {
    device::open(device).map(drop)
}

/// Most tokens in one forward pass; far above what any device holds, so that a hostile manifest can't ask for the rest.
const MAX_BATCH_TOKENS: u64 = 1 << 24;

/// What matrix products and attention are computed in. Weights, moments, norms and the loss are fp32 either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// fp32.
    #[default]
    F32,
    /// bf16: faster where the hardware knows it.
    Bf16,
}

impl Precision {
    pub(super) fn kind(self) -> Kind {
        match self {
            Precision::F32 => Kind::Float,
            Precision::Bf16 => Kind::BFloat16,
        }
    }
}

/// What becomes of a forward pass's activations until the backward pass needs them (gradient checkpointing).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activations {
    /// They stay in memory.
    #[default]
    Keep,
    /// Each block's are computed a second time: a third slower, but only one block's are in memory at a time.
    Recompute,
}

/// How this machine trains; no part of what is agreed on in a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct TrainerOptions {
    /// CPU or GPU.
    pub device: TrainDevice,
    /// fp32 or bf16.
    pub precision: Precision,
    /// Gradient checkpointing.
    pub activations: Activations,
    /// Sequences in one forward pass; `None`: the run's `micro_batch`. A step's gradient is that of the same sequences
    /// either way, up to rounding.
    pub micro_batch: Option<NonZeroU32>,
    /// CPU threads, for the whole process; `None` leaves libtorch's choice.
    pub threads: Option<NonZeroI32>,
}

/// One round's training for one peer.
#[derive(Clone, Copy, Debug)]
pub struct InnerLoop<'a> {
    /// Which data to read.
    pub assignment: Assignment,
    /// The round's checkpoint, θ_start.
    pub start: &'a Checkpoint,
    /// The training tokens.
    pub data: &'a TrainingData,
    /// How often the observer is handed a snapshot; `None`: only when cancelled.
    pub snapshot_every_steps: Option<NonZeroU32>,
    /// Once set, the loop stops before its next step.
    pub cancel: &'a AtomicBool,
}

/// Where the loop begins.
#[derive(Clone, Debug)]
pub enum Begin {
    /// At the round's checkpoint, with the optimiser as the last round left it.
    Fresh(OptimiserState),
    /// Where a snapshot of the same round was taken.
    Resume(Box<Snapshot>),
}

/// A finished inner step.
#[derive(Clone, Copy, Debug)]
pub struct StepReport {
    /// Steps of the round finished so far.
    pub finished_steps: u32,
    /// Steps of the round.
    pub inner_steps: u32,
    /// The batch's mean loss before the step, in nats a token.
    pub loss_nats: f64,
    /// The gradient's norm before the clip.
    pub gradient_norm: f64,
    /// Predicted tokens a second since the loop began.
    pub tokens_per_second: f64,
}

/// Is told how the loop goes.
pub trait Observer {
    /// After each step.
    fn step(&mut self, _report: &StepReport) {}

    /// Now and then, and before a cancelled loop returns. An error ends the loop.
    fn snapshot(&mut self, _snapshot: Snapshot) -> Result<(), TrainError> {
        Ok(())
    }
}

/// Watches nothing.
impl Observer for () {}

/// What a round's training gives.
#[derive(Clone, Debug)]
pub struct Trained {
    /// Δ = θ_start − θ_end. (numel), in layout order.
    pub pseudo_gradient: Vec<f32>,
    /// The optimiser afterwards.
    pub optimiser: OptimiserState,
    /// The first step's loss in nats a token.
    pub loss_first_nats: f64,
    /// The last step's loss in nats a token.
    pub loss_last_nats: f64,
    /// Time spent here; what went before an interruption is not in it.
    pub elapsed: Duration,
}

/// Trains rounds of one run.
#[derive(Debug)]
pub struct Trainer {
    config: Arc<LlamaConfig>,
    layout: Arc<Layout>,
    params: TrainingParams,
    device: tch::Device,
    activations: Activations,
    /// Sequences in one forward pass.
    micro_batch: u32,
    /// (numel) weights that the model's parameters are views of.
    arena: Tensor,
    model: Llama,
    rope: Rope,
    optimiser: AdamW,
}

impl Trainer {
    /// Prepares the model's memory on the device.
    pub fn new(
        config: Arc<LlamaConfig>,
        layout: Arc<Layout>,
        params: TrainingParams,
        options: TrainerOptions,
    ) -> Result<Self, TrainError> {
        let micro_batch = options.micro_batch.map_or(params.micro_batch, NonZeroU32::get);
        check(&params, &config, micro_batch)?;
        let device = device::open(options.device)?;
        if let Some(threads) = options.threads {
            tch::set_num_threads(threads.get());
        }
        let arena = Tensor::f_zeros([layout.numel as i64], (Kind::Float, device))?;
        Ok(Self {
            model: Llama::new(&config, &layout, &arena, options.precision)?,
            rope: Rope::new(&config, params.sequence_tokens as usize, device)?,
            optimiser: AdamW::new(&params, &layout, device)?,
            config,
            layout,
            params,
            device,
            activations: options.activations,
            micro_batch,
            arena,
        })
    }

    /// Runs a round's inner steps. On an error the caller still has the state that it began with.
    pub fn train(
        &mut self,
        inner_loop: &InnerLoop<'_>,
        begin: Begin,
        observer: &mut dyn Observer,
    ) -> Result<Trained, TrainError> {
        self.check_inner_loop(inner_loop)?;
        let start_hash = inner_loop.start.hash();
        let mut losses = None;
        let first_step = match begin {
            Begin::Fresh(optimiser) => {
                self.load(&inner_loop.start.weights, &optimiser)?;
                0
            }
            Begin::Resume(snapshot) => {
                self.check_snapshot(&snapshot, inner_loop, &start_hash)?;
                self.load(&snapshot.weights, &snapshot.optimiser)?;
                losses = Some((snapshot.loss_first_nats, snapshot.loss_last_nats));
                snapshot.next_step
            }
        };
        let stopwatch = Stopwatch::start();
        for step in first_step..self.params.inner_steps {
            let due = inner_loop.snapshot_every_steps.is_some_and(|every| step > first_step && step % every == 0);
            let cancelled = inner_loop.cancel.load(Ordering::Relaxed);
            if let Some(losses) = losses.filter(|_| due || cancelled) {
                observer.snapshot(self.snapshot(inner_loop, start_hash, step, losses)?)?;
            }
            if cancelled {
                return Err(TrainError::Cancelled { next_step: step });
            }
            let (loss, gradient_norm) = self.step(inner_loop, step)?;
            losses = Some((losses.map_or(loss, |(first, _)| first), loss));
            let tokens = u64::from(step + 1 - first_step) * self.tokens_per_step();
            observer.step(&StepReport {
                finished_steps: step + 1,
                inner_steps: self.params.inner_steps,
                loss_nats: loss,
                gradient_norm,
                tokens_per_second: tokens as f64 / stopwatch.elapsed().as_secs_f64().max(1e-9),
            });
        }
        let end: Vec<f32> = Vec::try_from(&self.arena)?;
        let (loss_first_nats, loss_last_nats) = losses.unwrap_or_default();
        Ok(Trained {
            pseudo_gradient: inner_loop.start.weights.iter().zip(&end).map(|(start, end)| start - end).collect(),
            optimiser: self.optimiser.save()?,
            loss_first_nats,
            loss_last_nats,
            elapsed: stopwatch.elapsed(),
        })
    }

    /// Mean loss of `weights` on windows of equal length, in nats a predicted token: for progress and benches. What is
    /// paid for is scored by the judge.
    pub fn mean_loss_nats(&mut self, weights: &[f32], windows: &[Vec<u32>]) -> Result<f64, TrainError> {
        let positions = windows.first().map_or(0, |window| window.len().saturating_sub(1));
        if positions == 0 || positions > self.config.max_position_embeddings {
            return Err(TrainError::Settings(format!(
                "a held-out window predicts {positions} tokens; 1 ..= {} are possible",
                self.config.max_position_embeddings
            )));
        }
        let _no_grad = tch::no_grad_guard();
        self.load_weights(weights)?;
        let rope = Rope::new(&self.config, positions, self.device)?;
        let mut sum = 0.0;
        for batch in windows.chunks(self.micro_batch as usize) {
            let sequences = self.sequences(batch.iter().map(Vec::as_slice), positions + 1)?;
            sum += self.model.loss(&Batch::new(&sequences)?, &rope)?.f_double_value(&[])? * batch.len() as f64;
        }
        Ok(sum / windows.len() as f64)
    }

    /// The logits of `weights` after each of the tokens: (tokens, vocabulary). For comparing how a model was read with other
    /// programs.
    pub fn logits(&mut self, weights: &[f32], tokens: &[u32]) -> Result<Vec<f32>, TrainError> {
        let _no_grad = tch::no_grad_guard();
        self.load_weights(weights)?;
        let rope = Rope::new(&self.config, tokens.len(), self.device)?;
        let tokens = self.sequences(std::iter::once(tokens), tokens.len())?;
        let logits = self.model.logits(&tokens, &rope)?.f_reshape([-1])?.f_to_device(tch::Device::Cpu)?;
        Ok(Vec::try_from(&logits)?)
    }

    /// Predicted tokens an inner step.
    fn tokens_per_step(&self) -> u64 {
        [self.params.micro_batch, self.params.gradient_accumulation, self.params.sequence_tokens]
            .map(u64::from)
            .iter()
            .product()
    }

    /// One optimiser step; returns the loss before it and the gradient's norm.
    fn step(&mut self, inner_loop: &InnerLoop<'_>, step: u32) -> Result<(f64, f64), TrainError> {
        let rows = self.params.micro_batch * self.params.gradient_accumulation;
        let mut gradients: Vec<Tensor> = Vec::new();
        let mut loss = 0.0;
        for first in (0..rows).step_by(self.micro_batch as usize) {
            let pass = first..rows.min(first.saturating_add(self.micro_batch));
            let weight = pass.len() as f64 / f64::from(rows);
            let sequences = pass.map(|row| inner_loop.data.sequence(&inner_loop.assignment, step, row));
            let batch = Batch::new(&self.sequences(sequences, inner_loop.data.sequence_tokens() + 1)?)?;
            let (mean, of_pass) = backward::gradients(&self.model, &batch, &self.rope, weight, self.activations)?;
            if gradients.is_empty() {
                gradients = of_pass;
            } else {
                for (sum, gradient) in gradients.iter_mut().zip(&of_pass) {
                    let _ = sum.f_add_(gradient)?;
                }
            }
            loss += mean * weight;
        }
        if !loss.is_finite() {
            return Err(TrainError::NonFinite { step, what: "loss" });
        }
        let norm = self.optimiser.step(&mut self.arena, gradients, &self.layout)?;
        if !norm.is_finite() {
            return Err(TrainError::NonFinite { step, what: "gradient" });
        }
        Ok((loss, norm))
    }

    /// (B, length) of i64 on the device.
    fn sequences<'t>(&self, rows: impl Iterator<Item = &'t [u32]>, length: usize) -> Result<Tensor, TrainError> {
        let tokens: Vec<i64> = rows.flatten().map(|token| i64::from(*token)).collect();
        Ok(Tensor::f_from_slice(&tokens)?.f_view([-1, length as i64])?.f_to_device(self.device)?)
    }

    fn load_weights(&mut self, weights: &[f32]) -> Result<(), TrainError> {
        if weights.len() != self.layout.numel {
            let message = format!("{} weights for a model of {}", weights.len(), self.layout.numel);
            return Err(TrainError::StateMismatch(message));
        }
        let _no_grad = tch::no_grad_guard();
        Ok(self.arena.f_copy_(&Tensor::f_from_slice(weights)?)?)
    }

    fn load(&mut self, weights: &[f32], optimiser: &OptimiserState) -> Result<(), TrainError> {
        for moments in [&optimiser.first_moment, &optimiser.second_moment] {
            if moments.len() != self.layout.numel {
                let message = format!("{} optimiser moments for a model of {}", moments.len(), self.layout.numel);
                return Err(TrainError::StateMismatch(message));
            }
        }
        self.load_weights(weights)?;
        self.optimiser.load(optimiser)
    }

    fn snapshot(
        &self,
        inner_loop: &InnerLoop<'_>,
        start: Blake3Hash,
        next_step: u32,
        (loss_first_nats, loss_last_nats): (f64, f64),
    ) -> Result<Snapshot, TrainError> {
        Ok(Snapshot {
            run: inner_loop.assignment.run,
            peer: inner_loop.assignment.peer,
            round: inner_loop.assignment.round,
            start,
            next_step,
            loss_first_nats,
            loss_last_nats,
            weights: Vec::try_from(&self.arena)?,
            optimiser: self.optimiser.save()?,
        })
    }

    fn check_inner_loop(&self, inner_loop: &InnerLoop<'_>) -> Result<(), TrainError> {
        if inner_loop.start.layout != self.layout {
            return Err(TrainError::Settings("the round's checkpoint is of another model".into()));
        }
        if inner_loop.data.sequence_tokens() != self.params.sequence_tokens as usize {
            return Err(TrainError::Settings(format!(
                "the data is cut for sequences of {} tokens, the run's are {}",
                inner_loop.data.sequence_tokens(),
                self.params.sequence_tokens
            )));
        }
        if inner_loop.data.vocab_size() as usize > self.config.vocab_size {
            return Err(TrainError::Settings(format!(
                "the data has {} different tokens, the model knows {}",
                inner_loop.data.vocab_size(),
                self.config.vocab_size
            )));
        }
        Ok(())
    }

    fn check_snapshot(
        &self,
        snapshot: &Snapshot,
        inner_loop: &InnerLoop<'_>,
        start: &Blake3Hash,
    ) -> Result<(), TrainError> {
        let Assignment { run, round, peer } = inner_loop.assignment;
        if (snapshot.run, snapshot.round, snapshot.peer) != (run, round, peer) || snapshot.start != *start {
            return Err(TrainError::StateMismatch(format!(
                "the snapshot is of round {} of run {} from checkpoint {}, not of round {round} of run {run} from \
                 checkpoint {start}",
                snapshot.round, snapshot.run, snapshot.start
            )));
        }
        if snapshot.next_step > self.params.inner_steps {
            let message = format!("the snapshot has {} of {} steps", snapshot.next_step, self.params.inner_steps);
            return Err(TrainError::StateMismatch(message));
        }
        Ok(())
    }
}

/// Settings come from a signed manifest, but not every manifest can be trained.
fn check(params: &TrainingParams, config: &LlamaConfig, micro_batch: u32) -> Result<(), TrainError> {
    let positive = [
        ("inner_steps", params.inner_steps),
        ("micro_batch", params.micro_batch),
        ("gradient_accumulation", params.gradient_accumulation),
        ("sequence_tokens", params.sequence_tokens),
    ];
    for (name, value) in positive {
        if value == 0 {
            return Err(TrainError::Settings(format!("{name} is 0")));
        }
    }
    if params.micro_batch.checked_mul(params.gradient_accumulation).is_none() {
        return Err(TrainError::Settings("micro_batch × gradient_accumulation is more than 2³²".into()));
    }
    let batch_tokens = u64::from(micro_batch) * u64::from(params.sequence_tokens);
    if batch_tokens > MAX_BATCH_TOKENS {
        return Err(TrainError::Settings(format!(
            "micro_batch × sequence_tokens is {batch_tokens}; {MAX_BATCH_TOKENS} tokens are the most in one forward pass"
        )));
    }
    if params.sequence_tokens as usize > config.max_position_embeddings {
        return Err(TrainError::Settings(format!(
            "sequence_tokens is {}, the model's max_position_embeddings {}",
            params.sequence_tokens, config.max_position_embeddings
        )));
    }
    if params.beta1_ppm == Ppm::ONE || params.beta2_ppm == Ppm::ONE {
        return Err(TrainError::Settings("an AdamW β of 1 never moves".into()));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
