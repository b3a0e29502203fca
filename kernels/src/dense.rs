//! The dense update's values: tiles of them as 8-bit codes with one scale each, and numbers again.
//!
//! The definition, for any other implementation. All arithmetic is in f32, each operation rounded once to nearest, halves to
//! even. Of a tile whose largest magnitude is m (finite):
//! - the scale is m ÷ 127, rounded to the nearest bfloat16, halves to even, at most [`MAX_SCALE`]; 0 where that is subnormal;
//! - the code of v is 128 plus v ÷ scale, rounded to a whole number; 128 where the scale is 0.
//!
//! A scale is off by at most 2⁻⁸ of itself and 127 · 2⁻⁸ is below ½, so that m's code is 1 or 255 and no value's is beyond.
//! A code c stands for (c − 128) · scale: at most 15 significant bits, exact.

use crate::bfloat16::nearest;
use crate::fma::Fma;
use crate::isa::dispatch;
use crate::tile::Rectangle;

/// The largest bfloat16 of which 127 times is finite.
pub const MAX_SCALE: f32 = f32::from_bits(0x7c01_0000);

/// The code of 0.
const ZERO: i32 = 128;
/// 1.5 · 2²³: adding it rounds to a whole number, which then stands in the low bits.
const ROUNDER: f32 = 12_582_912.0;

/// The scale of a tile with this largest magnitude, which is finite.
pub fn scale_of(largest: f32) -> f32 {
    let rounded = f32::from_bits(nearest((largest / 127.0).to_bits()));
    if rounded < f32::MIN_POSITIVE { 0.0 } else { rounded.min(MAX_SCALE) }
}

#[inline(always)]
fn value_of(code: u8, scale: f32) -> f32 {
    (i32::from(code).wrapping_sub(ZERO)) as f32 * scale
}

#[inline(always)]
fn quantise_body<F: Fma>(scale: f32, values: &mut [f32], rectangle: Rectangle, codes: &mut [u8]) {
    // What is divided by it is 0 where the scale is: without this, 0 ÷ 0.
    let divisor = if scale > 0.0 { scale } else { f32::INFINITY };
    for row in 0..rectangle.rows {
        let start = rectangle.first + row * rectangle.stride;
        let (values, codes) = (&mut values[start..start + rectangle.cols], &mut codes[start..start + rectangle.cols]);
        for (value, code) in values.iter_mut().zip(codes) {
            let whole = (*value / divisor + ROUNDER).to_bits() as i32;
            *code = whole.wrapping_sub(ROUNDER.to_bits() as i32).wrapping_add(ZERO) as u8;
            *value -= value_of(*code, scale);
        }
    }
}

#[inline(always)]
fn expand_body<F: Fma>(scale: f32, factor: f32, codes: &[u8], rectangle: Rectangle, values: &mut [f32]) {
    for row in 0..rectangle.rows {
        let start = rectangle.first + row * rectangle.stride;
        let (values, codes) = (&mut values[start..start + rectangle.cols], &codes[start..start + rectangle.cols]);
        for (value, code) in values.iter_mut().zip(codes) {
            *value = value_of(*code, scale) * factor;
        }
    }
}

#[inline(always)]
fn subtract_body<F: Fma>(weights: &mut [f32], rate: f32, values: &[f32]) {
    assert_eq!(weights.len(), values.len());
    for (weight, value) in weights.iter_mut().zip(values) {
        *weight = F::fma(-rate, *value, *weight);
    }
}

dispatch! {
    /// Codes a tile's values, whose scale is this ([`scale_of`] of its largest magnitude), and takes what the codes stand for
    /// out of them. Panics on a rectangle that isn't inside both.
    quantise => quantise_body, (scale: f32, values: &mut [f32], rectangle: Rectangle, codes: &mut [u8])
}
dispatch! {
    /// `values = (code − 128) · scale · factor` for the rectangle: the first product is exact, the second rounded. Panics on
    /// a rectangle that isn't inside both.
    expand => expand_body, (scale: f32, factor: f32, codes: &[u8], rectangle: Rectangle, values: &mut [f32])
}
dispatch! {
    /// `weights[i] = fma(−rate, values[i], weights[i])`.
    subtract => subtract_body, (weights: &mut [f32], rate: f32, values: &[f32])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    const RECTANGLE: Rectangle = Rectangle { first: 45, rows: 9, cols: 33, stride: 40 };
    const LEN: usize = 10 * 40 + 8;

    fn inside(rectangle: Rectangle) -> impl Iterator<Item = usize> {
        (0..rectangle.rows)
            .flat_map(move |row| (0..rectangle.cols).map(move |col| rectangle.first + row * rectangle.stride + col))
    }

    /// Scale, codes and what is left of a tile, the same on every instruction set.
    fn quantised(values: &[f32]) -> (f32, Vec<u8>, Vec<f32>) {
        let largest = inside(RECTANGLE).fold(0.0, |largest: f32, at| largest.max(values[at].abs()));
        let scale = scale_of(largest);
        let on = |isa| {
            let (mut codes, mut left) = (vec![7; LEN], values.to_vec());
            quantise(isa, scale, &mut left, RECTANGLE, &mut codes);
            (codes, left)
        };
        let (codes, left) = on(Isa::PORTABLE);
        for isa in Isa::available() {
            let (other_codes, other_left) = on(isa);
            assert_eq!(other_codes, codes, "{isa}");
            assert!(other_left.iter().zip(&left).all(|(a, b)| a.to_bits() == b.to_bits()), "{isa}");
        }
        (scale, codes, left)
    }

    #[test]
    fn a_tile_keeps_its_largest_value_and_loses_at_most_half_a_step_of_any() {
        let mut rng = crate::tests::Rng(5);
        let powers = [-126, -120, -60, -10, 0, 30, 127];
        for power in powers.into_iter().cycle().take(200) {
            let unit = 2f64.powi(power);
            let values: Vec<f32> = (0..LEN).map(|_| (rng.next() as i64 as f64 / 2f64.powi(63) * unit) as f32).collect();
            let (scale, codes, left) = quantised(&values);
            let mut codes_inside = inside(RECTANGLE).map(|at| codes[at]);
            assert_eq!(codes_inside.any(|code| code == 1 || code == 255), scale > 0.0, "2^{power}");
            assert!(inside(RECTANGLE).all(|at| codes[at] > 0));
            for at in inside(RECTANGLE) {
                let sent = (f64::from(codes[at]) - 128.0) * f64::from(scale);
                assert_eq!(
                    f64::from(left[at]).to_bits(),
                    (f64::from(values[at]) - sent).to_bits(),
                    "{}: nothing is lost twice",
                    values[at]
                );
                let step = if scale > 0.0 { f64::from(scale) } else { 256.0 * 2f64.powi(-126) };
                assert!(f64::from(left[at]).abs() <= 0.5001 * step, "{} of step {step}", left[at]);
            }
            let outside = (0..LEN).filter(|at| inside(RECTANGLE).all(|other| other != *at));
            for at in outside {
                assert_eq!((codes[at], left[at].to_bits()), (7, values[at].to_bits()), "{at}");
            }
        }
    }

    #[test]
    fn scales_are_bfloat16_from_the_smallest_normal_one_to_the_largest_that_is_safe() {
        for (largest, scale) in [
            (0.0, 0.0),
            (f32::from_bits(1), 0.0),
            (126.0 * f32::MIN_POSITIVE, 0.0),
            (127.0 * f32::MIN_POSITIVE, f32::MIN_POSITIVE),
            (127.0, 1.0),
            (f32::MAX, MAX_SCALE),
        ] {
            assert_eq!(scale_of(largest).to_bits(), f32::to_bits(scale), "{largest:e}");
        }
        assert!((127.0 * MAX_SCALE).is_finite() && (127.0 * f32::from_bits(0x7c02_0000)).is_infinite());
        let mut huge = vec![f32::MAX; LEN];
        huge[46] = -f32::MAX;
        let (_, codes, left) = quantised(&huge);
        assert_eq!((codes[45], codes[46]), (255, 1));
        assert!(left.iter().all(|value| value.is_finite()));
    }

    #[test]
    fn codes_become_numbers_and_steps_alike_on_every_instruction_set() {
        let mut rng = crate::tests::Rng(7);
        let codes: Vec<u8> = (0..LEN).map(|_| (rng.next() % 255) as u8 + 1).collect();
        let weights: Vec<f32> = (0..LEN).map(|_| (rng.next() as i32) as f32 * 1e-9).collect();
        for scale in [0.0, f32::MIN_POSITIVE, 3e-5, MAX_SCALE] {
            for factor in [0.0, 0.3, 1.0] {
                let mut expected = vec![0.5; LEN];
                for at in inside(RECTANGLE) {
                    expected[at] = (f32::from(codes[at]) - 128.0) * scale * factor;
                }
                let step = |(weight, value): (&f32, &f32)| crate::fma::Portable::fma(-0.7, *value, *weight).to_bits();
                let stepped: Vec<u32> = weights.iter().zip(&expected).map(step).collect();
                for isa in Isa::available() {
                    let (mut found, mut own) = (vec![0.5; LEN], weights.clone());
                    expand(isa, scale, factor, &codes, RECTANGLE, &mut found);
                    assert!(found.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()), "{isa}");
                    subtract(isa, &mut own, 0.7, &found);
                    assert_eq!(own.iter().map(|weight| weight.to_bits()).collect::<Vec<_>>(), stepped, "{isa}");
                }
            }
        }
    }
}
