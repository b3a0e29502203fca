//! The median-norm clip: no contribution weighs more, tensor by tensor, than the median of its round.

use l402t_kernels::{Pool, sum_of_squares};

use super::values::{dense_values, levels};
use crate::protocol::codec::{TensorShape, Update};
use crate::protocol::ids::Blake3Hash;

const CONTEXT: &str = "l402t clip factors v1";

/// The Euclidean norm of each tensor's values: of a sparse one's in the order in which they are sent, of a dense one's row by
/// row.
fn norms(pool: &Pool, shapes: &[TensorShape], update: &Update) -> Vec<f32> {
    let (isa, mut values) = (pool.isa(), Vec::new());
    let norm = |(place, shape): (usize, &TensorShape)| {
        match update {
            Update::Sparse(update) => {
                let tensor = &update.tensors[place];
                let levels = levels(tensor);
                values.clear();
                values.extend(tensor.codes.iter().map(|code| levels[usize::from(*code)]));
            }
            Update::Dense(update) => dense_values(isa, *shape, update, place, 1.0, &mut values),
        }
        sum_of_squares(isa, &values).sqrt()
    };
    shapes.iter().enumerate().map(norm).collect()
}

/// For each update of tensors with these shapes, one factor a tensor: `median / norm` where the norm is above the median of
/// these updates' norms, and one elsewhere. Of two middle norms the upper one counts: with the lower, one tiny update beside
/// an honest one would shrink that to nothing. Inflation is left to the score, which an update that is too large spoils.
pub(super) fn clip_factors(pool: &Pool, shapes: &[TensorShape], updates: &[&Update]) -> Vec<Vec<f32>> {
    let norms: Vec<Vec<f32>> = pool.here(|| updates.iter().map(|update| norms(pool, shapes, update)).collect());
    let tensors = norms.first().map_or(0, Vec::len);
    let medians: Vec<f32> = (0..tensors)
        .map(|tensor| {
            let mut column: Vec<f32> = norms.iter().map(|norms| norms[tensor]).collect();
            // No norm is negative or NaN: levels are finite, and a square's overflow is +∞.
            column.sort_by(f32::total_cmp);
            column[column.len() / 2]
        })
        .collect();
    let factor = |(norm, median): (&f32, &f32)| if norm > median { median / norm } else { 1.0 };
    pool.here(|| norms.iter().map(|norms| norms.iter().zip(&medians).map(factor).collect()).collect())
}

/// The digest of an update's clip factors that its verdict carries.
pub fn clip_digest(factors: &[f32]) -> Blake3Hash {
    let bytes: Vec<u8> = factors.iter().flat_map(|factor| factor.to_bits().to_le_bytes()).collect();
    Blake3Hash::derive(CONTEXT, &bytes)
}

#[cfg(test)]
mod tests {
    use l402t_kernels::bfloat16;

    use super::*;
    use crate::protocol::codec::{DenseTensor, DenseUpdate, MAX_LEVELS, SparseTensor, SparseUpdate};

    const SHAPES: [TensorShape; 1] = [TensorShape::Vector { len: 10 }];

    fn update(level: f32) -> Update {
        let tensor =
            SparseTensor { levels: [level.to_bits(); MAX_LEVELS], indices: vec![0, 3, 5, 9], codes: vec![0, 1, 2, 3] };
        SparseUpdate { tensors: vec![tensor] }.into()
    }

    fn factors(levels: &[f32]) -> Vec<f32> {
        let updates: Vec<Update> = levels.iter().map(|level| update(*level)).collect();
        let updates: Vec<&Update> = updates.iter().collect();
        clip_factors(&Pool::all_cores(), &SHAPES, &updates).concat()
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn a_norm_above_the_upper_median_is_brought_down_to_it() {
        assert_eq!(bits(&factors(&[1.0, -100.0, 0.5, 2.0])), bits(&[1.0, 0.02, 1.0, 1.0]));
        assert_eq!(bits(&factors(&[8.0, 4.0, 2.0])), bits(&[0.5, 1.0, 1.0]));
        assert_eq!(bits(&factors(&[8.0])), bits(&[1.0]));
    }

    #[test]
    fn tiny_updates_that_are_no_majority_shrink_nobody() {
        assert_eq!(bits(&factors(&[1.0, 1e-20])), bits(&[1.0, 1.0]));
        assert_eq!(bits(&factors(&[1.0, 1e-20, 1e-20, 1.0])), bits(&[1.0; 4]));
    }

    #[test]
    fn norms_that_overflow_or_vanish_give_factors_between_zero_and_one() {
        assert_eq!(bits(&factors(&[1e30, 1e30, 1.0])), bits(&[1.0, 1.0, 1.0]));
        assert_eq!(bits(&factors(&[1e30, 1.0, 1.0])), bits(&[0.0, 1.0, 1.0]));
        assert_eq!(bits(&factors(&[0.0, 0.0, 1.0])), bits(&[1.0, 1.0, 0.0]));
    }

    #[test]
    fn the_norm_of_a_dense_update_is_that_of_all_its_values() {
        let dense = |scale: f32| {
            // 127 and 36 steps, and a tile of nothing.
            let mut codes = vec![128; 10];
            codes[1..3].copy_from_slice(&[1, 164]);
            let tensor = DenseTensor { scales: vec![bfloat16::narrow(scale), 0, 0], codes };
            Update::Dense(DenseUpdate { tile: 4, tensors: vec![tensor] })
        };
        // √(127² + 36²) ÷ 2
        let norm = norms(&Pool::all_cores(), &SHAPES, &dense(0.5));
        assert!((norm[0] - 66.001_89).abs() < 1e-4, "{norm:?}");
        let (one, four) = (dense(1.0), dense(4.0));
        let factors = clip_factors(&Pool::all_cores(), &SHAPES, &[&one, &one, &four]);
        assert_eq!(bits(&factors.concat()), bits(&[1.0, 1.0, 0.25]));
    }
}
