//! The k values of largest magnitude. Integer comparisons only, so every instruction set picks the same.

use crate::fma::Fma;
use crate::isa::dispatch;

/// Most values that can be searched, so that a position is a `u16`.
pub const MAX_VALUES: usize = 1 << 16;

/// Groups whose maxima bound the k-th largest value from below.
const LANES: usize = 64;

/// Orders magnitudes as integers: NaN above infinity above everything finite.
#[inline(always)]
fn magnitude(value: f32) -> u32 {
    value.to_bits() & 0x7fff_ffff
}

/// A magnitude that at least `k` values reach: the k-th largest of the lanes' maxima, each a different value. 0 where that
/// says nothing.
#[inline(always)]
fn floor_for(values: &[f32], k: usize) -> u32 {
    if k > LANES || values.len() < 2 * LANES {
        return 0;
    }
    let mut maxima = [0; LANES];
    for row in values.chunks_exact(LANES) {
        for (max, value) in maxima.iter_mut().zip(row) {
            *max = magnitude(*value).max(*max);
        }
    }
    *maxima.select_nth_unstable(LANES - k).1
}

#[inline(always)]
fn top_k_body<F: Fma>(values: &[f32], k: usize, scratch: &mut Vec<u64>, positions: &mut Vec<u16>) {
    assert!(values.len() <= MAX_VALUES);
    positions.clear();
    if k == 0 {
        return;
    }
    let floor = floor_for(values, k);
    // One place more than there are candidates, since each value is written before it is known to be one.
    scratch.resize(values.len() + 1, 0);
    let mut found = 0;
    for (position, value) in values.iter().enumerate() {
        let magnitude = magnitude(*value);
        // Larger means chosen first: the larger magnitude, then the lower position.
        scratch[found] = u64::from(magnitude) << 16 | (MAX_VALUES - 1 - position) as u64;
        found += usize::from(magnitude >= floor);
    }
    let candidates = &mut scratch[..found];
    let chosen = match k < found {
        true => {
            candidates.select_nth_unstable(found - k);
            &candidates[found - k..]
        }
        false => candidates,
    };
    positions.extend(chosen.iter().map(|candidate| (MAX_VALUES - 1) as u16 - *candidate as u16));
    positions.sort_unstable();
}

dispatch! {
    /// The positions of the `k` values of largest magnitude, ascending; of equal ones the lower position is taken. All of
    /// them if there are no more than `k`. A NaN counts as larger than infinity. `scratch` is for reuse between calls.
    /// Panics on more than [`MAX_VALUES`].
    top_k => top_k_body, (values: &[f32], k: usize, scratch: &mut Vec<u64>, positions: &mut Vec<u16>)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    fn select(isa: Isa, values: &[f32], k: usize) -> Vec<u16> {
        // What an earlier call left must not matter.
        let (mut scratch, mut positions) = (vec![u64::MAX; 7], vec![9; 3]);
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
        for (n, k) in [(4096, 64), (4096, 1), (4096, 63), (4096, 200), (128, 64), (127, 64), (100, 2), (64, 1), (3, 2)]
        {
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
    fn of_equal_magnitudes_the_lower_position_is_taken() {
        let mut values = vec![1.0f32; 4096];
        values[4000] = -1.0;
        values[4095] = -2.0;
        let mut expected: Vec<u16> = (0..63).collect();
        expected.push(4095);
        assert_eq!(select(Isa::best(), &values, 64), expected);
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
