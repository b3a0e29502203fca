//! What the judge's tests share: a tiny model, a held-out batch, and updates that help or harm.

use l402t_kernels::Pool;

use super::{HeldOutBatch, RoundInput, RoundJudgement, Submission, judge_round};
use crate::model::{Checkpoint, LlamaConfig};
use crate::protocol::amount::{Msat, Ppm};
use crate::protocol::codec::{
    DenseTensor, DenseUpdate, SparseTensor, SparseUpdate, Update, encode, kept, levels, tiles,
};
use crate::protocol::ids::{Blake3Hash, ContributionId, PeerId, UnixMs};
use crate::protocol::manifest::{
    CodecParams, HeldOutParams, JudgeParams, RewardParams, RunManifest, ShardParams, TimingParams, TrainingDataParams,
    TrainingParams,
};

/// Everything of a round but its contributions.
pub(super) struct Fixture {
    pub(super) start: Checkpoint,
    pub(super) codec: CodecParams,
    pub(super) judge: JudgeParams,
    pub(super) reward: RewardParams,
    pub(super) held_out: HeldOutBatch,
}

pub(super) fn config() -> LlamaConfig {
    LlamaConfig {
        vocab_size: 29,
        hidden_size: 24,
        intermediate_size: 40,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 12,
        max_position_embeddings: 32,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        tie_word_embeddings: true,
        variant: Default::default(),
    }
}

/// A contribution's id.
pub(super) fn id(n: u8) -> ContributionId {
    ContributionId::from_bytes([n; 32])
}

/// The update that undoes another.
pub(super) fn negated(update: &SparseUpdate) -> SparseUpdate {
    let mut update = update.clone();
    for tensor in &mut update.tensors {
        let used = &mut tensor.levels[..4];
        used.reverse();
        for level in used {
            *level ^= 1 << 31;
        }
        for code in &mut tensor.codes {
            *code = 3 - *code;
        }
    }
    update
}

/// Deterministic bytes for a place.
fn random(seed: u64, place: u64) -> u64 {
    let hash = blake3::keyed_hash(&[9; 32], &[seed.to_le_bytes(), place.to_le_bytes()].concat());
    u64::from_le_bytes(*hash.as_bytes().first_chunk().expect("32 bytes"))
}

impl Fixture {
    pub(super) fn new() -> Self {
        let start = Checkpoint::init(config(), [3; 32]);
        // A text with a habit, so that there is something to gain.
        let window = |w: u32| (0..20).map(|t| (t * t + w) % 7).collect();
        let held_out = HeldOutBatch::new(&start.config, (0..6).map(window).collect()).expect("valid windows");
        Self {
            start,
            codec: CodecParams { version: 2, tile: 8, k: 12, value_bits: 2 },
            judge: JudgeParams {
                df32_version: 1,
                min_gain_per_token: 1,
                min_gain_of_median_ppm: Ppm::ZERO,
                copy_overlap_ppm: Ppm::new(400_000).expect("valid"),
                outer_lr_ppm: Ppm::new(700_000).expect("valid"),
            },
            reward: RewardParams {
                pool_msat: Msat::new(24_000_000),
                max_share_ppm: Ppm::new(700_000).expect("valid"),
                tranches: 3,
                fee_msat: Msat::new(1_000),
                hold_blocks: 144,
            },
            held_out,
        }
    }

    /// A well-formed update whose tensors depend on the seed: every code occurs in every tensor.
    pub(super) fn any_update(&self, seed: u64) -> SparseUpdate {
        let mut place = 0;
        let mut next = || {
            place += 1;
            random(seed, place)
        };
        let tensor = |shape| {
            let mut tensor = SparseTensor {
                levels: levels(&[0xbc80_0000, 0xbb80_0000, 0x3b80_0000, 0x3c80_0000]),
                ..SparseTensor::default()
            };
            for tile in tiles(shape, &self.codec) {
                let mut positions: Vec<u32> = (0..tile.numel()).collect();
                positions.sort_by_cached_key(|_| next());
                positions.truncate(kept(&self.codec, tile.numel()) as usize);
                positions.sort_unstable();
                tensor.indices.extend(positions.iter().map(|position| tile.flat(*position)));
            }
            let codes = tensor.indices.iter().enumerate().map(|(i, _)| if i < 4 { i as u8 } else { next() as u8 & 3 });
            tensor.codes = codes.collect();
            tensor
        };
        SparseUpdate { tensors: self.start.layout.shapes().into_iter().map(tensor).collect() }
    }

    /// A well-formed update that lowers the loss: the best of many, so that it does on other windows of the text too.
    pub(super) fn helpful_update(&self, seed: u64) -> SparseUpdate {
        let attempts = (0..40).map(|attempt| self.any_update(seed * 1_000 + attempt));
        let gain = |update: &SparseUpdate| self.judge(&[Some(self.encode(update))]).verdicts[0].gain;
        let best = attempts
            .flat_map(|update| [negated(&update), update])
            .map(|update| (gain(&update), update))
            .max_by_key(|(gain, _)| *gain)
            .filter(|(gain, _)| gain.is_some_and(|gain| gain.0 > 0));
        best.unwrap_or_else(|| panic!("no update with seed {seed} helps")).1
    }

    pub(super) fn encode(&self, update: &SparseUpdate) -> Vec<u8> {
        self.encode_any(&Update::Sparse(update.clone()))
    }

    pub(super) fn encode_any(&self, update: &Update) -> Vec<u8> {
        encode(&self.codec, &self.start.layout.shapes(), update).expect("well-formed")
    }

    /// The manifest of a run with these rules; nobody's, and without a held-out pool.
    pub(super) fn manifest(&self) -> RunManifest {
        RunManifest {
            version: 1,
            name: "test".into(),
            coordinator: PeerId::from_bytes([0; 32]),
            created_ms: UnixMs(0),
            model_config: Blake3Hash::of(config().to_json().as_bytes()),
            initial_checkpoint: self.start.hash(),
            training_data: TrainingDataParams {
                shards: vec![ShardParams { hash: Blake3Hash::of(b"data"), tokens: 4 }],
                shards_per_round: 1,
                tokenizer: None,
            },
            held_out: HeldOutParams {
                root: Blake3Hash::of(b"none"),
                windows: 0,
                block_windows: 0,
                windows_per_round: 0,
                window_tokens: 0,
            },
            training: TrainingParams {
                inner_steps: 1,
                micro_batch: 1,
                gradient_accumulation: 1,
                sequence_tokens: 20,
                learning_rate_nano: 1,
                warmup_steps: 0,
                beta1_ppm: Ppm::ZERO,
                beta2_ppm: Ppm::ZERO,
                weight_decay_ppm: Ppm::ZERO,
                clip_norm_micro: 0,
                error_feedback_decay_ppm: Ppm::ZERO,
            },
            codec: self.codec,
            judge: self.judge,
            reward: self.reward,
            timing: TimingParams {
                commit_ms: 1_000,
                upload_ms: 2_000,
                close_at_contributions: 0,
                max_contributions: 8,
            },
        }
    }

    /// As `new`, for dense updates.
    pub(super) fn dense() -> Self {
        Self { codec: CodecParams { version: 2, tile: 8, k: 64, value_bits: 8 }, ..Self::new() }
    }

    /// A well-formed dense update of random values that lowers the loss.
    pub(super) fn helpful_dense_update(&self, seed: u64) -> DenseUpdate {
        let attempts = (0..20).flat_map(|attempt| {
            let update = self.any_dense_update(seed * 1_000 + attempt);
            let mut opposite = update.clone();
            opposite
                .tensors
                .iter_mut()
                .flat_map(|tensor| &mut tensor.codes)
                .for_each(|code| *code = code.wrapping_neg());
            [update, opposite]
        });
        let gain = |update: &DenseUpdate| {
            self.judge(&[Some(self.encode_any(&Update::Dense(update.clone())))]).verdicts[0].gain.map(|gain| gain.0)
        };
        let best = attempts.map(|update| (gain(&update), update)).max_by_key(|(gain, _)| *gain);
        let (gain, update) = best.expect("some");
        assert!(gain > Some(0), "no dense update with seed {seed} helps");
        update
    }

    /// A well-formed dense update whose tensors depend on the seed.
    pub(super) fn any_dense_update(&self, seed: u64) -> DenseUpdate {
        let mut place = 0;
        let mut next = move || {
            place += 1;
            random(seed, place)
        };
        let tensor = |shape: crate::protocol::codec::TensorShape| {
            let mut tensor = DenseTensor::default();
            tensor.codes.resize_with(shape.numel() as usize, || (next() % 253) as u8 + 2);
            for tile in tiles(shape, &self.codec) {
                // 2⁻¹⁴
                tensor.scales.push(0x3880);
                // Whatever the scale, one value takes the largest code.
                tensor.codes[tile.flat(next() as u32 % tile.numel()) as usize] = u8::MAX;
            }
            tensor
        };
        let tensors = self.start.layout.shapes().into_iter().map(tensor).collect();
        DenseUpdate { tile: self.codec.tile, tensors }
    }

    pub(super) fn input<'a>(&'a self, submissions: &'a [Submission<'a>]) -> RoundInput<'a> {
        RoundInput {
            start: &self.start,
            codec: &self.codec,
            judge: &self.judge,
            reward: &self.reward,
            held_out: &self.held_out,
            submissions,
        }
    }

    /// Judges payloads whose ids are their places.
    pub(super) fn judge(&self, payloads: &[Option<Vec<u8>>]) -> RoundJudgement {
        let submissions: Vec<_> =
            payloads.iter().enumerate().map(|(place, payload)| (id(place as u8), payload.clone())).collect();
        self.judge_with_ids(&submissions)
    }

    pub(super) fn judge_with_ids(&self, submissions: &[(ContributionId, Option<Vec<u8>>)]) -> RoundJudgement {
        let submissions: Vec<Submission<'_>> = submissions
            .iter()
            .map(|(contribution, payload)| Submission { contribution: *contribution, payload: payload.as_deref() })
            .collect();
        judge_round(&self.input(&submissions), Pool::all_cores(), &mut |_| {}).expect("a round that can be judged")
    }
}
