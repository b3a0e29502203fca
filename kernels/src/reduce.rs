//! Row reductions over 32 strided lanes: lane l takes elements l, l + 32, …; then the lanes are folded in halves.

use crate::fma::Fma;
use crate::isa::dispatch;

const LANES: usize = 32;

#[inline(always)]
fn fold(row: &[f32], start: f32, step: impl Fn(f32, f32) -> f32, join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; LANES];
    let mut blocks = row.chunks_exact(LANES);
    for block in &mut blocks {
        for (lane, x) in lanes.iter_mut().zip(block) {
            *lane = step(*lane, *x);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(blocks.remainder()) {
        *lane = step(*lane, *x);
    }
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] = join(lanes[lane], lanes[lane + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// Σ f(x).
#[inline(always)]
pub(crate) fn sum_of(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    fold(row, 0.0, |sum, x| sum + f(x), |a, b| a + b)
}

/// Σ x², each square fused into its lane's sum.
#[inline(always)]
pub(crate) fn squares<F: Fma>(row: &[f32]) -> f32 {
    fold(row, 0.0, |sum, x| F::fma(x, x, sum), |a, b| a + b)
}

/// The largest element; NaN is passed over, −∞ for none.
#[inline(always)]
pub(crate) fn max(row: &[f32]) -> f32 {
    let larger = |max: f32, x: f32| if x > max { x } else { max };
    fold(row, f32::NEG_INFINITY, larger, larger)
}

dispatch! {
    /// Σ x². Infinite where it overflows.
    sum_of_squares => squares, (row: &[f32]) -> f32
}
