//! What every machine must compute: hashes of each kernel's results on fixed inputs, special values included.
//!
//! Inputs come from an integer generator, so that nothing but the arithmetic under test decides an answer. Results that
//! aren't numbers count as one value, because which NaN it is isn't defined.

use crate::attention::{AttentionScratch, AttentionShape, causal_attention};
use crate::gemm::{GemmScratch, Matrix, MatrixMut, gemm};
use crate::rope::{RopeScaling, RopeTable};
use crate::tile::Rectangle;
use crate::{Isa, dense, fp_env, outer, rows, sum_of_squares};

/// A kernel's name and the hash of its results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What was computed.
    pub name: &'static str,
    /// FNV-1a, 64 bits, over the results' bits.
    pub hash: u64,
}

/// The answers, whatever the machine.
pub const EXPECTED: [Answer; 12] = [
    Answer { name: "matrix products", hash: 0x6384_9efa_e00e_14d4 },
    Answer { name: "rows", hash: 0xc8e7_f824_8de1_f350 },
    Answer { name: "cross-entropy", hash: 0xa4ce_ddd2_b90f_18e1 },
    Answer { name: "attention", hash: 0xc5b3_ea8b_d0ec_4b62 },
    Answer { name: "rope table", hash: 0x9afd_06cb_3c61_ba07 },
    Answer { name: "attention with a window", hash: 0x1eac_5d5d_89b0_1905 },
    Answer { name: "scaled rope tables", hash: 0x0b69_e3d3_c543_2d29 },
    Answer { name: "updates", hash: 0x8344_46af_ca9c_09a6 },
    Answer { name: "dense updates", hash: 0x3b67_73cb_8104_2a49 },
    Answer { name: "model", hash: 0x8f6d_b1df_90ca_00ac },
    Answer { name: "model with subnormal weights", hash: 0x481a_07fe_657e_c12e },
    Answer { name: "models without a loss", hash: 0x3da6_0631_fddb_5caf },
];

/// This machine's answers on `isa`, on this thread, in the order of [`EXPECTED`].
pub fn answers(isa: Isa) -> Vec<Answer> {
    let compute: [fn(Isa) -> Hash; EXPECTED.len()] = [
        matrix_products,
        all_rows,
        cross_entropies,
        |isa| attention(isa, &[None]),
        |_| rope_tables(&[RopeScaling::None]),
        |isa| attention(isa, &[Some(1), Some(30), Some(129)]),
        |_| rope_tables(&SCALINGS),
        updates,
        dense_updates,
        |isa| model(isa, 0.25, None),
        |isa| model(isa, f32::MIN_POSITIVE / 16.0, None),
        models_without_a_loss,
    ];
    fp_env::pinned(|| {
        let answer = |(expected, compute): (&Answer, fn(Isa) -> Hash)| Answer { hash: compute(isa).0, ..*expected };
        EXPECTED.iter().zip(compute).map(answer).collect()
    })
}

/// One hash of many answers, for people to compare.
pub fn digest(answers: &[Answer]) -> u64 {
    let mut hash = Hash::default();
    answers.iter().for_each(|answer| hash.bytes(&answer.hash.to_le_bytes()));
    hash.0
}

/// FNV-1a.
struct Hash(u64);

impl Default for Hash {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hash {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    }

    fn values(&mut self, values: &[f32]) {
        for value in values {
            let bits = if value.is_nan() { 0x7fc0_0000 } else { value.to_bits() };
            self.bytes(&bits.to_le_bytes());
        }
    }

    fn loss(&mut self, loss: Option<i64>) {
        self.bytes(&loss.unwrap_or(-1).to_le_bytes());
    }
}

/// SplitMix64: deterministic, integer only.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Roughly normal, standard deviation 1.15.
    pub(crate) fn bell(&mut self) -> f32 {
        let mut uniform = || ((self.next() >> 40) as i32 - (1 << 23)) as f32 / 8_388_608.0;
        (uniform() + uniform()) + (uniform() + uniform())
    }

    pub(crate) fn many(&mut self, count: usize, scale: f32) -> Vec<f32> {
        (0..count).map(|_| self.bell() * scale).collect()
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// Values at the edges of the arithmetic.
pub const SPECIAL: [u32; 12] = [
    0x7f80_0000, // ∞
    0xff80_0000, // −∞
    0x7fc0_01ff, // NaN
    0x7fa0_0155, // signalling NaN
    0x0000_0001, // the smallest subnormal
    0x8040_0000, // −subnormal
    0x007f_ffff, // the largest subnormal
    0x8000_0000, // −0
    0x7f7f_ffff, // the largest
    0xc2ae_0001, // just below −87
    0x42b0_0001, // just above 88
    0x4b40_0000, // 1.5 · 2²³
];

/// Rows of many lengths: plain ones, wide ones, tiny ones, and ones with every special value.
pub(crate) fn sample_rows() -> Vec<Vec<f32>> {
    let mut rng = Rng(11);
    let mut rows = Vec::new();
    for len in [1, 2, 7, 31, 32, 33, 63, 64, 65, 100, 257, 1003] {
        for scale in [1.0, 30.0, 1e-30, 1e-40, 1e20] {
            rows.push(rng.many(len, scale));
        }
        for bits in SPECIAL {
            let mut row = rng.many(len, 1.0);
            row[rng.below(len)] = f32::from_bits(bits);
            rows.push(row);
        }
    }
    rows
}

/// A row to go with another one, of the same length.
pub(crate) fn companion(row: &[f32]) -> Vec<f32> {
    Rng(row.len() as u64).many(row.len(), 1.0)
}

fn matrix_products(isa: Isa) -> Hash {
    let mut hash = Hash::default();
    let mut rng = Rng(3);
    let mut scratch = GemmScratch::default();
    for (m, n, k) in [(1, 1, 1), (5, 7, 3), (13, 33, 70), (25, 65, 130), (9, 20, 600), (3, 40, 0)] {
        // Products near 1, near the subnormals, near the largest, of small integers (where sums lie halfway), and with
        // special values.
        for (kind, scale) in [1.0, 1e-19, 1e19, 1.0, 1.0].into_iter().enumerate() {
            let (mut a, mut b) = (rng.many(m * k, scale), rng.many(k * n, scale));
            if kind == 3 {
                a.iter_mut().chain(&mut b).for_each(|x| *x = (*x * 4096.0) as i32 as f32);
            }
            if kind == 4 && k > 0 {
                for bits in SPECIAL {
                    let (i, j) = (rng.below(a.len()), rng.below(b.len()));
                    a[i] = f32::from_bits(bits);
                    b[j] = f32::from_bits(bits);
                }
            }
            for b in [Matrix::rows(&b, k, n, n), Matrix::transposed(&b, k, n, k)] {
                let mut c = vec![0.0; m * n];
                gemm(isa, &mut scratch, Matrix::rows(&a, m, k, k), b, &mut MatrixMut::rows(&mut c, m, n, n));
                hash.values(&c);
            }
        }
    }
    hash
}

fn all_rows(isa: Isa) -> Hash {
    let mut hash = Hash::default();
    for row in sample_rows() {
        let other = companion(&row);
        let mut out = row.clone();
        rows::softmax(isa, &mut out, 0.125);
        hash.values(&out);
        rows::rms_norm(isa, &row, &other, 1e-5, &mut out);
        hash.values(&out);
        out.copy_from_slice(&row);
        rows::swiglu(isa, &mut out, &other);
        hash.values(&out);
        out.copy_from_slice(&row);
        rows::add(isa, &mut out, &other);
        hash.values(&out);
        out.copy_from_slice(&row);
        let half = row.len() / 2;
        rows::rope(isa, &mut out[..2 * half], &other[..half], &other[half..2 * half]);
        hash.values(&out);
        hash.values(&[sum_of_squares(isa, &row)]);
    }
    hash
}

fn cross_entropies(isa: Isa) -> Hash {
    let mut hash = Hash::default();
    for row in sample_rows() {
        for target in [0, row.len() / 2, row.len()] {
            hash.loss(rows::cross_entropy(isa, &row, target));
        }
    }
    hash
}

fn attention(isa: Isa, windows: &[Option<usize>]) -> Hash {
    let mut hash = Hash::default();
    let (mut gemm, mut scratch) = (GemmScratch::default(), AttentionScratch::default());
    for window in windows {
        let mut rng = Rng(9);
        for (tokens, heads, key_value_heads, head_dim) in [(1, 1, 1, 2), (37, 4, 2, 8), (130, 3, 1, 6), (257, 2, 2, 16)]
        {
            let shape = AttentionShape { tokens, heads, key_value_heads, head_dim, window: *window };
            let width = tokens * key_value_heads * head_dim;
            let (q, k, mut v) = (rng.many(tokens * heads * head_dim, 1.0), rng.many(width, 1.0), rng.many(width, 1.0));
            for bits in [0, 0x7f80_0000, 0x0000_0001] {
                v[width / 2] = f32::from_bits(bits);
                let mut out = vec![0.0; q.len()];
                causal_attention(isa, &mut gemm, &mut scratch, shape, &q, &k, &v, &mut out);
                hash.values(&out);
            }
        }
    }
    hash
}

const SCALINGS: [RopeScaling; 2] = [
    RopeScaling::Linear { factor: 3.0 },
    RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_positions: 64 },
];

fn rope_tables(scalings: &[RopeScaling]) -> Hash {
    let mut hash = Hash::default();
    for scaling in scalings {
        for (head_dim, base) in [(64, 10_000.0), (14, 500_000.0)] {
            let table = RopeTable::new(300, head_dim, base, *scaling);
            for position in 0..300 {
                let (cos, sin) = table.at(position);
                hash.values(cos);
                hash.values(sin);
            }
        }
    }
    hash
}

fn updates(isa: Isa) -> Hash {
    let mut hash = Hash::default();
    let mut rng = Rng(5);
    for (scale, levels) in [
        (1.0, [-0.7, -0.1, 0.2, f32::MAX]),
        (1e-38, [-1e-38, 1e-45, -1e-45, 3e-39]),
        (1e38, [1e38, -1e38, 2e38, -3e38]),
    ] {
        let start = rng.many(500, scale);
        let indices: Vec<u32> = (0..500).filter(|i| i % 3 == 0).collect();
        let codes: Vec<u8> = indices.iter().map(|_| (rng.next() % 4) as u8).collect();
        let mut weights = start.clone();
        outer::subtract_sparse(isa, &mut weights, 0.7, &levels, &indices, &codes);
        hash.values(&weights);
        let (mut sums, mut counts) = (vec![0.0; 500], vec![0; 500]);
        outer::accumulate_sparse(&mut sums, &mut counts, &levels, &indices, &codes);
        outer::accumulate_sparse(&mut sums, &mut counts, &levels, &indices[..90], &codes[..90]);
        let mut weights = start;
        outer::subtract_mean(isa, &mut weights, 0.7, &sums, &counts);
        hash.values(&weights);
    }
    hash
}

fn dense_updates(isa: Isa) -> Hash {
    let mut hash = Hash::default();
    let mut rng = Rng(23);
    let rectangle = Rectangle { first: 3, rows: 11, cols: 37, stride: 45 };
    for scale in [1.0, 1e-30, 1e-36, 1e-40, 1e37] {
        let (mut values, start) = (rng.many(500, scale), rng.many(500, scale));
        let largest = values.iter().fold(0.0, |largest: f32, value| largest.max(value.abs()));
        let step = dense::scale_of(largest);
        let mut codes = vec![0; 500];
        dense::quantise(isa, step, &mut values, rectangle, &mut codes);
        hash.bytes(&codes);
        hash.values(&values);
        for factor in [1.0, 0.3, 1e-8, 0.0] {
            let mut weights = start.clone();
            dense::expand(isa, step, factor, &codes, rectangle, &mut values);
            dense::subtract(isa, &mut weights, 0.7, &values);
            hash.values(&values);
            hash.values(&weights);
        }
    }
    hash
}

const HIDDEN: usize = 40;
const VOCABULARY: usize = 50;

/// A Llama of one block: every kernel, one after the other. `spoilt` replaces one of its head's weights.
fn model(isa: Isa, scale: f32, spoilt: Option<f32>) -> Hash {
    const TOKENS: usize = 140;
    const INNER: usize = 72;
    let shape = AttentionShape { tokens: TOKENS, heads: 4, key_value_heads: 2, head_dim: 10, window: None };
    let mut hash = Hash::default();
    let mut rng = Rng(17);
    let mut scratch = GemmScratch::default();
    let mut linear = |input: &[f32], weights: &[f32], width: usize| -> Vec<f32> {
        let (rows, out) = (input.len() / width, weights.len() / width);
        let mut output = vec![0.0; rows * out];
        let (input, weights) =
            (Matrix::rows(input, rows, width, width), Matrix::transposed(weights, width, out, width));
        gemm(isa, &mut scratch, input, weights, &mut MatrixMut::rows(&mut output, rows, out, out));
        output
    };
    let norm = |x: &[f32], gain: &[f32]| -> Vec<f32> {
        let mut y = vec![0.0; x.len()];
        for (x, y) in x.chunks_exact(HIDDEN).zip(y.chunks_exact_mut(HIDDEN)) {
            rows::rms_norm(isa, x, gain, 1e-5, y);
        }
        y
    };
    let gain = rng.many(HIDDEN, 1.0);
    let mut x = rng.many(TOKENS * HIDDEN, 1.0);
    let y = norm(&x, &gain);
    let mut q = linear(&y, &rng.many(40 * HIDDEN, scale), HIDDEN);
    let mut k = linear(&y, &rng.many(20 * HIDDEN, scale), HIDDEN);
    let v = linear(&y, &rng.many(20 * HIDDEN, scale), HIDDEN);
    let table = RopeTable::new(TOKENS, shape.head_dim, 10_000.0, RopeScaling::None);
    for (states, width) in [(&mut q, 40), (&mut k, 20)] {
        for (position, row) in states.chunks_exact_mut(width).enumerate() {
            let (cos, sin) = table.at(position);
            row.chunks_exact_mut(shape.head_dim).for_each(|head| rows::rope(isa, head, cos, sin));
        }
    }
    let mut mixed = vec![0.0; q.len()];
    let (mut gemm_scratch, mut attention) = (GemmScratch::default(), AttentionScratch::default());
    causal_attention(isa, &mut gemm_scratch, &mut attention, shape, &q, &k, &v, &mut mixed);
    rows::add(isa, &mut x, &linear(&mixed, &rng.many(HIDDEN * 40, scale), 40));
    let y = norm(&x, &gain);
    let mut gate = linear(&y, &rng.many(INNER * HIDDEN, scale), HIDDEN);
    let up = linear(&y, &rng.many(INNER * HIDDEN, scale), HIDDEN);
    rows::swiglu(isa, &mut gate, &up);
    rows::add(isa, &mut x, &linear(&gate, &rng.many(HIDDEN * INNER, scale), INNER));
    hash.values(&x);
    let mut head = rng.many(VOCABULARY * HIDDEN, scale);
    if let Some(value) = spoilt {
        head[VOCABULARY / 2 * HIDDEN] = value;
    }
    let logits = linear(&norm(&x, &gain), &head, HIDDEN);
    for (place, row) in logits.chunks_exact(VOCABULARY).enumerate() {
        hash.loss(rows::cross_entropy(isa, row, place % VOCABULARY));
    }
    hash
}

/// NaN, infinite and huge weights: most tokens have no loss, and which ones is the same everywhere.
fn models_without_a_loss(isa: Isa) -> Hash {
    let mut hash = Hash::default();
    for (scale, spoilt) in [(0.25, f32::NAN), (0.25, f32::INFINITY), (0.25, f32::MAX), (1e20, 0.0), (f32::MAX, 0.0)] {
        hash.bytes(&model(isa, scale, Some(spoilt)).0.to_le_bytes());
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_gives_the_known_answers() {
        for isa in Isa::available() {
            assert_eq!(answers(isa), EXPECTED, "{isa}");
        }
    }
}
