//! The judge on a machine that runs the CUDA kernels: a GPU, or in tests an interpreter. The same bits as on the CPU.
//!
//! Weights stay on the device: the round's checkpoint, and a second copy that one contribution at a time is applied to. A dense
//! update is applied here and the weights taken there: it has as many values as they, so its own transfer would cost as much.

use std::collections::BTreeMap;
use std::ops::Range;

use l402t_kernels::Pool;
use l402t_kernels::cuda::ops::{self, AttentionLayer, Heads, Sparse};
use l402t_kernels::cuda::{CudaError, Machine, Slice, Values};
use l402t_kernels::rope::RopeTable;

use super::HeldOutBatch;
use super::engine::LossMeter;
use super::outer::{ClippedUpdate, Finite, apply_one, outer_step, rate};
use super::values::clipped_levels;
use crate::model::{Checkpoint, LlamaConfig};
use crate::protocol::amount::Ppm;
use crate::protocol::codec::{SparseTensor, Update};
use crate::protocol::verdict::Score;

/// Rows that go through the model at once: enough blocks to fill a large GPU.
const ROWS_A_PASS: usize = 16_384;
/// Attention scores, and logits, that exist at once, where a single window's or row's are no more.
const VALUES_AT_ONCE: usize = 1 << 28;
/// Windows times heads that one launch can take.
const MOST_PAIRS: usize = 65_535;

/// A round's checkpoint and held-out batch on a machine.
#[derive(Debug)]
pub(super) struct DeviceJudge<'a, M: Machine> {
    machine: &'a M,
    /// For what the CPU does.
    pool: Pool,
    config: &'a LlamaConfig,
    start: &'a Checkpoint,
    places: BTreeMap<&'a str, Range<usize>>,
    cos: Values<M, f32>,
    sin: Values<M, f32>,
    weights: Values<M, f32>,
    /// As `weights`, with one contribution, or the mean of several, applied.
    changed: Values<M, f32>,
    batch: &'a HeldOutBatch,
    activations: Activations<M>,
}

/// What a pass writes. Sizes are for `rows` rows.
#[derive(Debug)]
struct Activations<M: Machine> {
    /// Windows in a pass.
    windows: usize,
    /// Rows whose logits exist at once.
    logit_rows: usize,
    tokens: Values<M, u32>,
    /// (rows, hidden): the residual stream
    x: Values<M, f32>,
    /// (rows, hidden)
    y: Values<M, f32>,
    /// (rows, query width)
    q: Values<M, f32>,
    /// (rows, key-value width)
    k: Values<M, f32>,
    /// (rows, key-value width)
    v: Values<M, f32>,
    /// (rows, query width)
    mixed: Values<M, f32>,
    /// (windows, heads, tokens, tokens)
    scores: Values<M, f32>,
    /// (rows, intermediate)
    gate: Values<M, f32>,
    /// (rows, intermediate)
    up: Values<M, f32>,
    /// (logit rows, vocabulary)
    logits: Values<M, f32>,
    targets: Values<M, u32>,
    losses: Values<M, i64>,
}

impl<M: Machine> Activations<M> {
    fn new(machine: &M, config: &LlamaConfig, batch: &HeldOutBatch) -> Result<Self, CudaError> {
        let tokens = batch.predicted_per_window();
        let heads = config.num_attention_heads;
        let fitting = [ROWS_A_PASS / tokens, VALUES_AT_ONCE / (heads * tokens * tokens).max(1), MOST_PAIRS / heads];
        let windows = fitting.into_iter().fold(batch.windows().len(), usize::min).max(1);
        let rows = windows * tokens;
        let logit_rows = (VALUES_AT_ONCE / config.vocab_size).clamp(1, rows);
        let floats = |len| Values::new(machine, len);
        Ok(Self {
            windows,
            logit_rows,
            tokens: Values::new(machine, rows)?,
            x: floats(rows * config.hidden_size)?,
            y: floats(rows * config.hidden_size)?,
            q: floats(rows * config.query_width())?,
            k: floats(rows * config.key_value_width())?,
            v: floats(rows * config.key_value_width())?,
            mixed: floats(rows * config.query_width())?,
            scores: floats(windows * heads * tokens * tokens)?,
            gate: floats(rows * config.intermediate_size)?,
            up: floats(rows * config.intermediate_size)?,
            logits: floats(logit_rows * config.vocab_size)?,
            targets: Values::new(machine, rows)?,
            losses: Values::new(machine, rows)?,
        })
    }
}

impl<'a, M: Machine> DeviceJudge<'a, M> {
    /// Takes the checkpoint to the machine. The batch is of its model.
    pub(super) fn new(
        machine: &'a M,
        pool: Pool,
        start: &'a Checkpoint,
        batch: &'a HeldOutBatch,
    ) -> Result<Self, CudaError> {
        let config = &start.config;
        let tokens = batch.predicted_per_window();
        let table = RopeTable::new(tokens, config.head_dim, config.rope_theta, config.variant.rope_scaling);
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for position in 0..tokens {
            let (position_cos, position_sin) = table.at(position);
            cos.extend_from_slice(position_cos);
            sin.extend_from_slice(position_sin);
        }
        Ok(Self {
            machine,
            pool,
            config,
            start,
            places: start.layout.tensors.iter().map(|spec| (spec.name.as_str(), spec.range())).collect(),
            cos: Values::of(machine, &cos)?,
            sin: Values::of(machine, &sin)?,
            weights: Values::of(machine, &start.weights)?,
            changed: Values::new(machine, start.weights.len())?,
            batch,
            activations: Activations::new(machine, config, batch)?,
        })
    }

    fn loss(&mut self, which: Which) -> Result<Option<Score>, CudaError> {
        let batch = self.batch;
        let mut total = Some(0i128);
        for windows in batch.windows().chunks(self.activations.windows) {
            let losses = self.pass(which).losses(windows)?;
            let part = losses.iter().try_fold(0i128, |sum, loss| (*loss >= 0).then(|| sum + i128::from(*loss)));
            total = total.zip(part).map(|(total, part)| total + part);
        }
        Ok(total.and_then(|total| i64::try_from(total).ok()).map(Score))
    }

    /// Leaves the round's checkpoint with one sparse update applied in `changed`.
    fn apply_sparse(&mut self, outer_lr: Ppm, tensors: &[SparseTensor], clip: &[f32]) -> Result<Finite, CudaError> {
        let machine = self.machine;
        self.changed.copy_from(machine, &self.weights)?;
        let mut not_finite = Values::of(machine, &[0u32])?;
        for ((spec, tensor), clip) in self.start.layout.tensors.iter().zip(tensors).zip(clip) {
            let sparse = Sparse::new(machine, &tensor.indices, &tensor.codes, &clipped_levels(tensor, *clip))?;
            let changed = &mut self.changed;
            ops::subtract_sparse(machine, changed, spec.range(), rate(outer_lr), &sparse, &mut not_finite)?;
        }
        let mut flag = [0];
        not_finite.read(machine, &mut flag)?;
        Ok(if flag == [0] { Finite::Yes } else { Finite::No })
    }

    /// Leaves the next checkpoint in `changed`. Each update has its clip factors.
    fn step_sparse(&mut self, outer_lr: Ppm, updates: &[(&[SparseTensor], &[f32])]) -> Result<(), CudaError> {
        let machine = self.machine;
        self.changed.copy_from(machine, &self.weights)?;
        let tensors = &self.start.layout.tensors;
        let largest = tensors.iter().map(|spec| spec.numel()).max().unwrap_or(0);
        let (mut sums, mut counts) = (Values::new(machine, largest)?, Values::new(machine, largest)?);
        for (place, spec) in tensors.iter().enumerate() {
            sums.zero(machine, spec.numel())?;
            counts.zero(machine, spec.numel())?;
            for (update, clip) in updates {
                let tensor = &update[place];
                let levels = clipped_levels(tensor, clip[place]);
                let sparse = Sparse::new(machine, &tensor.indices, &tensor.codes, &levels)?;
                ops::accumulate_sparse(machine, &mut sums, &mut counts, &sparse)?;
            }
            ops::subtract_mean(machine, &mut self.changed, spec.range(), rate(outer_lr), &sums, &counts)?;
        }
        Ok(())
    }

    fn pass(&mut self, which: Which) -> Pass<'_, M> {
        Pass {
            machine: self.machine,
            config: self.config,
            places: &self.places,
            angles: (&self.cos, &self.sin),
            weights: match which {
                Which::Start => &self.weights,
                Which::Changed => &self.changed,
            },
            tokens: self.batch.predicted_per_window(),
            own: &mut self.activations,
        }
    }
}

impl<M: Machine> LossMeter for DeviceJudge<'_, M> {
    fn loss_before(&mut self) -> Result<Option<Score>, CudaError> {
        self.loss(Which::Start)
    }

    fn loss_after(&mut self, outer_lr: Ppm, update: ClippedUpdate<'_>) -> Result<Option<Score>, CudaError> {
        let finite = match update.update {
            Update::Sparse(sparse) => self.apply_sparse(outer_lr, &sparse.tensors, update.clip)?,
            Update::Dense(_) => {
                let mut weights = self.start.weights.clone();
                let finite = apply_one(&self.pool, &self.start.layout, &mut weights, outer_lr, update);
                self.changed.write(self.machine, &weights)?;
                finite
            }
        };
        match finite {
            Finite::Yes => self.loss(Which::Changed),
            Finite::No => Ok(None),
        }
    }

    fn step(&mut self, outer_lr: Ppm, updates: &[ClippedUpdate<'_>]) -> Result<(Checkpoint, Option<Score>), CudaError> {
        let sparse: Option<Vec<(&[SparseTensor], &[f32])>> = updates
            .iter()
            .map(|update| match update.update {
                Update::Sparse(sparse) => Some((sparse.tensors.as_slice(), update.clip)),
                Update::Dense(_) => None,
            })
            .collect();
        let next = match sparse {
            Some(sparse) => {
                self.step_sparse(outer_lr, &sparse)?;
                let mut next = self.start.clone();
                self.changed.read(self.machine, &mut next.weights)?;
                next
            }
            None => {
                let next = outer_step(&self.pool, self.start, outer_lr, updates);
                self.changed.write(self.machine, &next.weights)?;
                next
            }
        };
        Ok((next, self.loss(Which::Changed)?))
    }

    fn unchanged(&mut self) -> Checkpoint {
        self.start.clone()
    }

    fn hidden_states(&mut self) -> Result<Vec<f32>, CudaError> {
        let (batch, width) = (self.batch, self.config.hidden_size);
        let mut states = Vec::new();
        for windows in batch.windows().chunks(self.activations.windows) {
            self.pass(Which::Start).hidden(windows)?;
            let mut part = vec![0.0; windows.len() * batch.predicted_per_window() * width];
            self.activations.y.read(self.machine, &mut part)?;
            states.append(&mut part);
        }
        Ok(states)
    }
}

/// Whose loss.
#[derive(Clone, Copy, Debug)]
enum Which {
    Start,
    Changed,
}

/// One forward pass of some windows.
struct Pass<'a, M: Machine> {
    machine: &'a M,
    config: &'a LlamaConfig,
    places: &'a BTreeMap<&'a str, Range<usize>>,
    angles: (&'a Values<M, f32>, &'a Values<M, f32>),
    weights: &'a Values<M, f32>,
    /// Predicted tokens of a window.
    tokens: usize,
    own: &'a mut Activations<M>,
}

impl<'a, M: Machine> Pass<'a, M> {
    fn find(&self, name: &str) -> Option<Slice<'a, M, f32>> {
        self.places.get(name).map(|place| self.weights.slice(place.clone()))
    }

    fn tensor(&self, name: &str) -> Result<Slice<'a, M, f32>, CudaError> {
        // The layout is the config's own, so every name is there.
        self.find(name).ok_or_else(|| CudaError::Fault(format!("the layout has no {name}")))
    }

    /// `to = from · weightᵀ`, plus the bias where the model has one. `pick` names the two buffers.
    fn linear(
        &mut self,
        rows: usize,
        shape: (usize, usize),
        name: &str,
        pick: impl FnOnce(&mut Activations<M>) -> (&Values<M, f32>, &mut Values<M, f32>),
    ) -> Result<(), CudaError> {
        let (weight, bias) = (self.tensor(&format!("{name}.weight"))?, self.find(&format!("{name}.bias")));
        let (from, to) = pick(self.own);
        ops::linear(self.machine, rows, shape, from.slice(0..rows * shape.1), weight, to)?;
        match bias {
            Some(bias) => ops::add_bias(self.machine, rows, bias, to),
            None => Ok(()),
        }
    }

    fn norm(&mut self, rows: usize, name: &str) -> Result<(), CudaError> {
        let gain = self.tensor(name)?;
        let Activations { x, y, .. } = &mut *self.own;
        ops::rms_norm(self.machine, rows, self.config.rms_norm_eps, x, gain, y)
    }

    /// Leaves the normalised states before the head in `y`.
    fn hidden(&mut self, windows: &[Vec<u32>]) -> Result<(), CudaError> {
        let (machine, config) = (self.machine, self.config);
        let inputs: Vec<u32> = windows.iter().flat_map(|window| &window[..self.tokens]).copied().collect();
        let size = (config.vocab_size, config.hidden_size);
        let embedding = self.tensor(EMBEDDING)?;
        ops::embed(machine, &inputs, size, embedding, &mut self.own.tokens, &mut self.own.x)?;
        for layer in 0..config.num_hidden_layers {
            self.attention(layer, windows.len())?;
            self.feed_forward(layer, inputs.len())?;
        }
        self.norm(inputs.len(), "model.norm.weight")
    }

    fn attention(&mut self, layer: usize, windows: usize) -> Result<(), CudaError> {
        let (machine, config, rows) = (self.machine, self.config, windows * self.tokens);
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        let (hidden, query, key_value) = (config.hidden_size, config.query_width(), config.key_value_width());
        self.norm(rows, &name("input_layernorm.weight"))?;
        self.linear(rows, (query, hidden), &name("self_attn.q_proj"), |own| (&own.y, &mut own.q))?;
        self.linear(rows, (key_value, hidden), &name("self_attn.k_proj"), |own| (&own.y, &mut own.k))?;
        self.linear(rows, (key_value, hidden), &name("self_attn.v_proj"), |own| (&own.y, &mut own.v))?;
        let (cos, sin) = self.angles;
        let Activations { q, k, v, mixed, scores, .. } = &mut *self.own;
        ops::rope(machine, rows, (query, config.head_dim), self.tokens, cos, sin, q)?;
        ops::rope(machine, rows, (key_value, config.head_dim), self.tokens, cos, sin, k)?;
        let shape = Heads {
            windows,
            tokens: self.tokens,
            heads: config.num_attention_heads,
            key_value_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            reach: config.variant.window(layer),
        };
        ops::causal_attention(machine, shape, &AttentionLayer { q, k, v }, scores, mixed)?;
        self.linear(rows, (hidden, query), &name("self_attn.o_proj"), |own| (&own.mixed, &mut own.y))?;
        ops::add(machine, rows * hidden, &self.own.y, &mut self.own.x)
    }

    fn feed_forward(&mut self, layer: usize, rows: usize) -> Result<(), CudaError> {
        let (hidden, inner) = (self.config.hidden_size, self.config.intermediate_size);
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        self.norm(rows, &name("post_attention_layernorm.weight"))?;
        self.linear(rows, (inner, hidden), &name("mlp.gate_proj"), |own| (&own.y, &mut own.gate))?;
        self.linear(rows, (inner, hidden), &name("mlp.up_proj"), |own| (&own.y, &mut own.up))?;
        ops::swiglu(self.machine, rows * inner, &self.own.up, &mut self.own.gate)?;
        self.linear(rows, (hidden, inner), &name("mlp.down_proj"), |own| (&own.gate, &mut own.y))?;
        ops::add(self.machine, rows * hidden, &self.own.y, &mut self.own.x)
    }

    /// The loss of every predicted token, in 2⁻³² nats; −1 where it isn't finite.
    fn losses(&mut self, windows: &[Vec<u32>]) -> Result<Vec<i64>, CudaError> {
        let (machine, hidden, vocabulary) = (self.machine, self.config.hidden_size, self.config.vocab_size);
        self.hidden(windows)?;
        let head = if self.config.tie_word_embeddings { EMBEDDING } else { "lm_head.weight" };
        let head = self.tensor(head)?;
        let targets: Vec<u32> = windows.iter().flat_map(|window| &window[1..]).copied().collect();
        let Activations { y, logits, losses, targets: device_targets, logit_rows, .. } = &mut *self.own;
        let mut all = Vec::with_capacity(targets.len());
        for first in (0..targets.len()).step_by(*logit_rows) {
            let rows = (*logit_rows).min(targets.len() - first);
            let states = y.slice(first * hidden..(first + rows) * hidden);
            ops::linear(machine, rows, (vocabulary, hidden), states, head, logits)?;
            device_targets.write(machine, &targets[first..first + rows])?;
            ops::cross_entropy(machine, rows, vocabulary, logits, device_targets.slice(0..rows), losses)?;
            let mut part = vec![0; rows];
            losses.read(machine, &mut part)?;
            all.append(&mut part);
        }
        Ok(all)
    }
}

const EMBEDDING: &str = "model.embed_tokens.weight";

#[cfg(test)]
mod tests {
    use crate::judge::engine::Engine;
    use crate::judge::fixtures::{Fixture, negated};
    use crate::judge::{RoundInput, Submission, judge_round, self_test};
    use crate::protocol::codec::{self, SparseUpdate, Update};

    #[test]
    fn the_kernels_give_the_known_answers() {
        assert_eq!(self_test(Engine::interpreter()), Ok(()));
    }

    fn ruinous(update: &SparseUpdate) -> SparseUpdate {
        let mut update = update.clone();
        for tensor in &mut update.tensors {
            tensor.levels = codec::levels(&[0xfe00_0000, 0xfd00_0000, 0x7d00_0000, 0x7e00_0000]);
        }
        update
    }

    /// Judged by the kernels as by the CPU.
    fn judged_alike(fixture: &Fixture, payloads: &[Option<Vec<u8>>]) {
        let expected = fixture.judge(payloads);
        let submissions: Vec<Submission<'_>> = payloads
            .iter()
            .enumerate()
            .map(|(place, payload)| Submission {
                contribution: crate::judge::fixtures::id(place as u8),
                payload: payload.as_deref(),
            })
            .collect();
        let input: RoundInput<'_> = fixture.input(&submissions);
        let found = judge_round(&input, Engine::interpreter(), &mut |_| {}).expect("a round that can be judged");
        assert_eq!(found.verdicts, expected.verdicts);
        assert_eq!((found.loss_before, found.loss_after), (expected.loss_before, expected.loss_after));
        assert_eq!(found.next.hash(), expected.next.hash());
        assert_ne!(found.next.hash(), fixture.start.hash());
    }

    #[test]
    fn a_round_gets_the_verdicts_and_the_checkpoint_that_the_cpu_gives_it() {
        let fixture = Fixture::new();
        let (good, other) = (fixture.helpful_update(1), fixture.helpful_update(2));
        let harmful = [fixture.any_update(1_003), ruinous(&fixture.any_update(1_001)), negated(&other)];
        let mut payloads: Vec<Option<Vec<u8>>> =
            [&good, &good, &other].into_iter().chain(&harmful).map(|update| Some(fixture.encode(update))).collect();
        payloads.extend([None, Some(b"L4SU but not really".to_vec())]);
        judged_alike(&fixture, &payloads);
    }

    #[test]
    fn a_round_of_dense_updates_does_too() {
        let fixture = Fixture::dense();
        let mut ruinous = fixture.any_dense_update(9);
        ruinous.tensors.iter_mut().flat_map(|tensor| &mut tensor.scales).for_each(|scale| *scale = 0x7c01);
        let updates = [fixture.helpful_dense_update(1), fixture.helpful_dense_update(2), ruinous];
        let payloads = updates.map(|update| Some(fixture.encode_any(&Update::Dense(update))));
        judged_alike(&fixture, &payloads);
    }
}
