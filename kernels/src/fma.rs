//! The fused multiply-add: rounded once, with or without an instruction for it.
//!
//! `f32::mul_add` is called only where it compiles to one instruction: elsewhere it is a call into the C library, which
//! isn't the same function on every platform.

pub(crate) trait Fma {
    /// Is it one instruction?
    const IN_HARDWARE: bool;
    /// a·b + c, rounded once.
    fn fma(a: f32, b: f32, c: f32) -> f32;
}

/// One instruction. Only for code compiled with the feature.
#[allow(dead_code, reason = "some kinds of machine have none")]
pub(crate) struct Hardware;

impl Fma for Hardware {
    const IN_HARDWARE: bool = true;

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
    const IN_HARDWARE: bool = false;

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

/// A software fma without the rounding to odd: right unless it says that it may not be. For where many are computed, so that
/// the whole lot is computed again if one of them is doubtful.
#[inline(always)]
pub(crate) fn quick(a: f32, b: f32, c: f32) -> (f32, bool) {
    let sum = f64::from(a) * f64::from(b) + f64::from(c);
    let result = sum as f32;
    (result, is_doubtful(sum, result))
}

/// Rounding twice, to f64 and then to f32, differs from rounding once only where the f64 lies halfway between two f32: the
/// bits that f32 lacks are a one and zeros. Among the subnormals f32 lacks more bits; those, and zero, are always doubtful.
#[inline(always)]
fn is_doubtful(sum: f64, result: f32) -> bool {
    const LACKING: u32 = (1 << 29) - 1;
    let halfway = sum.to_bits() as u32 & LACKING == 1 << 28;
    let tiny = result.to_bits() & 0x7fff_ffff <= f32::MIN_POSITIVE.to_bits();
    halfway | tiny
}

/// What portable code uses: the instruction where the target always has it, else the software.
#[cfg(any(target_arch = "aarch64", target_feature = "fma", all(target_arch = "riscv64", target_os = "linux")))]
pub(crate) type Portable = Hardware;
/// What portable code uses: the instruction where the target always has it, else the software.
#[cfg(not(any(target_arch = "aarch64", target_feature = "fma", all(target_arch = "riscv64", target_os = "linux"))))]
pub(crate) type Portable = Software;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::Rng;

    /// The exact product, added to c with 256-bit integers would be the proof; `mul_add` of the test machine's C library
    /// (correct on Linux) is the oracle.
    #[test]
    fn the_quick_fma_is_in_doubt_where_rounding_twice_shows() {
        // 1 + 2⁻²³ + 2⁻²⁴ − 2⁻⁷⁰: f64 loses the last term, and what is left lies halfway.
        let (a, b, c) = (2f32.powi(-24) * (1.0 + f32::EPSILON), 1.0 - f32::EPSILON, 1.0 + f32::EPSILON);
        let (rounded_twice, doubtful) = quick(a, b, c);
        assert!(doubtful && rounded_twice > Software::fma(a, b, c));
        assert!(quick(f32::MIN_POSITIVE, 0.5, 0.0).1 && quick(0.0, 1.0, 0.0).1);
        assert!(!quick(3.0, 5.0, 1.0).1);
    }

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
            let (quick, doubtful) = quick(a, b, c);
            assert!(doubtful || quick.to_bits() == expected.to_bits() || expected.is_nan() && quick.is_nan());
            assert!(
                expected.to_bits() == found.to_bits() || expected.is_nan() && found.is_nan(),
                "fma({a:e}, {b:e}, {c:e}) = {found:e}, expected {expected:e}"
            );
        }
    }
}
