//! One suite over every path: the same bits as the portable definition.

use crate::attention::{AttentionScratch, AttentionShape, causal_attention};
use crate::gemm::GemmScratch;
pub(crate) use crate::known_answers::Rng;
use crate::known_answers::{companion, sample_rows};
use crate::{Isa, outer, rows, sum_of_squares};

/// FNV-1a over the bits.
pub(crate) fn hash(values: &[f32]) -> u64 {
    values
        .iter()
        .flat_map(|v| v.to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

/// Equal bits; any NaN equals any NaN.
pub(crate) fn same_bits(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (place, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!(f.to_bits() == e.to_bits() || f.is_nan() && e.is_nan(), "{what} at {place}: {f:e}, expected {e:e}");
    }
}

fn on_every_path(what: &str, kernel: impl Fn(Isa, &[f32]) -> Vec<f32>) {
    for row in sample_rows() {
        let expected = kernel(Isa::PORTABLE, &row);
        for isa in Isa::available() {
            same_bits(&kernel(isa, &row), &expected, &format!("{what} on {isa}, length {}", row.len()));
        }
    }
}

#[test]
fn row_kernels_give_the_same_bits_on_every_path() {
    on_every_path("sum of squares", |isa, row| vec![sum_of_squares(isa, row)]);
    on_every_path("softmax", |isa, row| {
        let mut row = row.to_vec();
        rows::softmax(isa, &mut row, 0.125);
        row
    });
    on_every_path("RMSNorm", |isa, row| {
        let mut y = vec![0.0; row.len()];
        rows::rms_norm(isa, row, &companion(row), 1e-5, &mut y);
        y
    });
    on_every_path("SwiGLU", |isa, row| {
        let mut gate = row.to_vec();
        rows::swiglu(isa, &mut gate, &companion(row));
        gate
    });
    on_every_path("add", |isa, row| {
        let mut x = row.to_vec();
        rows::add(isa, &mut x, &companion(row));
        x
    });
    on_every_path("RoPE", |isa, row| {
        let mut head = row[..row.len() / 2 * 2].to_vec();
        let angles = companion(row);
        let half = head.len() / 2;
        rows::rope(isa, &mut head, &angles[..half], &angles[half..2 * half]);
        head
    });
    on_every_path("max and sum", |isa, row| {
        let (max, sum) = rows::max_and_sum(isa, row);
        vec![max, sum]
    });
}

#[test]
fn a_token_loss_is_the_same_integer_on_every_path_or_none() {
    let mut finite = 0;
    for row in sample_rows() {
        let expected = rows::cross_entropy(Isa::PORTABLE, &row, row.len() / 2);
        finite += usize::from(expected.is_some());
        for isa in Isa::available() {
            assert_eq!(rows::cross_entropy(isa, &row, row.len() / 2), expected);
        }
        assert!(expected.is_none_or(|loss| loss >= 0));
    }
    assert!(finite > 50);
    // ln 4 in 2⁻³² nats.
    assert_eq!(rows::cross_entropy(Isa::PORTABLE, &[0.5; 4], 1), Some(5_954_088_944));
    assert_eq!(rows::cross_entropy(Isa::PORTABLE, &[0.5; 4], 4), None);
    assert_eq!(rows::cross_entropy(Isa::PORTABLE, &[f32::INFINITY, 0.0], 1), None);
    assert_eq!(rows::cross_entropy(Isa::PORTABLE, &[f32::NAN, 0.0], 1), None);
    assert_eq!(rows::cross_entropy(Isa::PORTABLE, &[1e30, 0.0], 1), None);
}

#[test]
fn updates_give_the_same_bits_on_every_path_and_leave_the_rest_alone() {
    let mut rng = Rng(5);
    let start: Vec<f32> = (0..500).map(|_| rng.bell()).collect();
    let indices: Vec<u32> = (0..500).filter(|i| i % 3 == 0).collect();
    let codes: Vec<u8> = indices.iter().map(|_| (rng.next() % 4) as u8).collect();
    let levels = [-0.7, -0.1, 0.2, f32::MAX];
    let run = |isa| {
        let mut one = start.clone();
        outer::subtract_sparse(isa, &mut one, 0.7, &levels, &indices, &codes);
        let (mut sums, mut counts) = (vec![0.0; 500], vec![0; 500]);
        outer::accumulate_sparse(&mut sums, &mut counts, &levels, &indices, &codes);
        outer::accumulate_sparse(&mut sums, &mut counts, &levels, &indices[..90], &codes[..90]);
        let mut mean = start.clone();
        outer::subtract_mean(isa, &mut mean, 0.7, &sums, &counts);
        (one, mean)
    };
    let (one, mean) = run(Isa::PORTABLE);
    for isa in Isa::available() {
        let found = run(isa);
        same_bits(&found.0, &one, "sparse step");
        same_bits(&found.1, &mean, "mean step");
    }
    assert!(mean.iter().all(|w| w.is_finite()), "an overflowing step is not taken");
    for i in 0..500 {
        assert_eq!(one[i].to_bits() == start[i].to_bits(), i % 3 != 0);
    }
    assert_eq!(mean[1].to_bits(), start[1].to_bits());
}

/// Straight from the definition: one query at a time.
fn attention_by_definition(shape: AttentionShape, q: &[f32], k: &[f32], v: &[f32]) -> Vec<f32> {
    use crate::fma::{Fma, Software};
    let AttentionShape { tokens, heads, key_value_heads, head_dim, window } = shape;
    let (qs, ks) = (heads * head_dim, key_value_heads * head_dim);
    let mut out = vec![0.0; tokens * qs];
    for t in 0..tokens {
        for h in 0..heads {
            let kv = h / (heads / key_value_heads) * head_dim;
            let dot = |key: usize| {
                (0..head_dim).fold(0.0, |sum, d| Software::fma(q[t * qs + h * head_dim + d], k[key * ks + kv + d], sum))
            };
            let first_seen = |query: usize| window.map_or(0, |window| (query + 1).saturating_sub(window));
            let mut seen: Vec<f32> = (first_seen(t)..=t).map(dot).collect();
            rows::softmax(Isa::PORTABLE, &mut seen, 1.0 / (head_dim as f32).sqrt());
            let first_key = first_seen(t / 128 * 128) / 128 * 128;
            let mut weights = vec![0.0; first_seen(t) - first_key];
            weights.append(&mut seen);
            weights.resize(tokens.min((t / 128 + 1) * 128) - first_key, 0.0);
            for d in 0..head_dim {
                let weights = weights.iter().enumerate();
                let mix = weights.fold(0.0, |sum, (key, w)| Software::fma(*w, v[(first_key + key) * ks + kv + d], sum));
                out[t * qs + h * head_dim + d] = mix;
            }
        }
    }
    out
}

#[test]
fn attention_gives_the_bits_of_its_definition_on_every_path() {
    let shapes = [
        (1, 1, 1, 2, None),
        (37, 4, 2, 8, None),
        (130, 3, 1, 6, None),
        (257, 2, 2, 16, None),
        (37, 2, 1, 8, Some(1)),
        (37, 2, 1, 8, Some(37)),
        (300, 2, 1, 6, Some(40)),
        (300, 2, 1, 6, Some(128)),
        (300, 2, 1, 6, Some(129)),
        (300, 2, 1, 6, Some(usize::MAX)),
    ];
    for (tokens, heads, key_value_heads, head_dim, window) in shapes {
        let shape = AttentionShape { tokens, heads, key_value_heads, head_dim, window };
        let mut rng = Rng(9);
        let mut random = |n: usize| -> Vec<f32> { (0..n).map(|_| rng.bell()).collect() };
        let q = random(tokens * heads * head_dim);
        let k = random(tokens * key_value_heads * head_dim);
        let mut v = random(tokens * key_value_heads * head_dim);
        for special in [false, true] {
            if special {
                let place = v.len() / 2;
                v[place] = f32::INFINITY;
            }
            let expected = attention_by_definition(shape, &q, &k, &v);
            for isa in Isa::available() {
                let mut out = vec![0.0; expected.len()];
                let (mut gemm, mut scratch) = (GemmScratch::default(), AttentionScratch::default());
                causal_attention(isa, &mut gemm, &mut scratch, shape, &q, &k, &v, &mut out);
                same_bits(&out, &expected, &format!("attention on {isa}, {tokens} tokens, window {window:?}"));
            }
        }
    }
}
