//! Weights and sparse updates: adding one contribution, and the mean of several.

use crate::fma::Fma;
use crate::isa::dispatch;

#[inline(always)]
fn subtract_sparse_body<F: Fma>(weights: &mut [f32], rate: f32, levels: &[f32], indices: &[u32], codes: &[u8]) {
    assert_eq!(indices.len(), codes.len());
    for (index, code) in indices.iter().zip(codes) {
        let weight = &mut weights[*index as usize];
        *weight = F::fma(-rate, levels[usize::from(*code)], *weight);
    }
}

#[inline(always)]
fn subtract_mean_body<F: Fma>(weights: &mut [f32], rate: f32, sums: &[f32], counts: &[u32]) {
    assert!(sums.len() == weights.len() && counts.len() == weights.len());
    for ((weight, sum), count) in weights.iter_mut().zip(sums).zip(counts) {
        let stepped = F::fma(-rate, *sum / *count as f32, *weight);
        // 0 / 0 is NaN, so an index that nobody sent stays as it is by the same rule as one that would overflow.
        *weight = if stepped.is_finite() { stepped } else { *weight };
    }
}

dispatch! {
    /// `weights[i] = fma(−rate, levels[code], weights[i])` for each index and its code, one after the other.
    /// Panics on an index outside the weights or a code without a level: a decoded update has none.
    subtract_sparse => subtract_sparse_body,
    (weights: &mut [f32], rate: f32, levels: &[f32], indices: &[u32], codes: &[u8])
}
dispatch! {
    /// `weights[i] = fma(−rate, sums[i] / counts[i], weights[i])` where that is finite; the others stay.
    subtract_mean => subtract_mean_body, (weights: &mut [f32], rate: f32, sums: &[f32], counts: &[u32])
}

/// `sums[i] += levels[code]`, `counts[i] += 1` for each index and its code. A separate +, the same on every path.
/// Panics on an index outside the sums or a code without a level: a decoded update has none.
pub fn accumulate_sparse(sums: &mut [f32], counts: &mut [u32], levels: &[f32], indices: &[u32], codes: &[u8]) {
    assert_eq!(indices.len(), codes.len());
    for (index, code) in indices.iter().zip(codes) {
        sums[*index as usize] += levels[usize::from(*code)];
        counts[*index as usize] += 1;
    }
}
