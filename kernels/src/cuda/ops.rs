//! The kernels as functions on typed buffers; all lengths are in numbers. Each checks that what it hands to a kernel holds what
//! the kernel will touch.
//!
//! Lengths that must agree are checked by assertion: they come from a model's layout, never from the network.

use std::ops::Range;

use super::{Arg, CudaError, Kernel, Machine, Slice, Values};

/// Rows and columns of a product that one block makes; queries that read their keys together.
const TILE: usize = 128;
const GEMM_THREADS: u32 = 256;
pub(super) const THREADS: u32 = 256;
const ROWS_PER_BLOCK: usize = 8;

/// One tensor's part of a sparse update on the device.
#[derive(Debug)]
pub struct Sparse<M: Machine> {
    indices: Values<M, u32>,
    codes: Values<M, u8>,
    levels: Values<M, f32>,
    /// One more than the largest index.
    end: usize,
}

impl<M: Machine> Sparse<M> {
    /// No index may come twice: a decoded update has each once. Panics on a code without a level.
    pub fn new(machine: &M, indices: &[u32], codes: &[u8], levels: &[f32]) -> Result<Self, CudaError> {
        assert_eq!(indices.len(), codes.len());
        assert!(codes.iter().all(|code| usize::from(*code) < levels.len()), "a code without a level");
        let end = indices.iter().max().map_or(0, |last| *last as usize + 1);
        Ok(Self {
            indices: Values::of(machine, indices)?,
            codes: Values::of(machine, codes)?,
            levels: Values::of(machine, levels)?,
            end,
        })
    }
}

/// The shape of attention, as [`crate::attention::AttentionShape`], for several windows.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Windows.
    pub windows: usize,
    /// Tokens in each.
    pub tokens: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Most keys that a query sees, its own among them; at least 1. `None`: all before it.
    pub reach: Option<usize>,
}

/// What attention reads.
#[derive(Debug)]
pub struct AttentionLayer<'a, M: Machine> {
    /// (window, token, heads · head_dim)
    pub q: &'a Values<M, f32>,
    /// (window, token, key_value_heads · head_dim)
    pub k: &'a Values<M, f32>,
    /// (window, token, key_value_heads · head_dim)
    pub v: &'a Values<M, f32>,
}

pub(super) fn number(value: usize) -> u32 {
    u32::try_from(value).expect("a model's dimensions fit in 32 bits")
}

pub(super) fn blocks(work: usize, each: usize) -> u32 {
    number(work.div_ceil(each))
}

/// `y = x · weightᵀ`: x is (rows, width), weight (out, width), y (rows, out).
pub fn linear<M: Machine>(
    machine: &M,
    rows: usize,
    (out, width): (usize, usize),
    x: Slice<'_, M, f32>,
    weight: Slice<'_, M, f32>,
    y: &mut Values<M, f32>,
) -> Result<(), CudaError> {
    assert!(x.len >= rows * width && weight.len >= out * width && y.len >= rows * out);
    if rows == 0 || out == 0 {
        return Ok(());
    }
    let aligned = [width, x.start, weight.start].iter().all(|n| n.is_multiple_of(4));
    let kernel = if aligned { Kernel::GemmAligned } else { Kernel::Gemm };
    let args = [Arg::U32(number(rows)), Arg::U32(number(out)), Arg::U32(number(width)), x.arg(), weight.arg(), y.arg()];
    // SAFETY: the kernel reads rows · width of x and out · width of weight and writes rows · out of y, asserted above;
    // the aligned one reads in fours, for which width and both starts are multiples of four.
    unsafe { machine.launch(kernel, [blocks(rows, TILE), blocks(out, TILE), 1], GEMM_THREADS, &args) }
}

/// `out = softmax(q · k / √head_dim) · v`, causal. `scores` has room for windows · heads · tokens².
pub fn causal_attention<M: Machine>(
    machine: &M,
    shape: Heads,
    layer: &AttentionLayer<'_, M>,
    scores: &mut Values<M, f32>,
    out: &mut Values<M, f32>,
) -> Result<(), CudaError> {
    let Heads { windows, tokens, heads, key_value_heads, head_dim, reach } = shape;
    let reach = number(reach.unwrap_or(tokens).min(tokens));
    assert!((reach > 0 || tokens == 0) && key_value_heads > 0 && heads.is_multiple_of(key_value_heads));
    let (query, key_value) = (windows * tokens * heads * head_dim, windows * tokens * key_value_heads * head_dim);
    assert!(layer.q.len >= query && out.len >= query && layer.k.len >= key_value && layer.v.len >= key_value);
    assert!(scores.len >= windows * heads * tokens * tokens);
    let rows = windows * heads * tokens;
    if rows == 0 || head_dim == 0 {
        return Ok(());
    }
    let sizes = [tokens, heads, key_value_heads, head_dim].map(|n| Arg::U32(number(n)));
    let [t, h, kv, d] = sizes;
    let [t2, h2, kv2, d2] = [tokens, heads, key_value_heads, head_dim].map(|n| Arg::U32(number(n)));
    let (pairs, query_blocks) = (number(windows * heads), blocks(tokens, TILE));
    let scale = 1.0 / (head_dim as f32).sqrt();
    // SAFETY: with these sizes the kernels stay inside (windows, tokens, …) of q, k, v and out and inside
    // (windows, heads, tokens, tokens) of scores, all asserted above.
    unsafe {
        machine.launch(
            Kernel::AttentionScores,
            [query_blocks, query_blocks, pairs],
            GEMM_THREADS,
            &[t, h, kv, d, Arg::U32(reach), layer.q.arg(), layer.k.arg(), scores.arg()],
        )?;
        machine.launch(
            Kernel::CausalSoftmax,
            [blocks(rows, ROWS_PER_BLOCK), 1, 1],
            THREADS,
            &[Arg::U32(number(rows)), Arg::U32(number(tokens)), Arg::U32(reach), Arg::F32(scale), scores.arg()],
        )?;
        machine.launch(
            Kernel::AttentionMix,
            [query_blocks, blocks(head_dim, TILE), pairs],
            GEMM_THREADS,
            &[t2, h2, kv2, d2, Arg::U32(reach), scores.arg(), layer.v.arg(), out.arg()],
        )
    }
}

/// As [`crate::rows::rms_norm`], on `rows` rows as wide as the gain.
pub fn rms_norm<M: Machine>(
    machine: &M,
    rows: usize,
    epsilon: f32,
    x: &Values<M, f32>,
    gain: Slice<'_, M, f32>,
    y: &mut Values<M, f32>,
) -> Result<(), CudaError> {
    let width = gain.len;
    assert!(x.len >= rows * width && y.len >= rows * width);
    if rows == 0 {
        return Ok(());
    }
    let args = [Arg::U32(number(rows)), Arg::U32(number(width)), Arg::F32(epsilon), x.arg(), gain.arg(), y.arg()];
    // SAFETY: the kernel touches rows · width of x and y and width of the gain.
    unsafe { machine.launch(Kernel::RmsNorm, [blocks(rows, ROWS_PER_BLOCK), 1, 1], THREADS, &args) }
}

/// As [`crate::rows::cross_entropy`], for `rows` rows of logits; −1 where that gives `None`.
pub fn cross_entropy<M: Machine>(
    machine: &M,
    rows: usize,
    width: usize,
    logits: &Values<M, f32>,
    targets: Slice<'_, M, u32>,
    losses: &mut Values<M, i64>,
) -> Result<(), CudaError> {
    assert!(logits.len >= rows * width && targets.len >= rows && losses.len >= rows);
    if rows == 0 {
        return Ok(());
    }
    let args = [Arg::U32(number(rows)), Arg::U32(number(width)), logits.arg(), targets.arg(), losses.arg()];
    // SAFETY: the kernel reads rows · width logits and rows targets, checks each target against the width, and writes
    // rows losses.
    unsafe { machine.launch(Kernel::CrossEntropy, [blocks(rows, ROWS_PER_BLOCK), 1, 1], THREADS, &args) }
}

/// x = the embedding's row of each token. Panics on a token that has none.
pub fn embed<M: Machine>(
    machine: &M,
    tokens: &[u32],
    (vocabulary, width): (usize, usize),
    embedding: Slice<'_, M, f32>,
    device_tokens: &mut Values<M, u32>,
    x: &mut Values<M, f32>,
) -> Result<(), CudaError> {
    let rows = tokens.len();
    assert!(embedding.len >= vocabulary * width && x.len >= rows * width);
    assert!(tokens.iter().all(|token| (*token as usize) < vocabulary), "a token outside the vocabulary");
    device_tokens.reserve(machine, rows)?;
    device_tokens.write(machine, tokens)?;
    if rows == 0 {
        return Ok(());
    }
    let args = [Arg::U32(number(rows)), Arg::U32(number(width)), device_tokens.arg(), embedding.arg(), x.arg()];
    // SAFETY: every token has its row in the embedding, and x has rows · width places.
    unsafe { machine.launch(Kernel::Embed, [blocks(rows * width, THREADS as usize), 1, 1], THREADS, &args) }
}

/// As [`crate::rows::rope`], on every head of `rows` rows, whose positions are their places in windows of `tokens`. cos
/// and sin are (position, head_dim / 2).
#[allow(clippy::too_many_arguments, reason = "the operands of RoPE")]
pub fn rope<M: Machine>(
    machine: &M,
    rows: usize,
    (width, head_dim): (usize, usize),
    tokens: usize,
    cos: &Values<M, f32>,
    sin: &Values<M, f32>,
    states: &mut Values<M, f32>,
) -> Result<(), CudaError> {
    assert!(head_dim >= 2 && head_dim.is_multiple_of(2) && width.is_multiple_of(head_dim));
    let angles = tokens.min(rows) * (head_dim / 2);
    assert!(tokens > 0 && states.len >= rows * width && cos.len >= angles && sin.len >= angles);
    let pairs = rows * width / 2;
    if pairs == 0 {
        return Ok(());
    }
    let [r, w, d, t] = [rows, width, head_dim, tokens].map(|n| Arg::U32(number(n)));
    let args = [r, w, d, t, cos.arg(), sin.arg(), states.arg()];
    // SAFETY: the kernel touches rows · width states, and angles of the first `tokens` positions.
    unsafe { machine.launch(Kernel::Rope, [blocks(pairs, THREADS as usize), 1, 1], THREADS, &args) }
}

/// As [`crate::rows::swiglu`], on the first `len`.
pub fn swiglu<M: Machine>(
    machine: &M,
    len: usize,
    up: &Values<M, f32>,
    gate: &mut Values<M, f32>,
) -> Result<(), CudaError> {
    two(machine, Kernel::Swiglu, len, up, gate)
}

/// As [`crate::rows::add`]: x = x + y, on the first `len`.
pub fn add<M: Machine>(machine: &M, len: usize, y: &Values<M, f32>, x: &mut Values<M, f32>) -> Result<(), CudaError> {
    two(machine, Kernel::AddTo, len, y, x)
}

fn two<M: Machine>(
    machine: &M,
    kernel: Kernel,
    len: usize,
    read: &Values<M, f32>,
    changed: &mut Values<M, f32>,
) -> Result<(), CudaError> {
    assert!(read.len >= len && changed.len >= len);
    if len == 0 {
        return Ok(());
    }
    let args = [Arg::U64(len as u64), read.arg(), changed.arg()];
    // SAFETY: the kernel touches the first `len` of both.
    unsafe { machine.launch(kernel, [blocks(len, THREADS as usize), 1, 1], THREADS, &args) }
}

/// Adds a bias to each of `rows` rows.
pub fn add_bias<M: Machine>(
    machine: &M,
    rows: usize,
    bias: Slice<'_, M, f32>,
    x: &mut Values<M, f32>,
) -> Result<(), CudaError> {
    let width = bias.len;
    assert!(x.len >= rows * width);
    if rows * width == 0 {
        return Ok(());
    }
    let args = [Arg::U32(number(rows)), Arg::U32(number(width)), bias.arg(), x.arg()];
    // SAFETY: the kernel touches rows · width of x and width of the bias.
    unsafe { machine.launch(Kernel::AddBias, [blocks(rows * width, THREADS as usize), 1, 1], THREADS, &args) }
}

/// As [`crate::outer::subtract_sparse`], on one tensor's weights, which lie at `place`; sets `not_finite` to 1 where a
/// result isn't finite. Panics on an index outside of them.
#[allow(clippy::too_many_arguments, reason = "the operands of a sparse step")]
pub fn subtract_sparse<M: Machine>(
    machine: &M,
    weights: &mut Values<M, f32>,
    place: Range<usize>,
    rate: f32,
    sparse: &Sparse<M>,
    not_finite: &mut Values<M, u32>,
) -> Result<(), CudaError> {
    let weights = weights.slice(place);
    assert!(sparse.end <= weights.len && not_finite.len >= 1, "an index outside the weights");
    let count = sparse.indices.len;
    if count == 0 {
        return Ok(());
    }
    let (count_arg, len) = (Arg::U32(number(count)), Arg::U32(number(weights.len)));
    let (levels, indices, codes) = (sparse.levels.arg(), sparse.indices.arg(), sparse.codes.arg());
    let args = [count_arg, len, Arg::F32(rate), levels, indices, codes, weights.arg(), not_finite.arg()];
    // SAFETY: the kernel reads `count` indices and codes, of which each has its level, and touches only weights below `len`.
    unsafe { machine.launch(Kernel::SubtractSparse, [blocks(count, THREADS as usize), 1, 1], THREADS, &args) }
}

/// As [`crate::outer::accumulate_sparse`]. Panics on an index outside the sums.
pub fn accumulate_sparse<M: Machine>(
    machine: &M,
    sums: &mut Values<M, f32>,
    counts: &mut Values<M, u32>,
    sparse: &Sparse<M>,
) -> Result<(), CudaError> {
    let len = sums.len.min(counts.len);
    assert!(sparse.end <= len, "an index outside the sums");
    let count = sparse.indices.len;
    if count == 0 {
        return Ok(());
    }
    let (levels, indices, codes) = (sparse.levels.arg(), sparse.indices.arg(), sparse.codes.arg());
    let args = [Arg::U32(number(count)), Arg::U32(number(len)), levels, indices, codes, sums.arg(), counts.arg()];
    // SAFETY: the kernel reads `count` indices and codes, of which each has its level, and touches only sums and counts below
    // `len`.
    unsafe { machine.launch(Kernel::AccumulateSparse, [blocks(count, THREADS as usize), 1, 1], THREADS, &args) }
}

/// As [`crate::outer::subtract_mean`], on the weights at `place`.
pub fn subtract_mean<M: Machine>(
    machine: &M,
    weights: &mut Values<M, f32>,
    place: Range<usize>,
    rate: f32,
    sums: &Values<M, f32>,
    counts: &Values<M, u32>,
) -> Result<(), CudaError> {
    let weights = weights.slice(place);
    let len = weights.len;
    assert!(sums.len >= len && counts.len >= len);
    if len == 0 {
        return Ok(());
    }
    let args = [Arg::U64(len as u64), Arg::F32(rate), sums.arg(), counts.arg(), weights.arg()];
    // SAFETY: the kernel touches `len` of each.
    unsafe { machine.launch(Kernel::SubtractMean, [blocks(len, THREADS as usize), 1, 1], THREADS, &args) }
}
