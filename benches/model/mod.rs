//! The model that the benchmarks share: bytes in, 3 million weights. Small enough to iterate on, large enough that no
//! cache holds it.
#![allow(dead_code, reason = "each benchmark uses a part of it")]

use l402t::model::{Checkpoint, LlamaConfig};
use l402t::protocol::manifest::CodecParams;

/// The paper's: the 64 largest of each 64 × 64 tile.
pub(crate) const CODEC: CodecParams = CodecParams { version: 2, tile: 64, k: 64, value_bits: 2 };

pub(crate) fn config() -> LlamaConfig {
    LlamaConfig {
        vocab_size: 256,
        hidden_size: 256,
        intermediate_size: 704,
        num_hidden_layers: 4,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 64,
        max_position_embeddings: 256,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        tie_word_embeddings: true,
        variant: Default::default(),
    }
}

pub(crate) fn checkpoint(seed: u8) -> Checkpoint {
    Checkpoint::init(config(), [seed; 32])
}

/// Bell-shaped, like a pseudo-gradient; says nothing about how well a real one is compressed.
pub(crate) fn pseudo_gradient(seed: u8) -> Vec<f32> {
    let (start, end) = (checkpoint(seed), checkpoint(seed + 100));
    start.weights.iter().zip(&end.weights).map(|(start, end)| start - end).collect()
}
