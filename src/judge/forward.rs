//! The model's forward pass and its loss, in DF32.
//!
//! Threads share windows out between them; a window's bits do not depend on who computes it, or with which others.

use l402t_kernels::Pool;
use l402t_kernels::attention::{AttentionScratch, AttentionShape, causal_attention};
use l402t_kernels::gemm::{GemmScratch, Matrix, MatrixMut, gemm};
use l402t_kernels::rope::RopeTable;
use l402t_kernels::rows;

use super::HeldOutBatch;
use crate::model::{Layout, LlamaConfig};
use crate::protocol::verdict::Score;

/// Rows that a thread takes through the model at once: enough to make packing the weights cheap.
const ROWS_A_PASS: usize = 512;
/// A thread's logits take this part of the memory that the weights take, or a thousand rows' of a small vocabulary: each time
/// they are computed, all of the head is read and packed.
const LOGITS_PART: usize = 16;
const LOGITS_LEAST: usize = 1 << 18;

/// Where each of a layer's tensors lies in the arena, and how far back it sees.
#[derive(Clone, Debug)]
struct LayerPlaces {
    input_norm: Place,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    window: Option<usize>,
    post_norm: Place,
    gate: Linear,
    up: Linear,
    down: Linear,
}

type Place = std::ops::Range<usize>;

/// A linear layer.
#[derive(Clone, Debug)]
struct Linear {
    /// (out, in)
    weight: Place,
    /// (out)
    bias: Option<Place>,
}

#[derive(Clone, Debug)]
struct Places {
    embedding: Place,
    layers: Vec<LayerPlaces>,
    norm: Place,
    head: Linear,
}

impl Places {
    fn new(config: &LlamaConfig, layout: &Layout) -> Self {
        let find = |name: &str| {
            // The layout is the config's own, so every name is there.
            layout.find(name).map(|spec| spec.range()).unwrap_or_default()
        };
        let layers = (0..config.num_hidden_layers)
            .map(|layer| {
                let norm = |name: &str| find(&format!("model.layers.{layer}.{name}.weight"));
                let linear = |name: &str| Linear {
                    weight: norm(name),
                    bias: layout.find(&format!("model.layers.{layer}.{name}.bias")).map(|spec| spec.range()),
                };
                LayerPlaces {
                    input_norm: norm("input_layernorm"),
                    q: linear("self_attn.q_proj"),
                    k: linear("self_attn.k_proj"),
                    v: linear("self_attn.v_proj"),
                    o: linear("self_attn.o_proj"),
                    window: config.variant.window(layer),
                    post_norm: norm("post_attention_layernorm"),
                    gate: linear("mlp.gate_proj"),
                    up: linear("mlp.up_proj"),
                    down: linear("mlp.down_proj"),
                }
            })
            .collect();
        let embedding = find("model.embed_tokens.weight");
        let head = if config.tie_word_embeddings { embedding.clone() } else { find("lm_head.weight") };
        Self { embedding, layers, norm: find("model.norm.weight"), head: Linear { weight: head, bias: None } }
    }
}

/// One thread's activations, kept between calls.
#[derive(Debug, Default)]
struct Scratch {
    /// (rows, hidden): the residual stream
    x: Vec<f32>,
    /// (rows, hidden)
    y: Vec<f32>,
    /// (rows, query width)
    q: Vec<f32>,
    /// (rows, key-value width)
    k: Vec<f32>,
    /// (rows, key-value width)
    v: Vec<f32>,
    /// (rows, query width)
    mixed: Vec<f32>,
    /// (rows, intermediate)
    gate: Vec<f32>,
    /// (rows, intermediate)
    up: Vec<f32>,
    /// (some rows, vocabulary)
    logits: Vec<f32>,
    gemm: GemmScratch,
    attention: AttentionScratch,
    total: Total,
}

/// A sum of token losses, `None` once one of them wasn't finite.
#[derive(Clone, Copy, Debug)]
struct Total(Option<i128>);

impl Default for Total {
    fn default() -> Self {
        Total(Some(0))
    }
}

impl Total {
    fn add(&mut self, loss: Option<i64>) {
        self.0 = self.0.zip(loss).map(|(sum, loss)| sum + i128::from(loss));
    }
}

/// Computes losses of one model, with buffers that are kept between calls.
#[derive(Debug)]
pub struct Scorer {
    config: LlamaConfig,
    places: Places,
    rope: RopeTable,
    pool: Pool,
    scratch: Vec<Scratch>,
}

impl Scorer {
    /// For the model of `config` and windows of at most `predicted_tokens` predicted tokens each.
    pub fn new(config: &LlamaConfig, predicted_tokens: usize, pool: Pool) -> Self {
        let positions = predicted_tokens.min(config.max_position_embeddings);
        Self {
            places: Places::new(config, &config.layout()),
            rope: pool
                .here(|| RopeTable::new(positions, config.head_dim, config.rope_theta, config.variant.rope_scaling)),
            config: config.clone(),
            pool,
            scratch: (0..pool.threads()).map(|_| Scratch::default()).collect(),
        }
    }

    /// The pool it computes on.
    pub fn pool(&self) -> Pool {
        self.pool
    }

    /// The cross-entropy of every predicted token of the batch, summed; `None` if it isn't finite. `weights` are in the layout
    /// order of the scorer's model, and the batch is of its vocabulary and window length.
    pub fn loss(&mut self, weights: &[f32], batch: &HeldOutBatch) -> Option<Score> {
        for scratch in &mut self.scratch {
            scratch.total = Total::default();
        }
        let windows = batch.windows();
        let a_pass =
            (ROWS_A_PASS / batch.predicted_per_window()).min(windows.len().div_ceil(self.pool.threads())).max(1);
        let pass = Pass { config: &self.config, places: &self.places, rope: &self.rope, pool: self.pool, weights };
        self.pool.run(&mut self.scratch, windows.len().div_ceil(a_pass), |scratch, part| {
            let end = windows.len().min((part + 1) * a_pass);
            let windows = &windows[part * a_pass..end];
            pass.hidden(scratch, windows);
            pass.add_loss(scratch, windows);
        });
        let total: Option<i128> = self.scratch.iter().map(|scratch| scratch.total.0).sum();
        total.and_then(|total| i64::try_from(total).ok()).map(Score)
    }

    /// The logits of every predicted token, window after window: (predicted tokens, vocabulary). For comparing how a model
    /// was read with other programs; verdicts are made of [`Scorer::loss`].
    pub fn logits(&mut self, weights: &[f32], batch: &HeldOutBatch) -> Vec<f32> {
        let (hidden, vocabulary) = (self.config.hidden_size, self.config.vocab_size);
        let states = self.hidden_states(weights, batch);
        let pass = Pass { config: &self.config, places: &self.places, rope: &self.rope, pool: self.pool, weights };
        self.pool.run(&mut self.scratch[..1], 1, |scratch, _| {
            let Scratch { logits, gemm, .. } = scratch;
            logits.resize(states.len() / hidden * vocabulary, 0.0);
            pass.linear(gemm, &states, (vocabulary, hidden), &pass.places.head, logits);
        });
        std::mem::take(&mut self.scratch[0].logits)
    }

    /// The normalised states before the head, window after window: (predicted tokens, hidden). For the self-test.
    pub(super) fn hidden_states(&mut self, weights: &[f32], batch: &HeldOutBatch) -> Vec<f32> {
        let pass = Pass { config: &self.config, places: &self.places, rope: &self.rope, pool: self.pool, weights };
        let mut states = Vec::new();
        let scratch = &mut self.scratch[..1];
        for window in batch.windows() {
            self.pool.run(scratch, 1, |scratch, _| pass.hidden(scratch, std::slice::from_ref(window)));
            states.extend_from_slice(&scratch[0].y[..batch.predicted_per_window() * self.config.hidden_size]);
        }
        states
    }
}

/// One forward pass of some windows on one thread.
struct Pass<'a> {
    config: &'a LlamaConfig,
    places: &'a Places,
    rope: &'a RopeTable,
    pool: Pool,
    weights: &'a [f32],
}

impl Pass<'_> {
    fn tensor(&self, place: &Place) -> &[f32] {
        &self.weights[place.clone()]
    }

    /// Leaves the normalised states before the head in `scratch.y`.
    fn hidden(&self, scratch: &mut Scratch, windows: &[Vec<u32>]) {
        let config = self.config;
        let tokens = windows[0].len() - 1;
        let rows = windows.len() * tokens;
        scratch.x.resize(rows * config.hidden_size, 0.0);
        scratch.y.resize(rows * config.hidden_size, 0.0);
        scratch.q.resize(rows * config.query_width(), 0.0);
        scratch.k.resize(rows * config.key_value_width(), 0.0);
        scratch.v.resize(rows * config.key_value_width(), 0.0);
        scratch.mixed.resize(rows * config.query_width(), 0.0);
        scratch.gate.resize(rows * config.intermediate_size, 0.0);
        scratch.up.resize(rows * config.intermediate_size, 0.0);
        let embedding = self.tensor(&self.places.embedding);
        let inputs = windows.iter().flat_map(|window| &window[..tokens]);
        for (x, token) in scratch.x.chunks_exact_mut(config.hidden_size).zip(inputs) {
            x.copy_from_slice(&embedding[*token as usize * config.hidden_size..][..config.hidden_size]);
        }
        for layer in &self.places.layers {
            self.attention(scratch, layer, tokens);
            self.feed_forward(scratch, layer);
        }
        self.norm(&scratch.x, &self.places.norm, &mut scratch.y);
    }

    fn norm(&self, x: &[f32], gain: &Place, y: &mut [f32]) {
        let width = self.config.hidden_size;
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            rows::rms_norm(self.pool.isa(), x, self.tensor(gain), self.config.rms_norm_eps, y);
        }
    }

    /// `output = input · weightᵀ (+ bias)`; the weight is (out, in).
    fn linear(
        &self,
        gemm_scratch: &mut GemmScratch,
        input: &[f32],
        (out, width): (usize, usize),
        linear: &Linear,
        output: &mut [f32],
    ) {
        let rows = input.len() / width;
        let weight = Matrix::transposed(self.tensor(&linear.weight), width, out, width);
        let input = Matrix::rows(input, rows, width, width);
        gemm(self.pool.isa(), gemm_scratch, input, weight, &mut MatrixMut::rows(output, rows, out, out));
        if let Some(bias) = &linear.bias {
            for row in output[..rows * out].chunks_exact_mut(out) {
                rows::add(self.pool.isa(), row, self.tensor(bias));
            }
        }
    }

    fn attention(&self, scratch: &mut Scratch, layer: &LayerPlaces, tokens: usize) {
        let (config, isa) = (self.config, self.pool.isa());
        let Scratch { x, y, q, k, v, mixed, gemm, attention, .. } = scratch;
        let (hidden, query, key_value) = (config.hidden_size, config.query_width(), config.key_value_width());
        self.norm(x, &layer.input_norm, y);
        self.linear(gemm, y, (query, hidden), &layer.q, q);
        self.linear(gemm, y, (key_value, hidden), &layer.k, k);
        self.linear(gemm, y, (key_value, hidden), &layer.v, v);
        self.rope(q, query, tokens);
        self.rope(k, key_value, tokens);
        let shape = AttentionShape {
            tokens,
            heads: config.num_attention_heads,
            key_value_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            window: layer.window,
        };
        let windows = q.chunks_exact(tokens * query).zip(k.chunks_exact(tokens * key_value));
        let windows = windows.zip(v.chunks_exact(tokens * key_value)).zip(mixed.chunks_exact_mut(tokens * query));
        for (((q, k), v), mixed) in windows {
            causal_attention(isa, gemm, attention, shape, q, k, v, mixed);
        }
        self.linear(gemm, mixed, (hidden, query), &layer.o, y);
        rows::add(isa, x, y);
    }

    fn rope(&self, states: &mut [f32], width: usize, tokens: usize) {
        for (row, state) in states.chunks_exact_mut(width).enumerate() {
            let (cos, sin) = self.rope.at(row % tokens);
            for head in state.chunks_exact_mut(self.config.head_dim) {
                rows::rope(self.pool.isa(), head, cos, sin);
            }
        }
    }

    fn feed_forward(&self, scratch: &mut Scratch, layer: &LayerPlaces) {
        let isa = self.pool.isa();
        let (hidden, inner) = (self.config.hidden_size, self.config.intermediate_size);
        let Scratch { x, y, gate, up, gemm, .. } = scratch;
        self.norm(x, &layer.post_norm, y);
        self.linear(gemm, y, (inner, hidden), &layer.gate, gate);
        self.linear(gemm, y, (inner, hidden), &layer.up, up);
        rows::swiglu(isa, gate, up);
        self.linear(gemm, gate, (hidden, inner), &layer.down, y);
        rows::add(isa, x, y);
    }

    /// Adds the loss of every predicted token to `scratch.total`.
    fn add_loss(&self, scratch: &mut Scratch, windows: &[Vec<u32>]) {
        let (hidden, vocabulary) = (self.config.hidden_size, self.config.vocab_size);
        let Scratch { y, logits, gemm, total, .. } = scratch;
        let mut targets = windows.iter().flat_map(|window| &window[1..]);
        let at_once = ((self.weights.len() / LOGITS_PART).max(LOGITS_LEAST) / vocabulary).max(1);
        for states in y.chunks(at_once * hidden) {
            logits.resize(states.len() / hidden * vocabulary, 0.0);
            self.linear(gemm, states, (vocabulary, hidden), &self.places.head, logits);
            for (row, target) in logits.chunks_exact(vocabulary).zip(&mut targets) {
                total.add(rows::cross_entropy(self.pool.isa(), row, *target as usize));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use l402t_kernels::Isa;

    use super::*;
    use crate::judge::self_test::{sample_batch, sample_checkpoint};
    use crate::model::fixtures::variants;
    use crate::model::{Checkpoint, RopeScaling};

    #[test]
    fn the_loss_does_not_depend_on_path_threads_or_company() {
        let checkpoint = sample_checkpoint();
        let batch = sample_batch(&checkpoint.config, 7, 140);
        let mut losses = Vec::new();
        for isa in Isa::available() {
            for threads in [1, 2, 3, 5] {
                let pool = Pool::new(isa, NonZeroUsize::new(threads).expect("not zero"));
                let mut scorer = Scorer::new(&checkpoint.config, 139, pool);
                losses.push(scorer.loss(&checkpoint.weights, &batch).expect("finite"));
                let alone = batch.windows().iter().map(|window| {
                    let batch = HeldOutBatch::new(&checkpoint.config, vec![window.clone()]).expect("valid");
                    scorer.loss(&checkpoint.weights, &batch).expect("finite").0
                });
                assert_eq!(alone.sum::<i64>(), losses[0].0);
            }
        }
        assert!(losses.iter().all(|loss| *loss == losses[0]), "{losses:?}");
    }

    #[test]
    fn a_model_that_knows_nothing_loses_the_logarithm_of_its_vocabulary() {
        let mut checkpoint = sample_checkpoint();
        checkpoint.weights.fill(0.0);
        let batch = sample_batch(&checkpoint.config, 2, 9);
        let mut scorer = Scorer::new(&checkpoint.config, 8, Pool::all_cores());
        let loss = scorer.loss(&checkpoint.weights, &batch).expect("finite").0;
        let expected = (checkpoint.config.vocab_size as f64).ln() * 4_294_967_296.0;
        assert_eq!(loss, 16 * expected.round_ties_even() as i64);
    }

    #[test]
    fn the_loss_ignores_what_comes_after_a_token() {
        let checkpoint = sample_checkpoint();
        let batch = sample_batch(&checkpoint.config, 1, 40);
        let mut scorer = Scorer::new(&checkpoint.config, 39, Pool::all_cores());
        let mut state = |windows: Vec<Vec<u32>>| {
            let batch = HeldOutBatch::new(&checkpoint.config, windows).expect("valid");
            scorer.hidden_states(&checkpoint.weights, &batch)
        };
        let before = state(batch.windows().to_vec());
        let mut changed = batch.windows().to_vec();
        changed[0][30] ^= 1;
        let after = state(changed);
        let width = checkpoint.config.hidden_size;
        let same = |row: usize| before[row * width..][..width] == after[row * width..][..width];
        assert!((0..30).all(same));
        assert!(!(30..39).any(same));
    }

    #[test]
    fn non_finite_weights_give_no_loss() {
        let checkpoint = sample_checkpoint();
        let batch = sample_batch(&checkpoint.config, 2, 20);
        let mut scorer = Scorer::new(&checkpoint.config, 19, Pool::all_cores());
        for name in ["model.norm.weight", "model.layers.0.self_attn.v_proj.weight", "lm_head.weight"] {
            for value in [f32::NAN, f32::INFINITY] {
                let mut weights = checkpoint.weights.clone();
                weights[checkpoint.layout.find(name).expect("present").offset] = value;
                assert_eq!(scorer.loss(&weights, &batch), None, "{name} {value}");
            }
        }
    }

    #[test]
    fn crafted_weights_give_one_loss_on_every_path_or_none_on_any() {
        let checkpoint = sample_checkpoint();
        let batch = sample_batch(&checkpoint.config, 2, 20);
        let values = [f32::NAN, -f32::INFINITY, f32::MAX, -1e30, f32::MIN_POSITIVE / 8.0, 1e-45];
        let (mut with, mut without) = (0, 0);
        for name in ["model.layers.0.input_layernorm.weight", "model.layers.1.mlp.up_proj.weight", "lm_head.weight"] {
            let place = checkpoint.layout.find(name).expect("present");
            for (value, many) in values.iter().flat_map(|value| [(*value, 1), (*value, place.numel())]) {
                let mut weights = checkpoint.weights.clone();
                weights[place.range()][..many].fill(value);
                let loss =
                    |isa| Scorer::new(&checkpoint.config, 19, Pool::new(isa, NonZeroUsize::MIN)).loss(&weights, &batch);
                let expected = loss(Isa::PORTABLE);
                with += usize::from(expected.is_some());
                without += usize::from(expected.is_none());
                assert!(value.is_finite() || expected.is_none(), "{name}: {value} gives a number");
                for isa in Isa::available() {
                    assert_eq!(loss(isa), expected, "{name}: {value} on {isa}");
                }
            }
        }
        assert!(with > 10 && without > 10, "{with} with a loss, {without} without");
    }

    /// A Llama as the papers write it, in f64 and with the standard library's functions: no speed, no DF32.
    fn loss_by_the_book(checkpoint: &Checkpoint, window: &[u32]) -> f64 {
        let config = &checkpoint.config;
        let tensor = |name: &str| -> Vec<f64> {
            checkpoint.tensor_named(name).expect(name).iter().map(|w| f64::from(*w)).collect()
        };
        let layer_tensor = |layer: usize, name: &str| tensor(&format!("model.layers.{layer}.{name}.weight"));
        let linear = |w: &[f64], x: &[f64]| -> Vec<f64> {
            w.chunks(x.len()).map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum()).collect()
        };
        let biased = |layer: usize, name: &str, x: &[f64]| -> Vec<f64> {
            let bias = checkpoint.tensor_named(&format!("model.layers.{layer}.{name}.bias")).unwrap_or_default();
            let mut out = linear(&layer_tensor(layer, name), x);
            out.iter_mut().zip(bias).for_each(|(out, bias)| *out += f64::from(*bias));
            out
        };
        let frequency = |pair: usize| {
            let plain = config.rope_theta.powf(-2.0 * pair as f64 / config.head_dim as f64);
            match config.variant.rope_scaling {
                RopeScaling::None => plain,
                RopeScaling::Linear { factor } => plain / f64::from(factor),
                RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_positions } => {
                    let wavelength = std::f64::consts::TAU / plain;
                    let turns = f64::from(original_positions) / wavelength;
                    let [low, high] = [low_freq_factor, high_freq_factor].map(f64::from);
                    let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    plain * kept + plain / f64::from(factor) * (1.0 - kept)
                }
            }
        };
        let norm = |x: &[f64], gain: &[f64]| -> Vec<f64> {
            let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
            x.iter().zip(gain).map(|(v, g)| v / (mean + f64::from(config.rms_norm_eps)).sqrt() * g).collect()
        };
        let width = config.head_dim;
        let turn = |states: &mut [f64], position: usize| {
            for head in states.chunks_mut(width) {
                let old = head.to_vec();
                for i in 0..width {
                    let pair = i % (width / 2);
                    let angle = position as f64 * frequency(pair);
                    let partner = if i < width / 2 { -old[i + width / 2] } else { old[i - width / 2] };
                    head[i] = old[i] * angle.cos() + partner * angle.sin();
                }
            }
        };
        let embedding = tensor("model.embed_tokens.weight");
        let inputs = &window[..window.len() - 1];
        let mut states: Vec<Vec<f64>> = inputs
            .iter()
            .map(|token| embedding[*token as usize * config.hidden_size..][..config.hidden_size].to_vec())
            .collect();
        for layer in 0..config.num_hidden_layers {
            let part = |name: &str| layer_tensor(layer, name);
            let normed: Vec<Vec<f64>> = states.iter().map(|x| norm(x, &part("input_layernorm"))).collect();
            let project = |name: &str| -> Vec<Vec<f64>> { normed.iter().map(|x| biased(layer, name, x)).collect() };
            let (mut q, mut k) = (project("self_attn.q_proj"), project("self_attn.k_proj"));
            let v = project("self_attn.v_proj");
            q.iter_mut().enumerate().for_each(|(position, q)| turn(q, position));
            k.iter_mut().enumerate().for_each(|(position, k)| turn(k, position));
            for t in 0..states.len() {
                let mut mixed = Vec::new();
                for head in 0..config.num_attention_heads {
                    let kv = head / (config.num_attention_heads / config.num_key_value_heads) * width;
                    let q = &q[t][head * width..][..width];
                    let score = |key: usize| {
                        let dot: f64 = q.iter().zip(&k[key][kv..]).map(|(a, b)| a * b).sum();
                        (dot / (width as f64).sqrt()).exp()
                    };
                    let oldest = config.variant.window(layer).map_or(0, |window| (t + 1).saturating_sub(window));
                    let weights: Vec<f64> = (0..=t).map(|key| if key < oldest { 0.0 } else { score(key) }).collect();
                    let total: f64 = weights.iter().sum();
                    mixed
                        .extend((0..width).map(|d| {
                            weights.iter().zip(&v).map(|(weight, v)| weight / total * v[kv + d]).sum::<f64>()
                        }));
                }
                let out = biased(layer, "self_attn.o_proj", &mixed);
                states[t].iter_mut().zip(out).for_each(|(x, y)| *x += y);
            }
            for x in &mut states {
                let y = norm(x, &part("post_attention_layernorm"));
                let (gate, up) = (biased(layer, "mlp.gate_proj", &y), biased(layer, "mlp.up_proj", &y));
                let inner: Vec<f64> = gate.iter().zip(&up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
                let out = biased(layer, "mlp.down_proj", &inner);
                x.iter_mut().zip(out).for_each(|(x, y)| *x += y);
            }
        }
        let (gain, head) = (tensor("model.norm.weight"), tensor("lm_head.weight"));
        let token_loss = |(state, target): (&Vec<f64>, &u32)| {
            let logits = linear(&head, &norm(state, &gain));
            logits.iter().map(|l| l.exp()).sum::<f64>().ln() - logits[*target as usize]
        };
        states.iter().zip(&window[1..]).map(token_loss).sum()
    }

    #[test]
    fn the_loss_is_that_of_a_llama_by_the_book() {
        // Large weights, and those of a fresh model; more than one block of keys.
        for shrunk in [1.0, 0.125] {
            let mut checkpoint = sample_checkpoint();
            checkpoint.weights.iter_mut().for_each(|weight| *weight *= shrunk);
            let batch = sample_batch(&checkpoint.config, 2, 150);
            let mut scorer = Scorer::new(&checkpoint.config, 149, Pool::all_cores());
            let loss = scorer.loss(&checkpoint.weights, &batch).expect("finite").0 as f64 / 4_294_967_296.0;
            let expected: f64 = batch.windows().iter().map(|window| loss_by_the_book(&checkpoint, window)).sum();
            assert!((loss / expected - 1.0).abs() < 1e-6, "{loss}, by the book {expected}");
        }
    }

    #[test]
    fn the_loss_of_every_variant_is_that_of_the_book() {
        let plain = sample_checkpoint();
        let mut losses = vec![];
        for variant in variants() {
            let config = LlamaConfig { variant, ..(*plain.config).clone() };
            let mut checkpoint = Checkpoint::init(config, [42; 32]);
            for weight in &mut checkpoint.weights {
                *weight *= 8.0;
            }
            let layout = checkpoint.layout.clone();
            for bias in layout.tensors.iter().filter(|tensor| tensor.is_bias()) {
                for (place, value) in checkpoint.weights[bias.range()].iter_mut().enumerate() {
                    *value = 0.1 * (place % 7) as f32 - 0.3;
                }
            }
            let batch = sample_batch(&checkpoint.config, 1, 40);
            let mut scorer = Scorer::new(&checkpoint.config, 39, Pool::all_cores());
            let loss = scorer.loss(&checkpoint.weights, &batch).expect("finite").0 as f64 / 4_294_967_296.0;
            let expected = loss_by_the_book(&checkpoint, &batch.windows()[0]);
            assert!((loss / expected - 1.0).abs() < 1e-6, "{variant:?}: {loss}, by the book {expected}");
            assert!(losses.iter().all(|other: &f64| (other - loss).abs() > 1e-3), "{variant:?} changes nothing");
            losses.push(loss);
        }
    }
}
