//! bfloat16, the upper half of an f32: what the levels of a sparse update and the scales of a dense one are sent as.

/// The bits of the nearest bfloat16, halves to even, as those of an f32. Of a finite magnitude (no sign); its rounding may be
/// infinite.
#[inline(always)]
pub(crate) fn nearest(magnitude: u32) -> u32 {
    (magnitude + 0x7fff + (magnitude >> 16 & 1)) & 0xffff_0000
}

/// The value with these bits, exactly.
#[inline(always)]
pub fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The bits of a value that is a bfloat16: one that isn't loses its lower half.
#[inline(always)]
pub fn narrow(value: f32) -> u16 {
    (value.to_bits() >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_round_to_even_and_every_bfloat16_survives() {
        assert_eq!(nearest(0x3f80_8000), 0x3f80_0000);
        assert_eq!(nearest(0x3f81_8000), 0x3f82_0000);
        assert_eq!(nearest(0x3f80_8001), 0x3f81_0000);
        assert_eq!(nearest(f32::MAX.to_bits()), f32::INFINITY.to_bits());
        for bits in (0..=u16::MAX).filter(|bits| !widen(*bits).is_nan()) {
            assert_eq!(narrow(widen(bits)), bits);
        }
    }
}
