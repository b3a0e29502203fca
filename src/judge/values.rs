//! What an update says as numbers: a sparse one's levels, a dense one's values, before and after clipping.

use l402t_kernels::tile::Rectangle;
use l402t_kernels::{Isa, bfloat16, dense};

use crate::protocol::codec::{DenseUpdate, MAX_LEVELS, SparseTensor, TensorShape, tiles_of};

/// A tensor's levels as numbers.
pub(super) fn levels(tensor: &SparseTensor) -> [f32; MAX_LEVELS] {
    tensor.levels.map(f32::from_bits)
}

/// A tensor's levels times its clip factor, each product rounded once.
pub(super) fn clipped_levels(tensor: &SparseTensor, clip: f32) -> [f32; MAX_LEVELS] {
    levels(tensor).map(|level| level * clip)
}

/// The values of one tensor of a dense update times a factor, row by row.
pub(super) fn dense_values(
    isa: Isa,
    shape: TensorShape,
    update: &DenseUpdate,
    place: usize,
    factor: f32,
    values: &mut Vec<f32>,
) {
    let tensor = &update.tensors[place];
    values.clear();
    values.resize(tensor.codes.len(), 0.0);
    for (tile, scale) in tiles_of(shape, update.tile).zip(&tensor.scales) {
        let [first, rows, cols, stride] = [tile.first, tile.rows, tile.cols, tile.stride].map(|n| n as usize);
        let (scale, rectangle) = (bfloat16::widen(*scale), Rectangle { first, rows, cols, stride });
        dense::expand(isa, scale, factor, &tensor.codes, rectangle, values);
    }
}
