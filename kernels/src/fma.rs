//! The fused multiply-add: rounded once, with or without an instruction for it.
//!
//! `f32::mul_add` is called only where it compiles to one instruction: elsewhere it is a call into the C library, which
//! isn't the same function on every platform.

pub(crate) trait Fma {
    /// a·b + c, rounded once.
    fn fma(a: f32, b: f32, c: f32) -> f32;
}

/// One instruction. Only for code compiled with the feature.
pub(crate) struct Hardware;

impl Fma for Hardware {
    #[inline(always)]
    fn fma(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

/// f64 basic operations: the product of two f32 is exact in f64; the sum is rounded to odd with the error that TwoSum
/// finds, so that rounding it to f32 is the only rounding that shows (Boldo and Melquiond, "Emulation of FMA and
/// correctly rounded sums", 2008).
pub(crate) struct Software;

impl Fma for Software {
    #[inline(always)]
    fn fma(a: f32, b: f32, c: f32) -> f32 {
        let product = f64::from(a) * f64::from(b);
        let c = f64::from(c);
        let sum = product + c;
        let back = sum - product;
        let error = (product - (sum - back)) + (c - back);
        // Integer masks rather than branches and products, so that a compiler can do several at once.
        let bits = sum.to_bits();
        let inwards = (bits ^ error.to_bits()) >> 63;
        let if_even = (bits & 1).wrapping_sub(1);
        // For an infinite or NaN sum the error is NaN, and the comparison is false.
        let if_inexact = u64::from(error.abs() > 0.0).wrapping_neg();
        let adjust = 1u64.wrapping_sub(inwards << 1) & if_even & if_inexact;
        f64::from_bits(bits.wrapping_add(adjust)) as f32
    }
}

/// What portable code uses: the instruction where the target always has it, else the software.
#[cfg(any(target_arch = "aarch64", target_feature = "fma"))]
pub(crate) type Portable = Hardware;
/// What portable code uses: the instruction where the target always has it, else the software.
#[cfg(not(any(target_arch = "aarch64", target_feature = "fma")))]
pub(crate) type Portable = Software;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::Rng;

    /// The exact product, added to c with 256-bit integers would be the proof; `mul_add` of the test machine's C library
    /// (correct on Linux) is the oracle.
    #[test]
    fn software_and_hardware_agree_on_every_kind_of_operand() {
        let mut rng = Rng(7);
        for round in 0..400_000u32 {
            let mut operand = || {
                let random = rng.next();
                let bits = random as u32;
                f32::from_bits(match round % 4 {
                    1 => bits & 0x807f_ffff | ((random >> 32) as u32 % 40 + 107) << 23,
                    2 => bits & 0x8070_0000 | ((random >> 32) as u32 % 60 + 1) << 23,
                    _ => bits,
                })
            };
            let (a, b, mut c) = (operand(), operand(), operand());
            if round % 8 == 3 {
                // Near cancellation, where a second rounding would show.
                c = -(a * b) * (1.0 + f32::EPSILON * ((round >> 3) % 3) as f32);
            }
            let (expected, found) = (a.mul_add(b, c), Software::fma(a, b, c));
            assert!(
                expected.to_bits() == found.to_bits() || expected.is_nan() && found.is_nan(),
                "fma({a:e}, {b:e}, {c:e}) = {found:e}, expected {expected:e}"
            );
        }
    }
}
