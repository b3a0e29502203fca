//! The known-answer test: a fixed model, batch and updates, whose results are compiled in.
//!
//! It runs before a machine judges, on what will judge: a GPU, or an instruction set and a number of threads. Inputs come
//! from integer generators, so nothing but the arithmetic under test decides the answer.

use l402t_kernels::Pool;
use l402t_kernels::known_answers::{self, Answer};

use super::engine::Engine;
use super::outer::ClippedUpdate;
use super::{HeldOutBatch, JudgeError};
use crate::model::{Checkpoint, Layout, LlamaConfig};
use crate::protocol::amount::Ppm;
use crate::protocol::codec::{self, SparseTensor, SparseUpdate, TensorShape, Update};
use crate::protocol::ids::Blake3Hash;
use crate::protocol::verdict::Score;

const WINDOWS: u32 = 3;
/// More than one block of keys.
const WINDOW_TOKENS: u32 = 150;

const HIDDEN: &str = "2cdf31e5ae696e44e114f1db50b68880be83c52a990e231f191dc5d219c83eab";
const LOSS: Score = Score(9_101_716_805_093);
const NEXT: &str = "a9974a87d48bd4f0a4f80202dfff5e1e9be583a641faa6227347aaaf5580bf0b";

/// Checks this machine's arithmetic on what will judge. Takes milliseconds.
pub fn self_test(engine: impl Into<Engine>) -> Result<(), JudgeError> {
    let engine = engine.into();
    let failed = |what| Err(JudgeError::SelfTest { engine: engine.describe(), what });
    let Results { hidden, loss, next, applied } = Results::compute(&engine)?;
    let expected = Results::expected();
    if hidden != expected.hidden {
        return failed("hidden states");
    }
    if loss != expected.loss {
        return failed("loss");
    }
    if next != expected.next {
        return failed("outer step");
    }
    if !applied {
        return failed("a contribution's loss");
    }
    Ok(())
}

/// One hash of all that the judge computes on fixed inputs, each kernel's known answers included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownAnswer {
    /// What this machine computed.
    pub found: Blake3Hash,
    /// Is it what every machine computes?
    pub right: bool,
}

impl KnownAnswer {
    /// This machine's, on the pool's instruction set and threads.
    pub fn compute(pool: Pool) -> Self {
        let found =
            Results::compute(&pool.into()).expect("only a GPU can fail").digest(&known_answers::answers(pool.isa()));
        Self { found, right: found == Self::expected() }
    }

    /// Every machine's.
    pub fn expected() -> Blake3Hash {
        Results::expected().digest(&known_answers::EXPECTED)
    }
}

/// What the fixed model, batch and updates give.
struct Results {
    hidden: String,
    loss: Option<Score>,
    next: String,
    /// One contribution is applied by other code than the mean of several: does it come to the same loss?
    applied: bool,
}

impl Results {
    fn expected() -> Self {
        Self { hidden: HIDDEN.into(), loss: Some(LOSS), next: NEXT.into(), applied: true }
    }

    fn compute(engine: &Engine) -> Result<Self, JudgeError> {
        let checkpoint = sample_checkpoint();
        let batch = sample_batch(&checkpoint.config, WINDOWS, WINDOW_TOKENS);
        let mut meter = engine.meter(&checkpoint, &batch)?;
        let hidden = digest(&meter.hidden_states()?).to_string();
        let loss = meter.loss_before()?;
        let updates = [1, 2, 3].map(|seed| Update::Sparse(sample_update(&checkpoint.layout, seed)));
        let updates: Vec<&Update> = updates.iter().collect();
        let clips = super::clip::clip_factors(&engine.pool(), &checkpoint.layout.shapes(), &updates);
        let updates: Vec<ClippedUpdate<'_>> =
            updates.iter().zip(&clips).map(|(update, clip)| ClippedUpdate { update, clip }).collect();
        let outer_lr = Ppm::new(700_000).unwrap_or(Ppm::ONE);
        let next = meter.step(outer_lr, &updates)?.0.hash().to_string();
        let (_, loss_of_step) = meter.step(outer_lr, &updates[..1])?;
        let applied = loss_of_step.is_some() && meter.loss_after(outer_lr, updates[0])? == loss_of_step;
        Ok(Self { hidden, loss, next, applied })
    }

    fn digest(&self, kernels: &[Answer]) -> Blake3Hash {
        let Self { hidden, loss, next, .. } = self;
        let mut text = format!("{hidden} {:?} {next}", loss.map(|loss| loss.0));
        for Answer { name, hash } in kernels {
            text.push_str(&format!("\n{name} {hash:016x}"));
        }
        Blake3Hash::of(text.as_bytes())
    }
}

fn digest(values: &[f32]) -> Blake3Hash {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Blake3Hash::of(&bytes)
}

/// A small model with everything in it: grouped-query attention, odd sizes, a head of its own. Its matrices are eight times as
/// large as fresh ones (an exact product), so that no function is used near zero only.
pub(super) fn sample_checkpoint() -> Checkpoint {
    let config = LlamaConfig {
        vocab_size: 67,
        hidden_size: 48,
        intermediate_size: 100,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 14,
        max_position_embeddings: 160,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        tie_word_embeddings: false,
        variant: Default::default(),
    };
    let mut checkpoint = Checkpoint::init(config, [42; 32]);
    let layout = checkpoint.layout.clone();
    for tensor in &layout.tensors {
        if let TensorShape::Matrix { .. } = tensor.shape {
            for weight in &mut checkpoint.weights[tensor.range()] {
                *weight *= 8.0;
            }
        }
    }
    checkpoint
}

/// SplitMix64.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

pub(super) fn sample_batch(config: &LlamaConfig, windows: u32, tokens: u32) -> HeldOutBatch {
    let mut state = 5;
    let mut window = || (0..tokens).map(|_| (random(&mut state) % config.vocab_size as u64) as u32).collect();
    let windows = (0..windows).map(|_| window()).collect();
    // All tokens are below the vocabulary's size, and the windows have one length.
    HeldOutBatch::new(config, windows).expect("a valid batch")
}

/// About a quarter of all indices.
pub(super) fn sample_update(layout: &Layout, seed: u64) -> SparseUpdate {
    let mut state = seed;
    let tensor = |spec: &crate::model::TensorSpec| {
        let mut level = || ((random(&mut state) >> 40) as i32 - (1 << 23)) as f32 / (1u32 << 29) as f32;
        let levels = codec::levels(&[level(), level(), level(), level()].map(f32::to_bits));
        let indices: Vec<u32> = (0..spec.numel() as u32).filter(|_| random(&mut state).is_multiple_of(4)).collect();
        let codes = indices.iter().map(|_| (random(&mut state) % 4) as u8).collect();
        SparseTensor { levels, indices, codes }
    };
    SparseUpdate { tensors: layout.tensors.iter().map(tensor).collect() }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use l402t_kernels::Isa;

    use super::*;

    #[test]
    fn every_path_and_thread_count_gives_the_known_answer() {
        for isa in Isa::available() {
            for threads in [1, 2, 3] {
                let threads = NonZeroUsize::new(threads).expect("not zero");
                assert_eq!(self_test(Pool::new(isa, threads)), Ok(()));
                assert!(KnownAnswer::compute(Pool::new(isa, threads)).right, "{isa}");
            }
        }
    }
}
