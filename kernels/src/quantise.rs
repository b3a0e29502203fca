//! The quantiser over the values that are kept of a tensor: codes of a few bits, and the bfloat16 level that each stands for.
//!
//! The definition, for any other implementation. All arithmetic is in f64, each operation rounded once. A sum over values is
//! 64 sums, that of lane i over the values at i, i + 64, i + 128 … in this order, added up from lane 0 on.
//! - shift = Σ v ÷ n, σ = √(Σ (v − shift)² ÷ max(n − 1, 1)), step = 6σ ÷ 2ᵇ for codes of b bits;
//! - the code of v is ⌊(v − shift) ÷ step + (2ᵇ⁻¹ + ½)⌋ within 0 ..= 2ᵇ − 1; for b = 1 it is 1 from shift on and 0 below;
//!   where step is 0, every code is 2ᵇ⁻¹;
//! - a code's level is the mean of its values (summed in order, then divided), rounded to f32, then to the nearest finite
//!   bfloat16, halves to even, with 0 for −0; a code without values has level 0;
//! - of codes whose levels are equal the lowest is used for all.
//!
//! For b = 2 this is SparseLoCo's quantiser (arXiv 2508.15706).

use crate::bfloat16::nearest;
use crate::fma::Fma;
use crate::isa::dispatch;

/// Most levels: those of 4-bit codes.
pub const MAX_LEVELS: usize = 16;

const LANES: usize = 64;

/// Σ f(v).
#[inline(always)]
fn sum(values: &[f32], f: impl Fn(f64) -> f64) -> f64 {
    let mut lanes = [0.0; LANES];
    for row in values.chunks(LANES) {
        for (lane, value) in lanes.iter_mut().zip(row) {
            *lane += f(f64::from(*value));
        }
    }
    lanes.iter().fold(0.0, |sum, lane| sum + lane)
}

#[inline(always)]
fn quantise_body<F: Fma>(values: &[f32], bits: u32, codes: &mut Vec<u8>) -> [u32; MAX_LEVELS] {
    assert!(matches!(bits, 1 | 2 | 4), "codes have 1, 2 or 4 bits");
    let n = values.len() as f64;
    let shift = sum(values, |value| value) / n.max(1.0);
    let squares = sum(values, |value| (value - shift) * (value - shift));
    let half = f64::from(1u32 << (bits - 1));
    let step = 6.0 * (squares / (n - 1.0).max(1.0)).sqrt() / (2.0 * half);
    codes.clear();
    if step > 0.0 && bits == 1 {
        codes.extend(values.iter().map(|value| u8::from(f64::from(*value) >= shift)));
    } else if step > 0.0 {
        // Where it counts the sum is not negative, so that cutting off is rounding down.
        let code = |value: &f32| ((f64::from(*value) - shift) / step + (half + 0.5)).clamp(0.0, 2.0 * half - 1.0);
        codes.extend(values.iter().map(|value| code(value) as u8));
    } else {
        codes.resize(values.len(), half as u8);
    }
    levels(values, codes)
}

/// The levels of these codes, each code below `MAX_LEVELS`; codes whose levels are equal become the lowest of them.
#[inline(always)]
fn levels(values: &[f32], codes: &mut [u8]) -> [u32; MAX_LEVELS] {
    let (mut sums, mut counts) = ([0.0; MAX_LEVELS], [0u32; MAX_LEVELS]);
    for (value, code) in values.iter().zip(&*codes) {
        sums[usize::from(code & 15)] += f64::from(*value);
        counts[usize::from(code & 15)] += 1;
    }
    let mut levels = [0; MAX_LEVELS];
    let mut merged: [u8; MAX_LEVELS] = std::array::from_fn(|code| code as u8);
    let mut last: Option<u8> = None;
    for code in 0..MAX_LEVELS as u8 {
        let at = usize::from(code);
        if counts[at] == 0 {
            continue;
        }
        let level = bfloat16((sums[at] / f64::from(counts[at])) as f32);
        match last {
            // Class means ascend and rounding keeps their order, so equal levels are neighbours.
            Some(lower) if levels[usize::from(lower)] == level => merged[at] = lower,
            _ => {
                levels[at] = level;
                last = Some(code);
            }
        }
    }
    codes.iter_mut().for_each(|code| *code = merged[usize::from(*code & 15)]);
    levels
}

dispatch! {
    /// The code of each value (all finite), and the levels as bits of f32. `bits` is 1, 2 or 4.
    quantise => quantise_body, (values: &[f32], bits: u32, codes: &mut Vec<u8>) -> [u32; MAX_LEVELS]
}

/// The bits of the nearest finite bfloat16, halves to even, never −0.
fn bfloat16(value: f32) -> u32 {
    const LARGEST: u32 = 0x7f7f_0000;
    let bits = value.to_bits();
    let (sign, magnitude) = (bits & 1 << 31, bits & !(1 << 31));
    let rounded = nearest(magnitude).min(LARGEST);
    if rounded == 0 { 0 } else { sign | rounded }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    fn all(values: &[f32], bits: u32) -> (Vec<u32>, Vec<u8>) {
        let mut portable = vec![9; 3];
        let levels = quantise(Isa::PORTABLE, values, bits, &mut portable);
        for isa in Isa::available() {
            let mut codes = vec![1];
            assert_eq!((quantise(isa, values, bits, &mut codes), &codes), (levels, &portable), "{isa}");
        }
        (levels[..1 << bits].to_vec(), portable)
    }

    /// Values as top-k leaves them: none near zero.
    fn kept(n: usize, seed: u64) -> Vec<f32> {
        let mut rng = crate::tests::Rng(seed);
        let mut draw = || (rng.next() >> 40) as f32 / (1 << 24) as f32 - 0.5;
        let mut values = Vec::new();
        while values.len() < n {
            let value = (draw() + draw() + draw() + draw()) * 1e-3;
            if value.abs() > 5e-4 {
                values.push(value + 1e-4);
            }
        }
        values
    }

    /// The published quantiser: values are looked up as the mean of their class.
    fn reference(values: &[f32], bits: u32) -> (Vec<f64>, Vec<u8>) {
        let n = values.len() as f64;
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let centred: Vec<f64> = values.iter().map(|v| f64::from(*v) - mean).collect();
        let norm = centred.iter().map(|c| c * c).sum::<f64>().sqrt();
        let bins = 2f64.powi(bits as i32);
        let bin = 6.0 * (norm / (n - 1.0).sqrt()) / bins;
        let code = |c: &f64| (c / bin + bins / 2.0).round().clamp(0.0, bins - 1.0) as u8;
        let codes: Vec<u8> = centred.iter().map(code).collect();
        let lookup = (0..1u8 << bits).map(|code| {
            let class: Vec<f64> =
                centred.iter().zip(&codes).filter(|(_, c)| **c == code).map(|(value, _)| *value).collect();
            class.iter().sum::<f64>() / class.len() as f64 + mean
        });
        (lookup.collect(), codes)
    }

    #[test]
    fn the_quantiser_is_the_papers_on_every_instruction_set() {
        for (seed, bits) in (0..20).flat_map(|seed| [(seed, 2), (seed, 4)]) {
            let values = kept(300, seed);
            let (levels, codes) = all(&values, bits);
            let (expected, expected_codes) = reference(&values, bits);
            assert_eq!(codes, expected_codes);
            for (code, level) in levels.into_iter().enumerate() {
                match codes.contains(&(code as u8)) {
                    true => {
                        let error = f64::from(f32::from_bits(level)) / expected[code] - 1.0;
                        assert!(error.abs() <= 1.0 / 256.0, "{level} for {}", expected[code]);
                    }
                    false => assert_eq!(level, 0),
                }
            }
        }
    }

    #[test]
    fn one_bit_says_on_which_side_of_the_mean_a_value_lies() {
        let (levels, codes) = all(&[1.0, -1.0, 3.0, -3.0, 4.0], 1);
        assert_eq!(codes, [1, 0, 1, 0, 1]);
        assert_eq!(levels, [(-2.0f32).to_bits(), 0x402b_0000]);
    }

    #[test]
    fn degenerate_tensors_have_one_level() {
        assert_eq!(all(&[], 2), (vec![0; 4], vec![]));
        assert_eq!(all(&[-1.5], 2), (vec![0, 0, (-1.5f32).to_bits(), 0], vec![2]));
        assert_eq!(all(&[0.0; 3], 2), (vec![0; 4], vec![2; 3]));
        assert_eq!(all(&[0.25; 3], 2), (vec![0, 0, 0.25f32.to_bits(), 0], vec![2; 3]));
        assert_eq!(all(&[0.25; 3], 1), (vec![0, 0.25f32.to_bits()], vec![1; 3]));
    }

    #[test]
    fn levels_round_to_the_nearest_finite_bfloat16() {
        assert_eq!(bfloat16(1.0), 0x3f80_0000);
        assert_eq!(bfloat16(f32::from_bits(0x3f80_8000)), 0x3f80_0000);
        assert_eq!(bfloat16(f32::from_bits(0x3f81_8000)), 0x3f82_0000);
        assert_eq!(bfloat16(f32::from_bits(0xbf80_8001)), 0xbf81_0000);
        assert_eq!(bfloat16(f32::MAX), 0x7f7f_0000);
        assert_eq!(bfloat16(-f32::MIN_POSITIVE / 16.0), 0x8008_0000);
        assert_eq!(bfloat16(-f32::from_bits(1)), 0);
    }
}
