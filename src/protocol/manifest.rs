//! The run manifest: everything that is fixed for a run, published and signed when it starts. Its digest is the run's id.

use serde::{Deserialize, Serialize};

use super::amount::{Msat, Ppm};
use super::ids::{Blake3Hash, PeerId, RunId, UnixMs};
use super::sign::Statement;

/// Everything a peer or an auditor must know about a run. Real-valued settings are decimal integers in a stated unit,
/// so the manifest has one encoding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunManifest {
    /// 1.
    pub version: u32,
    /// For people.
    pub name: String,
    /// Who signs the run's statements.
    pub coordinator: PeerId,
    /// When the run started.
    pub created_ms: UnixMs,
    /// The blob of the model's config.json.
    pub model_config: Blake3Hash,
    /// The blob of the first round's checkpoint (safetensors).
    pub initial_checkpoint: Blake3Hash,
    /// What peers train on.
    pub training_data: TrainingDataParams,
    /// The held-out pool.
    pub held_out: HeldOutParams,
    /// The inner loop that peers run.
    pub training: TrainingParams,
    /// What is sent of a pseudo-gradient, and how.
    pub codec: CodecParams,
    /// The verdict's rules.
    pub judge: JudgeParams,
    /// What is paid.
    pub reward: RewardParams,
    /// How long a round may take.
    pub timing: TimingParams,
}

impl Statement for RunManifest {
    const CONTEXT: &'static str = "l402t run manifest v1";
}

impl RunManifest {
    /// The run's id.
    pub fn run_id(&self) -> RunId {
        RunId::from_bytes(*self.digest().as_bytes())
    }
}

/// What peers train on. Which shards a peer reads from in a round is drawn: see [`super::shards`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingDataParams {
    /// The token shards, in the order of the corpus.
    pub shards: Vec<ShardParams>,
    /// How many shards a peer reads from in a round.
    pub shards_per_round: u32,
    /// The blob of the tokenizer.json that all tokens were made by, the held-out ones too; none where they are bytes, or came
    /// as tokens.
    pub tokenizer: Option<Blake3Hash>,
}

/// A token shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardParams {
    /// Its blob: a token file.
    pub hash: Blake3Hash,
    /// Tokens in it.
    pub tokens: u64,
}

/// The pool of held-out windows. Round `r` draws `windows_per_round` of the `block_windows` windows
/// `r·block_windows .. (r+1)·block_windows`, so no window serves two rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldOutParams {
    /// Merkle root over all windows.
    pub root: Blake3Hash,
    /// Windows in the pool.
    pub windows: u32,
    /// Windows a round may draw from.
    pub block_windows: u32,
    /// Windows a round is scored on.
    pub windows_per_round: u32,
    /// Tokens in a window; all but the first are predicted.
    pub window_tokens: u32,
}

impl HeldOutParams {
    /// How many rounds the pool lasts.
    pub fn rounds(&self) -> u32 {
        self.windows.checked_div(self.block_windows).unwrap_or(0)
    }
}

/// The inner loop: H AdamW steps from the round's checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingParams {
    /// H.
    pub inner_steps: u32,
    /// Sequences in one forward pass.
    pub micro_batch: u32,
    /// Forward passes accumulated into one optimiser step.
    pub gradient_accumulation: u32,
    /// Tokens in a training sequence.
    pub sequence_tokens: u32,
    /// Learning rate in 10⁻⁹.
    pub learning_rate_nano: u32,
    /// Inner steps over which the learning rate rises from zero in the first round.
    pub warmup_steps: u32,
    /// AdamW β₁.
    pub beta1_ppm: Ppm,
    /// AdamW β₂.
    pub beta2_ppm: Ppm,
    /// AdamW decoupled weight decay.
    pub weight_decay_ppm: Ppm,
    /// Gradient norm clip in 10⁻⁶; 0 switches it off.
    pub clip_norm_micro: u32,
    /// Error-feedback decay (SparseLoCo's 0.95).
    pub error_feedback_decay_ppm: Ppm,
}

/// What is sent of a pseudo-gradient: the top-k of each tile in a few bits (the sparse update), or every value in eight with a
/// scale a tile (the dense update).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodecParams {
    /// Wire format version, 2.
    pub version: u32,
    /// Side of the square tile of a 2-D tensor (64: 4,096 values). A 1-D tensor is cut into chunks of so many values.
    pub tile: u32,
    /// Values kept of each full tile; a part tile or 1-D chunk of n values keeps max(1, round(n·k / tile²)).
    /// In a dense update tile², which is all.
    pub k: u32,
    /// Bits of a kept value: 1, 2 or 4 of a sparse update, 8 of a dense one.
    pub value_bits: u32,
}

/// The verdict's rules. Losses and gains are integers in 2⁻³² nats, summed over the batch's predicted tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgeParams {
    /// DF32 rules, 1.
    pub df32_version: u32,
    /// Smallest gain per predicted token that is paid, in 2⁻³² nats.
    pub min_gain_per_token: u32,
    /// Smallest gain that is paid, as a part of the median of the round's gains: noise that happens to help a little is
    /// no work.
    pub min_gain_of_median_ppm: Ppm,
    /// The part of a contribution's indices from which it is a copy of an earlier one that has them too.
    pub copy_overlap_ppm: Ppm,
    /// The outer step's α.
    pub outer_lr_ppm: Ppm,
}

/// What a round pays, and what it costs to take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewardParams {
    /// The most that a round pays, over all peers.
    pub pool_msat: Msat,
    /// The most of the pool that one contribution is paid; what is locked for it.
    pub max_share_ppm: Ppm,
    /// Binary tranches (1, 2, 4 … units) that the locked reward is made of, 1 ..= 10.
    pub tranches: u32,
    /// The submission fee.
    pub fee_msat: Msat,
    /// CLTV delta that the peer's hold invoices ask for, in blocks: how long a reward stays locked at the least.
    pub hold_blocks: u32,
}

/// Most contributions of a round. An aggregate of so many is the most that a peer ever decodes, whatever it was sent.
pub const MAX_CONTRIBUTIONS: u32 = 1_024;

/// A round's deadlines, counted from its opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimingParams {
    /// Until when commitments are taken.
    pub commit_ms: u64,
    /// Until when payloads are taken (later than `commit_ms`).
    pub upload_ms: u64,
    /// The round closes early once this many payloads have arrived and no ticket is waiting; 0 never closes early.
    pub close_at_contributions: u32,
    /// Most tickets a round sells: 1 ..= [`MAX_CONTRIBUTIONS`].
    pub max_contributions: u32,
}
