//! Weights plus updates: one contribution for scoring, the accepted ones for the next checkpoint.

use l402t_kernels::outer::{accumulate_sparse, subtract_mean, subtract_sparse};
use l402t_kernels::{Pool, dense, rows};

use super::values::{clipped_levels, dense_values};
use crate::model::{Checkpoint, Layout, TensorSpec};
use crate::protocol::amount::Ppm;
use crate::protocol::codec::Update;

/// An update that has been decoded, with its clip factors, one a tensor.
#[derive(Clone, Copy, Debug)]
pub struct ClippedUpdate<'a> {
    /// Its tensors are in the layout's order, its indices inside them.
    pub update: &'a Update,
    /// One a tensor.
    pub clip: &'a [f32],
}

/// α as f32: one rounding of the exact quotient.
pub(super) fn rate(outer_lr: Ppm) -> f32 {
    outer_lr.get() as f32 / 1_000_000.0
}

/// `θ ← θ − α · clip · v`, value by value with one fused rounding. Says whether every value it touched is finite.
pub(super) fn apply_one(
    pool: &Pool,
    layout: &Layout,
    weights: &mut [f32],
    outer_lr: Ppm,
    update: ClippedUpdate<'_>,
) -> Finite {
    let (isa, rate, mut finite, mut values) = (pool.isa(), rate(outer_lr), true, Vec::new());
    pool.here(|| {
        for (place, (spec, clip)) in layout.tensors.iter().zip(update.clip).enumerate() {
            let weights = &mut weights[spec.range()];
            match update.update {
                Update::Sparse(update) => {
                    let tensor = &update.tensors[place];
                    let levels = clipped_levels(tensor, *clip);
                    subtract_sparse(isa, weights, rate, &levels, &tensor.indices, &tensor.codes);
                    finite &= tensor.indices.iter().all(|index| weights[*index as usize].is_finite());
                }
                Update::Dense(update) => {
                    dense_values(isa, spec.shape, update, place, *clip, &mut values);
                    dense::subtract(isa, weights, rate, &values);
                    finite &= weights.iter().all(|weight| weight.is_finite());
                }
            }
        }
    });
    if finite { Finite::Yes } else { Finite::No }
}

/// Puts back what an update has touched: of a sparse one a hundredth of the weights, where copying all would cost as much as
/// reading them.
pub(super) fn take_back(layout: &Layout, start: &[f32], update: &Update, weights: &mut [f32]) {
    match update {
        Update::Sparse(update) => {
            for (spec, tensor) in layout.tensors.iter().zip(&update.tensors) {
                let (start, weights) = (&start[spec.range()], &mut weights[spec.range()]);
                for index in &tensor.indices {
                    weights[*index as usize] = start[*index as usize];
                }
            }
        }
        Update::Dense(_) => weights.copy_from_slice(start),
    }
}

/// Whether weights are finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finite {
    Yes,
    No,
}

/// The next checkpoint: `θ − α · mean`, where the mean of a value is over the updates that sent its index, summed in the order
/// of `updates` (which is that of ascending contribution ids). A step that would leave the finite numbers is not taken.
pub fn outer_step(pool: &Pool, start: &Checkpoint, outer_lr: Ppm, updates: &[ClippedUpdate<'_>]) -> Checkpoint {
    let mut next = start.clone();
    step_in_place(pool, &start.layout, &mut next.weights, outer_lr, updates);
    next
}

/// [`outer_step`] without a copy: the weights are the start and become the next.
pub(super) fn step_in_place(
    pool: &Pool,
    layout: &Layout,
    weights: &mut [f32],
    outer_lr: Ppm,
    updates: &[ClippedUpdate<'_>],
) {
    let (mut sums, mut counts, mut values) = (Vec::new(), Vec::new(), Vec::new());
    pool.here(|| {
        for (place, spec) in layout.tensors.iter().enumerate() {
            sums.clear();
            sums.resize(spec.numel(), 0.0);
            counts.clear();
            counts.resize(spec.numel(), 0);
            for update in updates {
                accumulate(pool, spec, place, update, &mut sums, &mut counts, &mut values);
            }
            subtract_mean(pool.isa(), &mut weights[spec.range()], rate(outer_lr), &sums, &counts);
        }
    });
}

/// Adds one tensor of an update to its sums, and counts the values that it has. `values` is a buffer.
fn accumulate(
    pool: &Pool,
    spec: &TensorSpec,
    place: usize,
    update: &ClippedUpdate<'_>,
    sums: &mut [f32],
    counts: &mut [u32],
    values: &mut Vec<f32>,
) {
    match update.update {
        Update::Sparse(sparse) => {
            let tensor = &sparse.tensors[place];
            let levels = clipped_levels(tensor, update.clip[place]);
            accumulate_sparse(sums, counts, &levels, &tensor.indices, &tensor.codes);
        }
        Update::Dense(dense) => {
            dense_values(pool.isa(), spec.shape, dense, place, update.clip[place], values);
            rows::add(pool.isa(), sums, values);
            counts.iter_mut().for_each(|count| *count += 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::fixtures::Fixture;
    use crate::judge::self_test::{sample_checkpoint, sample_update};
    use crate::protocol::codec::{MAX_LEVELS, SparseTensor};

    #[test]
    fn the_mean_of_a_value_is_over_the_updates_that_sent_it() {
        let pool = Pool::all_cores();
        let start = sample_checkpoint();
        let (mut one, mut two) = (sample_update(&start.layout, 1), sample_update(&start.layout, 2));
        one.tensors[0] = SparseTensor { levels: [1f32.to_bits(); MAX_LEVELS], indices: vec![0, 1], codes: vec![0, 0] };
        two.tensors[0] = SparseTensor { levels: [3f32.to_bits(); MAX_LEVELS], indices: vec![1, 2], codes: vec![0, 0] };
        let clip = vec![1.0; start.layout.tensors.len()];
        let updates = [one, two].map(Update::Sparse);
        let updates = [&updates[0], &updates[1]].map(|update| ClippedUpdate { update, clip: &clip });
        let next = outer_step(&pool, &start, Ppm::ONE, &updates);
        let moved = |place: usize| start.weights[place] - next.weights[place];
        for (place, expected) in [(0, 1.0), (1, 2.0), (2, 3.0), (3, 0.0)] {
            assert!((moved(place) - expected).abs() < 1e-6, "{place}: {}", moved(place));
        }
    }

    #[test]
    fn one_update_scores_as_it_would_step() {
        let pool = Pool::all_cores();
        let start = sample_checkpoint();
        let update = Update::Sparse(sample_update(&start.layout, 1));
        let clip = vec![0.5; start.layout.tensors.len()];
        let clipped = ClippedUpdate { update: &update, clip: &clip };
        let alpha = Ppm::new(700_000).expect("valid");
        let mut candidate = start.weights.clone();
        let finite = apply_one(&pool, &start.layout, &mut candidate, alpha, clipped);
        let next = outer_step(&pool, &start, alpha, &[clipped]);
        assert_eq!(finite, Finite::Yes);
        let same = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same(&candidate, &next.weights) && !same(&candidate, &start.weights));
        take_back(&start.layout, &start.weights, &update, &mut candidate);
        assert!(same(&candidate, &start.weights));
        assert_ne!(next.hash(), start.hash());
        assert_eq!(outer_step(&pool, &start, alpha, &[]).hash(), start.hash());
    }

    #[test]
    fn a_dense_update_scores_as_it_would_step_and_its_mean_is_over_all() {
        let (pool, fixture) = (Pool::all_cores(), Fixture::dense());
        let start = &fixture.start;
        let updates = [1, 2].map(|seed| Update::Dense(fixture.any_dense_update(seed)));
        let clip = vec![0.5; start.layout.tensors.len()];
        let clipped = [&updates[0], &updates[1]].map(|update| ClippedUpdate { update, clip: &clip });
        let mut weights = start.weights.clone();
        assert_eq!(apply_one(&pool, &start.layout, &mut weights, Ppm::ONE, clipped[0]), Finite::Yes);
        assert_eq!(weights, outer_step(&pool, start, Ppm::ONE, &clipped[..1]).weights);
        let mean = outer_step(&pool, start, Ppm::ONE, &clipped);
        for (spec, place) in start.layout.tensors.iter().zip(0..) {
            let value = |update: &Update| match update {
                Update::Dense(update) => (f32::from(update.tensors[place].codes[0]) - 128.0) / 16_384.0,
                Update::Sparse(_) => panic!("dense"),
            };
            let moved = start.weights[spec.offset] - mean.weights[spec.offset];
            let expected = 0.5 * (value(&updates[0]) + value(&updates[1])) / 2.0;
            assert!((moved - expected).abs() < 1e-6, "{}: {moved} is not {expected}", spec.name);
        }
        take_back(&start.layout, &start.weights, &updates[0], &mut weights);
        assert_eq!(weights, start.weights);
    }

    #[test]
    fn weights_that_would_overflow_are_noticed_and_never_stepped_to() {
        let pool = Pool::all_cores();
        let start = sample_checkpoint();
        let mut update = sample_update(&start.layout, 1);
        update.tensors[0].levels = [f32::MAX.to_bits(); MAX_LEVELS];
        let update = Update::Sparse(update);
        let clip = vec![1.0; start.layout.tensors.len()];
        let clipped = ClippedUpdate { update: &update, clip: &clip };
        let mut huge = start.clone();
        huge.weights.fill(-f32::MAX);
        let finite = apply_one(&pool, &start.layout, &mut huge.weights, Ppm::ONE, clipped);
        assert_eq!(finite, Finite::No);
        huge.weights.fill(-f32::MAX);
        let next = outer_step(&pool, &huge, Ppm::ONE, &[clipped, clipped]);
        assert!(next.weights.iter().all(|weight| weight.is_finite()));
    }
}
