//! The k values of largest magnitude. Integer comparisons only, so every instruction set picks the same.
//!
//! The definition, for any other implementation: values are ordered by the integer that the lower 31 bits of their bits are,
//! largest first (NaN above infinity above everything finite; ±0 and the signs alike), equal ones by position, lowest
//! first. The first k are chosen and given in ascending order of position.

use crate::Isa;
use crate::fma::Fma;
use crate::isa::dispatch;

/// Most values that can be searched, so that a position is a `u16`.
pub const MAX_VALUES: usize = 1 << 16;

/// Groups whose maxima bound the k-th largest value from below.
const LANES: usize = 256;

/// Buffers that are used again from call to call.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Magnitudes that reach the bound, in ascending order of position.
    magnitudes: Vec<u32>,
    positions: Vec<u32>,
}

/// Orders magnitudes as integers.
#[inline(always)]
fn magnitude(value: f32) -> u32 {
    value.to_bits() & 0x7fff_ffff
}

/// The largest number that at least `k` (1 ..= how many there are) of these reach: found bit by bit, from the first bit in
/// which they differ.
#[inline(always)]
fn kth_largest(magnitudes: &[u32], k: usize) -> u32 {
    let (mut all, mut any) = (u32::MAX, 0);
    for magnitude in magnitudes {
        all &= magnitude;
        any |= magnitude;
    }
    let differ = 32 - (all ^ any).leading_zeros();
    let mut found = if differ < 32 { all >> differ << differ } else { 0 };
    for bit in (0..differ).rev() {
        let next = found | 1 << bit;
        // At most MAX_VALUES.
        let reach = magnitudes.iter().map(|magnitude| u32::from(*magnitude >= next)).fold(0, u32::wrapping_add);
        if reach as usize >= k {
            found = next;
        }
    }
    found
}

/// As [`kth_largest`], of twice as many numbers at once.
#[inline(always)]
fn kth_largest_half(magnitudes: &[u16; LANES], k: usize) -> u16 {
    let mut found = 0_u16;
    for bit in (0..15).rev() {
        let next = found | 1 << bit;
        let reach = magnitudes.iter().map(|magnitude| u16::from(*magnitude >= next)).fold(0, u16::wrapping_add);
        if usize::from(reach) >= k {
            found = next;
        }
    }
    found
}

/// A magnitude that at least `k` values reach: about the k-th largest of the lanes' maxima, each a different value. 0 where
/// that says nothing.
#[inline(always)]
fn floor_body<F: Fma>(values: &[f32], k: usize) -> u32 {
    if k > LANES || values.len() < 2 * LANES {
        return 0;
    }
    let mut maxima = [0; LANES];
    for row in values.chunks_exact(LANES) {
        for (max, value) in maxima.iter_mut().zip(row) {
            *max = magnitude(*value).max(*max);
        }
    }
    // Seven bits of the fraction are close enough: a bound that is lower by a 128th has few candidates more.
    u32::from(kth_largest_half(&maxima.map(|max| (max >> 16) as u16), k)) << 16
}

/// Of the candidates, which have every value that may be chosen, the chosen ones.
#[inline(always)]
fn choose_body<F: Fma>(magnitudes: &[u32], candidates: &[u32], k: usize, positions: &mut Vec<u16>) {
    let (least, mut ties) = match k < magnitudes.len() {
        true => {
            let least = kth_largest(magnitudes, k);
            let above = magnitudes.iter().map(|magnitude| u32::from(*magnitude > least)).fold(0, u32::wrapping_add);
            (least, k - above as usize)
        }
        false => (0, magnitudes.len()),
    };
    // Each is written before it is known to be chosen, so that nothing has to be guessed.
    positions.resize(magnitudes.len(), 0);
    let mut found = 0;
    for (magnitude, position) in magnitudes.iter().zip(candidates) {
        let tie = usize::from(*magnitude == least) & usize::from(ties > 0);
        ties -= tie;
        // Below MAX_VALUES.
        positions[found] = *position as u16;
        found += tie | usize::from(*magnitude > least);
    }
    positions.truncate(found);
}

dispatch! { floor_for => floor_body, (values: &[f32], k: usize) -> u32 }
dispatch! { choose => choose_body, (magnitudes: &[u32], candidates: &[u32], k: usize, positions: &mut Vec<u16>) }

/// The positions of the `k` values of largest magnitude, ascending; of equal ones the lower position is taken. All of
/// them if there are no more than `k`. A NaN counts as larger than infinity. Panics on more than [`MAX_VALUES`].
pub fn top_k(isa: Isa, values: &[f32], k: usize, scratch: &mut Scratch, positions: &mut Vec<u16>) {
    assert!(values.len() <= MAX_VALUES);
    positions.clear();
    if k == 0 {
        return;
    }
    let floor = floor_for(isa, values, k);
    // A vector more than there are values, since each is written before it is known to be a candidate.
    scratch.magnitudes.resize(values.len() + VECTOR, 0);
    scratch.positions.resize(values.len() + VECTOR, 0);
    let found = candidates(isa, values, floor, &mut scratch.magnitudes, &mut scratch.positions);
    choose(isa, &scratch.magnitudes[..found], &scratch.positions[..found], k, positions);
}

/// Values that are compared at once at most.
const VECTOR: usize = 16;

/// Writes the magnitudes that reach `floor`, and their positions; says how many. Both outputs have `VECTOR` places more
/// than there are values.
fn candidates(isa: Isa, values: &[f32], floor: u32, magnitudes: &mut [u32], positions: &mut [u32]) -> usize {
    #[cfg(target_arch = "x86_64")]
    match isa.path() {
        // SAFETY: an Isa exists only for features that this machine has.
        crate::isa::Path::Avx512 => return unsafe { x86::candidates_avx512(values, floor, magnitudes, positions) },
        // SAFETY: as above.
        crate::isa::Path::Avx2 => return unsafe { x86::candidates_avx2(values, floor, magnitudes, positions) },
        _ => {}
    }
    let _ = isa;
    candidates_from(0, 0, values, floor, magnitudes, positions)
}

/// Goes on from the value at `from`, with `found` candidates so far.
#[inline(always)]
fn candidates_from(
    from: usize,
    mut found: usize,
    values: &[f32],
    floor: u32,
    magnitudes: &mut [u32],
    positions: &mut [u32],
) -> usize {
    for (position, value) in values.iter().enumerate().skip(from) {
        let magnitude = magnitude(*value);
        magnitudes[found] = magnitude;
        positions[found] = position as u32;
        found += usize::from(magnitude >= floor);
    }
    found
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{VECTOR, candidates_from};

    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,popcnt")]
    pub(super) fn candidates_avx512(
        values: &[f32],
        floor: u32,
        magnitudes: &mut [u32],
        positions: &mut [u32],
    ) -> usize {
        assert!(magnitudes.len() >= values.len() + VECTOR && positions.len() >= values.len() + VECTOR);
        let mut found = 0;
        let mut position = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let (step, floor_all, low) =
            (_mm512_set1_epi32(16), _mm512_set1_epi32(floor as i32), _mm512_set1_epi32(0x7fff_ffff));
        let (vectors, _) = values.as_chunks::<16>();
        for vector in vectors {
            // SAFETY: 16 values.
            let bits = unsafe { _mm512_loadu_si512(vector.as_ptr().cast()) };
            let magnitude = _mm512_and_si512(bits, low);
            let reach = _mm512_cmpge_epu32_mask(magnitude, floor_all);
            // SAFETY: `found` is at most the number of values before this vector, and there are 16 places after that.
            unsafe {
                let to = magnitudes.as_mut_ptr().add(found).cast();
                _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(reach, magnitude));
                let to = positions.as_mut_ptr().add(found).cast();
                _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(reach, position));
            }
            found += reach.count_ones() as usize;
            position = _mm512_add_epi32(position, step);
        }
        candidates_from(vectors.len() * 16, found, values, floor, magnitudes, positions)
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn candidates_avx2(values: &[f32], floor: u32, magnitudes: &mut [u32], positions: &mut [u32]) -> usize {
        let mut found = 0;
        // Magnitudes are below 2³¹, so that a signed comparison does. Above floor − 1 is from floor on.
        let (below, low) = (_mm256_set1_epi32((floor as i32).wrapping_sub(1)), _mm256_set1_epi32(0x7fff_ffff));
        let (vectors, _) = values.as_chunks::<8>();
        for (at, vector) in vectors.iter().enumerate() {
            // SAFETY: 8 values.
            let bits = unsafe { _mm256_loadu_si256(vector.as_ptr().cast()) };
            let reach = _mm256_cmpgt_epi32(_mm256_and_si256(bits, low), below);
            let mut mask = _mm256_movemask_ps(_mm256_castsi256_ps(reach)) as u32;
            while mask != 0 {
                let lane = mask.trailing_zeros() as usize;
                magnitudes[found] = vector[lane].to_bits() & 0x7fff_ffff;
                positions[found] = (8 * at + lane) as u32;
                found += 1;
                mask &= mask - 1;
            }
        }
        candidates_from(vectors.len() * 8, found, values, floor, magnitudes, positions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn select(isa: Isa, values: &[f32], k: usize) -> Vec<u16> {
        // What an earlier call left must not matter.
        let mut scratch = Scratch { magnitudes: vec![u32::MAX; 7], positions: vec![3; 9] };
        let mut positions = vec![9; 3];
        top_k(isa, values, k, &mut scratch, &mut positions);
        positions
    }

    fn by_sorting(values: &[f32], k: usize) -> Vec<u16> {
        let mut positions: Vec<u16> = (0..values.len()).map(|at| at as u16).collect();
        // Stable: equal magnitudes stay in order.
        positions.sort_by_key(|at| std::cmp::Reverse(values[usize::from(*at)].abs().to_bits()));
        positions.truncate(k);
        positions.sort();
        positions
    }

    #[test]
    fn the_largest_magnitudes_are_chosen_on_every_instruction_set() {
        let mut state = 1u32;
        let mut draw = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8
        };
        let sizes =
            [(4096, 64), (4096, 1), (4096, 63), (4096, 200), (4096, 256), (4096, 257), (4096, 4096), (4095, 64)];
        for (n, k) in sizes.into_iter().chain([(520, 64), (511, 64), (127, 64), (100, 2), (64, 1), (17, 16), (3, 2)]) {
            // Of many magnitudes, of few (ties everywhere), and all equal.
            for kinds in [1 << 24, 5, 1] {
                let values: Vec<f32> = (0..n).map(|_| (draw() % kinds) as f32 * (draw() % 2) as f32 - 2.0).collect();
                for isa in Isa::available() {
                    assert_eq!(select(isa, &values, k), by_sorting(&values, k), "{isa} {n} {k} {kinds}");
                }
            }
        }
    }

    #[test]
    fn any_bits_are_ordered_alike_on_every_instruction_set() {
        let mut rng = crate::tests::Rng(11);
        let special = [0, 1 << 31, 1, 0x8000_0001, 0x7f80_0000, 0xff80_0000, 0x7fc0_0000, 0xffff_ffff, 0x007f_ffff];
        for round in 0..400 {
            let n = 1 + (rng.next() % 1500) as usize;
            let values: Vec<f32> = (0..n)
                .map(|_| match rng.next() % 4 {
                    0 if round % 2 == 0 => f32::from_bits(special[(rng.next() % 9) as usize]),
                    1 => f32::from_bits(rng.next() as u32 & 0x8000_0003),
                    _ => f32::from_bits(rng.next() as u32),
                })
                .collect();
            let k = (rng.next() % (n as u64 + 2)) as usize;
            for isa in Isa::available() {
                assert_eq!(select(isa, &values, k), by_sorting(&values, k), "{isa} {n} {k}");
            }
        }
    }

    #[test]
    fn of_equal_magnitudes_the_lower_position_is_taken() {
        let mut values = vec![1.0f32; 4096];
        values[4000] = -1.0;
        values[4095] = -2.0;
        let mut expected: Vec<u16> = (0..63).collect();
        expected.push(4095);
        for isa in Isa::available() {
            assert_eq!(select(isa, &values, 64), expected, "{isa}");
        }
    }

    #[test]
    fn a_nan_counts_as_the_largest() {
        let mut values = vec![f32::INFINITY; 256];
        values[200] = f32::NAN;
        values[100] = -f32::NAN;
        assert_eq!(select(Isa::best(), &values, 2), [100, 200]);
    }

    #[test]
    fn no_more_are_chosen_than_there_are() {
        assert_eq!(select(Isa::best(), &[], 4), []);
        assert_eq!(select(Isa::best(), &[0.0, 0.0], 4), [0, 1]);
        assert_eq!(select(Isa::best(), &[1.0; 300], 0), []);
    }
}
