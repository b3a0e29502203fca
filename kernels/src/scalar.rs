//! exp, SiLU, ln, sin and cos from basic operations. The constants and the order of operations are the definition.

use crate::fma::Fma;

const LOG2_E: f32 = f32::from_bits(0x3fb8_aa3b);
const LN2_HIGH: f32 = f32::from_bits(0x3f31_8000);
const LN2_LOW: f32 = f32::from_bits(0xb95e_8083);
/// Horner coefficients of (eʳ − 1 − r) / r², highest first.
const EXP: [f32; 5] = [
    f32::from_bits(0x3ab6_85cd),
    f32::from_bits(0x3c09_0767),
    f32::from_bits(0x3d2a_aa8c),
    f32::from_bits(0x3e2a_aa6e),
    f32::from_bits(0x3f00_0000),
];
/// 1.5 · 2²³: adding it rounds to a whole number, which then stands in the low bits.
const ROUNDER: f32 = 12_582_912.0;

/// eˣ to 1.07 ulp. NaN gives NaN, x < −87 gives +0, x > 88 gives e⁸⁸.
#[inline(always)]
pub(crate) fn exp<F: Fma>(x: f32) -> f32 {
    let low = x < -87.0;
    let clamped = if low { -87.0 } else { x };
    let clamped = if clamped > 88.0 { 88.0 } else { clamped };
    let t = F::fma(clamped, LOG2_E, ROUNDER);
    let n = t - ROUNDER;
    let r = F::fma(n, -LN2_HIGH, clamped);
    let r = F::fma(n, -LN2_LOW, r);
    let q = F::fma(EXP[0], r, EXP[1]);
    let q = F::fma(q, r, EXP[2]);
    let q = F::fma(q, r, EXP[3]);
    let q = F::fma(q, r, EXP[4]);
    let y = 1.0 + F::fma(q, r * r, r);
    let scaled = f32::from_bits(y.to_bits().wrapping_add(t.to_bits() << 23));
    // The bits of a NaN must not be shifted into a number.
    let result = if clamped.is_nan() { clamped } else { scaled };
    if low { 0.0 } else { result }
}

/// x · sigmoid(x), as x / (1 + e⁻ˣ).
#[inline(always)]
pub(crate) fn silu<F: Fma>(x: f32) -> f32 {
    x / (1.0 + exp::<F>(-x))
}

/// ln x for a normal, positive x, in f64 basic operations: x = 2ᵉ·m with m in (√½, √2], then the series of artanh.
pub(crate) fn ln64(x: f64) -> f64 {
    const LN2_HIGH: f64 = 0.693_147_180_559_890_3;
    const LN2_LOW: f64 = 5.497_923_018_708_371e-14;
    let bits = x.to_bits() as i64;
    let mut exponent = (bits >> 52) - 1023;
    let mut m = f64::from_bits((bits & 0x000f_ffff_ffff_ffff | 0x3ff0_0000_0000_0000) as u64);
    if m > std::f64::consts::SQRT_2 {
        m *= 0.5;
        exponent += 1;
    }
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let mut p = 1.0 / 27.0;
    for i in (1..=25).rev().step_by(2) {
        p = p * z + 1.0 / f64::from(i);
    }
    let r = 2.0 * s * p;
    let e = exponent as f64;
    e * LN2_HIGH + (e * LN2_LOW + r)
}

/// 1.5 · 2⁵², as [`ROUNDER`].
const ROUNDER64: f64 = 6_755_399_441_055_744.0;

/// eˣ for |x| < 700, in f64 basic operations.
pub(crate) fn exp64(x: f64) -> f64 {
    const LN2_HIGH: f64 = f64::from_bits(0x3fe6_2e42_fee0_0000);
    const LN2_LOW: f64 = f64::from_bits(0x3dea_39ef_3579_3c76);
    let n = (x * std::f64::consts::LOG2_E + ROUNDER64) - ROUNDER64;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let mut y = 1.0;
    for i in (1..=16).rev() {
        y = 1.0 + r / f64::from(i) * y;
    }
    y * f64::from_bits(((n as i64 + 1023) as u64) << 52)
}

/// (sin x, cos x) for 0 ≤ x < 2²⁰, in f64 basic operations: reduced by multiples of π/2 in three parts, then Taylor series.
pub(crate) fn sin_cos64(x: f64) -> (f64, f64) {
    // π/2 cut after 33 bits, the next 33, and the rest, so that k times the first two is exact.
    const HALF_PI_1: f64 = f64::from_bits(0x3ff9_21fb_5440_0000);
    const HALF_PI_2: f64 = f64::from_bits(0x3dd0_b461_1a60_0000);
    const HALF_PI_3: f64 = 2.022_266_248_795_950_6e-21;
    let k = (x * std::f64::consts::FRAC_2_PI + ROUNDER64) - ROUNDER64;
    let r = ((x - k * HALF_PI_1) - k * HALF_PI_2) - k * HALF_PI_3;
    let z = r * r;
    let (mut sin, mut cos) = (1.0, 1.0);
    for i in (2..=22).rev().step_by(2) {
        let i = f64::from(i);
        cos = 1.0 - z / ((i - 1.0) * i) * cos;
        sin = 1.0 - z / (i * (i + 1.0)) * sin;
    }
    let sin = sin * r;
    match k as i64 & 3 {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fma::Portable;

    #[test]
    fn exp_is_within_two_ulp_of_the_true_value() {
        let mut x = -86.9f32;
        while x < 87.9 {
            let (found, truth) = (exp::<Portable>(x), f64::from(x).exp());
            let ulp = f64::from((truth as f32).next_up()) - f64::from(truth as f32);
            assert!((f64::from(found) - truth).abs() < 1.2 * ulp, "exp({x}) = {found}");
            x += 0.0137;
        }
        let edges = [(f32::NEG_INFINITY, 0.0), (-87.1, 0.0), (0.0, 1.0), (-0.0, 1.0)];
        for (x, y) in edges {
            assert_eq!(exp::<Portable>(x).to_bits(), f32::to_bits(y), "exp({x})");
        }
        assert!(exp::<Portable>(f32::NAN).is_nan());
        assert_eq!(exp::<Portable>(f32::INFINITY).to_bits(), exp::<Portable>(88.0).to_bits());
        assert!(exp::<Portable>(88.0).is_finite());
    }

    #[test]
    fn the_f64_functions_are_accurate() {
        for i in 1..20_000 {
            let x = f64::from(i) * 0.37;
            assert!((ln64(x) - x.ln()).abs() < 4e-15, "ln {x}");
            let (sin, cos) = sin_cos64(x * 40.0);
            assert!((sin - (x * 40.0).sin()).abs() < 1e-15 && (cos - (x * 40.0).cos()).abs() < 1e-15, "sin, cos {x}");
            let y = -x / 500.0;
            assert!((exp64(y) / y.exp() - 1.0).abs() < 1e-15, "exp {y}");
        }
    }
}
