//! The model's description, shared by the judge and the trainer: config.json, tensor layout, checkpoints.
//!
//! Holds no arithmetic on weights: that is the judge's (DF32) and the trainer's (libtorch).

use std::sync::Arc;

use crate::protocol::codec::TensorShape;

/// A Llama-style decoder, as Hugging Face's config.json describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct LlamaConfig {
    /// Tokens in the vocabulary (256: bytes).
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the SwiGLU.
    pub intermediate_size: usize,
    /// Decoder blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads (grouped-query attention).
    pub num_key_value_heads: usize,
    /// Width of a head; even.
    pub head_dim: usize,
    /// Longest sequence.
    pub max_position_embeddings: usize,
    /// RMSNorm's ε.
    pub rms_norm_eps: f32,
    /// RoPE's base.
    pub rope_theta: f64,
    /// Is the head the embedding?
    pub tie_word_embeddings: bool,
}

/// One tensor's place in the arena of weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Hugging Face's name: `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// Its shape; a linear layer is (out, in).
    pub shape: TensorShape,
    /// Where it starts, in values.
    pub offset: usize,
}

/// All tensors in ascending order of name (by bytes), one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// In the canonical order.
    pub tensors: Vec<TensorSpec>,
    /// Values in all.
    pub numel: usize,
}

/// Weights: one f32 arena in layout order.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The model.
    pub config: Arc<LlamaConfig>,
    /// Where each tensor is.
    pub layout: Arc<Layout>,
    /// (layout.numel)
    pub weights: Vec<f32>,
}
