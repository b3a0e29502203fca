//! Causal grouped-query attention over one window, on one thread.
//!
//! Queries go in blocks of 128: query i reads the keys of every block up to its own, from the block on that holds the first
//! key that its block's first query sees. The weights of keys that it may not see are exactly +0, and the softmax runs over
//! the others: the i + 1 keys up to its own, or the last `window` of them. The block is part of the definition: a +0 weight
//! still meets the value it masks.

use crate::gemm::{GemmScratch, Matrix, MatrixMut, gemm};
use crate::{Isa, rows};

/// Queries in a block, and the grain in which keys are read.
pub const BLOCK: usize = 128;

/// The shape of one attention layer.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// Tokens in the window.
    pub tokens: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Most keys that a query sees, its own among them; at least 1. `None`: all before it.
    pub window: Option<usize>,
}

impl AttentionShape {
    /// The first key that a query sees.
    fn first_seen(&self, query: usize) -> usize {
        self.window.map_or(0, |window| (query + 1).saturating_sub(window))
    }
}

/// Buffers, to be kept between calls. One a thread.
#[derive(Clone, Debug, Default)]
pub struct AttentionScratch {
    /// (BLOCK, keys)
    scores: Vec<f32>,
}

/// `out[t, h] = Σ softmax(q[t, h] · k / √head_dim) v` over the keys that t sees. q and out: (tokens, heads · head_dim); k and v:
/// (tokens, key_value_heads · head_dim). Panics where a slice is too short.
#[allow(clippy::too_many_arguments, reason = "the operands of attention")]
pub fn causal_attention(
    isa: Isa,
    gemm_scratch: &mut GemmScratch,
    scratch: &mut AttentionScratch,
    shape: AttentionShape,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &mut [f32],
) {
    let AttentionShape { tokens, heads, key_value_heads, head_dim, .. } = shape;
    let (q_stride, kv_stride) = (heads * head_dim, key_value_heads * head_dim);
    let group = heads / key_value_heads;
    let scale = 1.0 / (head_dim as f32).sqrt();
    for head in 0..heads {
        let (q_col, kv_col) = (head * head_dim, head / group * head_dim);
        for first in (0..tokens).step_by(BLOCK) {
            let queries = BLOCK.min(tokens - first);
            let first_key = shape.first_seen(first) / BLOCK * BLOCK;
            let keys = first + queries - first_key;
            scratch.scores.resize(queries * keys, 0.0);
            let scores = &mut scratch.scores[..queries * keys];
            let q_block = Matrix::rows(&q[first * q_stride + q_col..], queries, head_dim, q_stride);
            let k_block = Matrix::transposed(&k[first_key * kv_stride + kv_col..], head_dim, keys, kv_stride);
            gemm(isa, gemm_scratch, q_block, k_block, &mut MatrixMut::rows(scores, queries, keys, keys));
            for (i, row) in scores.chunks_exact_mut(keys).enumerate() {
                let (past, later) = row.split_at_mut(first + i + 1 - first_key);
                let (unseen, seen) = past.split_at_mut(shape.first_seen(first + i) - first_key);
                rows::softmax(isa, seen, scale);
                unseen.fill(0.0);
                later.fill(0.0);
            }
            let v_block = Matrix::rows(&v[first_key * kv_stride + kv_col..], keys, head_dim, kv_stride);
            let mut out_block = MatrixMut::rows(&mut out[first * q_stride + q_col..], queries, head_dim, q_stride);
            gemm(isa, gemm_scratch, Matrix::rows(scores, queries, keys, keys), v_block, &mut out_block);
        }
    }
}
