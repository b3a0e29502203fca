//! Kernels on one row, and elementwise kernels.
//!
//! Lengths that must agree are checked by assertion: they come from a model's layout, never from the network.

use crate::fma::Fma;
use crate::isa::dispatch;
use crate::reduce::{max, squares, sum_of};
use crate::scalar::{exp, ln64, silu};

#[inline(always)]
fn rms_norm_body<F: Fma>(x: &[f32], gain: &[f32], epsilon: f32, y: &mut [f32]) {
    assert!(gain.len() == x.len() && y.len() == x.len());
    let mean_square = squares::<F>(x) / x.len() as f32;
    let scale = 1.0 / (mean_square + epsilon).sqrt();
    for ((y, x), gain) in y.iter_mut().zip(x).zip(gain) {
        *y = (*x * scale) * *gain;
    }
}

#[inline(always)]
fn rope_body<F: Fma>(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, second) = head.split_at_mut(head.len() / 2);
    assert!(cos.len() == first.len() && sin.len() == first.len() && second.len() == first.len());
    for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        let (x, y) = (*a, *b);
        *a = F::fma(x, *cos, -(y * *sin));
        *b = F::fma(x, *sin, y * *cos);
    }
}

#[inline(always)]
fn softmax_body<F: Fma>(row: &mut [f32], scale: f32) {
    for x in row.iter_mut() {
        *x *= scale;
    }
    let largest = max(row);
    for x in row.iter_mut() {
        *x = exp::<F>(*x - largest);
    }
    let share = 1.0 / sum_of(row, |x| x);
    for x in row.iter_mut() {
        *x *= share;
    }
}

#[inline(always)]
fn swiglu_body<F: Fma>(gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len());
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = silu::<F>(*gate) * *up;
    }
}

#[inline(always)]
fn add_body<F: Fma>(x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len());
    for (x, y) in x.iter_mut().zip(y) {
        *x += *y;
    }
}

#[inline(always)]
fn max_and_sum_body<F: Fma>(row: &[f32]) -> (f32, f32) {
    let largest = max(row);
    (largest, sum_of(row, |x| exp::<F>(x - largest)))
}

dispatch! {
    /// y = (x · 1/√(mean(x²) + ε)) · gain.
    rms_norm => rms_norm_body, (x: &[f32], gain: &[f32], epsilon: f32, y: &mut [f32])
}
dispatch! {
    /// Turns one head by its position's angles (rotate-half): pairs are (i, i + half); cos and sin have half the length.
    rope => rope_body, (head: &mut [f32], cos: &[f32], sin: &[f32])
}
dispatch! {
    /// softmax(scale · row), in place.
    softmax => softmax_body, (row: &mut [f32], scale: f32)
}
dispatch! {
    /// gate = SiLU(gate) · up.
    swiglu => swiglu_body, (gate: &mut [f32], up: &[f32])
}
dispatch! {
    /// x = x + y.
    add => add_body, (x: &mut [f32], y: &[f32])
}
dispatch! {
    /// (max, Σ e^(x − max)).
    max_and_sum => max_and_sum_body, (row: &[f32]) -> (f32, f32)
}

/// Most nats that one token's loss may be: past this a verdict is "not finite".
const MAX_TOKEN_NATS: f64 = 1e6;
const Q32: f64 = 4_294_967_296.0;
/// Added to a value between 0 and 2⁵² it rounds that to a whole number, ties to even. (`round_ties_even` is a call into the
/// C library where the processor has no instruction for it. 10⁶ nats are less than 2⁵² units.)
const ROUNDER: f64 = 4_503_599_627_370_496.0;

/// The cross-entropy of one row of logits in 2⁻³² nats, rounded to nearest even, between 0 and 10⁶ nats. `None` where the
/// maximum, the sum, the target's logit or the loss isn't finite, and for a target outside the row.
pub fn cross_entropy(isa: crate::Isa, logits: &[f32], target: usize) -> Option<i64> {
    let logit = *logits.get(target)?;
    let (largest, sum) = max_and_sum(isa, logits);
    if !(largest.is_finite() && sum.is_finite() && logit.is_finite()) {
        return None;
    }
    let nats = (f64::from(largest) - f64::from(logit)) + ln64(f64::from(sum));
    // Never below 0: the largest logit is one of the row's, and its own term makes the sum at least 1.
    (0.0..=MAX_TOKEN_NATS).contains(&nats).then_some(((nats * Q32 + ROUNDER) - ROUNDER) as i64)
}
