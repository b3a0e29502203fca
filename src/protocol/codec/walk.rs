//! The order in which an update is coded: one walk that the encoder and the decoder share.

use super::columns::Columns;
use super::model::Model;
use super::range::Coder;
use super::tiles::{Tile, kept, tiles};
use super::{MAX_LEVELS, SparseTensor, TensorShape};
use crate::protocol::manifest::CodecParams;

/// How many chosen values each row and column is thought to have had before the first tile: the higher, the less the
/// tiles that were seen count.
const PRIOR: u32 = 2;

/// Three coders, so that a processor can work on three chains of choices at once.
#[derive(Debug)]
pub(super) struct Streams<C> {
    /// How many values each row holds.
    pub(super) rows: C,
    /// In which columns they are.
    pub(super) columns: C,
    /// Their codes, and the levels of a tensor before them.
    pub(super) codes: C,
}

impl<C> Streams<C> {
    /// One after the other, as they are written.
    pub(super) fn each(self) -> [C; 3] {
        [self.rows, self.columns, self.codes]
    }
}

/// Codes one tensor of at least one value. The encoder reads `tensor`, the decoder fills it; its vectors have their final
/// length. `used` says which codes occur.
pub(super) fn tensor<C: Coder>(
    coders: &mut Streams<C>,
    model: &mut Model,
    params: &CodecParams,
    shape: TensorShape,
    used: &mut [bool; MAX_LEVELS],
    tensor: &mut SparseTensor,
) {
    levels(coders, model, params, used, tensor);
    each_tile(params, shape, tensor, |walk, tile, indices, codes| {
        walk.places(coders, model, tile, indices);
        code_tile(coders, model, walk, params.value_bits, codes);
    });
}

/// The levels, which come before a tensor's tiles.
pub(super) fn levels<C: Coder>(
    coders: &mut Streams<C>,
    model: &mut Model,
    params: &CodecParams,
    used: &mut [bool; MAX_LEVELS],
    tensor: &mut SparseTensor,
) {
    let known = 1 << params.value_bits;
    model.levels(&mut coders.codes, &mut used[..known], &mut tensor.levels[..known]);
}

/// Gives each tile of a tensor to `code`, with the indices and codes that are kept of it.
#[inline(always)]
pub(super) fn each_tile(
    params: &CodecParams,
    shape: TensorShape,
    tensor: &mut SparseTensor,
    mut code: impl FnMut(&mut Walk, &Tile, &mut [u32], &mut [u8]),
) {
    let mut walk = Walk::new(params, shape);
    let (mut indices, mut codes) = (tensor.indices.as_mut_slice(), tensor.codes.as_mut_slice());
    for tile in tiles(shape, params) {
        let count = kept(params, tile.numel()) as usize;
        let (tile_indices, rest) = indices.split_at_mut(count);
        let (tile_codes, rest_codes) = codes.split_at_mut(count);
        walk.begin(&tile);
        code(&mut walk, &tile, tile_indices, tile_codes);
        (indices, codes) = (rest, rest_codes);
    }
}

/// A tile's codes, of 1, 2 or 4 bits.
#[inline(always)]
pub(super) fn code_tile<C: Coder>(
    coders: &mut Streams<C>,
    model: &mut Model,
    walk: &mut Walk,
    value_bits: u32,
    codes: &mut [u8],
) {
    let last = &mut walk.last_code;
    match value_bits {
        1 => model.codes::<C, 1>(&mut coders.codes, last, codes),
        2 => model.codes::<C, 2>(&mut coders.codes, last, codes),
        _ => model.codes::<C, 4>(&mut coders.codes, last, codes),
    }
}

/// What the tiles coded so far say about those to come.
#[derive(Debug)]
pub(super) struct Walk {
    /// Values chosen in each row of the current row of tiles.
    rows: Vec<u32>,
    /// Values chosen in each of the tensor's columns.
    cols: Vec<u32>,
    /// The tile's columns of the row being coded.
    chosen: Vec<u16>,
    /// What the tile's columns are expected to hold.
    columns: Columns,
    last_code: u8,
}

impl Walk {
    fn new(params: &CodecParams, shape: TensorShape) -> Self {
        let cols = match shape {
            TensorShape::Vector { len } => len,
            TensorShape::Matrix { cols, .. } => cols,
        };
        Self {
            rows: vec![0; params.tile as usize],
            cols: vec![0; cols as usize],
            chosen: vec![0; params.tile as usize],
            columns: Columns::default(),
            last_code: MAX_LEVELS as u8,
        }
    }

    #[inline(always)]
    fn begin(&mut self, tile: &Tile) {
        if tile.first.is_multiple_of(tile.stride) {
            self.rows.fill(0);
        }
    }

    /// Lets a row and a column of the tile be expected to hold so many more.
    pub(super) fn expect(&mut self, tile: &Tile, row: u32, col: u32, more: u32) {
        let first_col = tile.first % tile.stride;
        let (row, col) = (&mut self.rows[row as usize], &mut self.cols[(first_col + col) as usize]);
        *row = row.wrapping_add(more);
        *col = col.wrapping_add(more);
    }

    /// Undoes [`Walk::expect`].
    pub(super) fn forget(&mut self, tile: &Tile, row: u32, col: u32, more: u32) {
        self.expect(tile, row, col, more.wrapping_neg());
    }

    /// The indices of one tile. Sums wrap where they can't overflow: no tensor has 2³¹ values.
    pub(super) fn places<C: Coder>(
        &mut self,
        coders: &mut Streams<C>,
        model: &mut Model,
        tile: &Tile,
        indices: &mut [u32],
    ) {
        let first_col = (tile.first % tile.stride) as usize;
        let seen = &mut self.cols[first_col..first_col + tile.cols as usize];
        self.columns.set(seen.iter().map(|count| PRIOR.wrapping_add(*count)));

        let rows = &mut self.rows[..tile.rows as usize];
        let mut weight = rows.iter().fold(0u32, |sum, count| sum.wrapping_add(PRIOR.wrapping_add(*count)));
        let (mut start, mut room) = (tile.first, tile.numel());
        let mut rest = indices;
        for row in rows {
            if rest.is_empty() {
                break;
            }
            let left = rest.len() as u32;
            let own = PRIOR.wrapping_add(*row);
            // In 2⁻⁸ values.
            let expected = u64::from(left).wrapping_mul(u64::from(own) << 8) / u64::from(weight);
            weight = weight.wrapping_sub(own);
            room = room.wrapping_sub(tile.cols);
            let end = start.wrapping_add(tile.cols);
            let want = match C::DECODES {
                true => 0,
                false => rest.iter().take_while(|flat| **flat < end).count() as u32,
            };
            let (least, most) = (left.saturating_sub(room), left.min(tile.cols));
            let count = model.row_count(&mut coders.rows, expected as u32, least, most, want);

            let (own_indices, others) = rest.split_at_mut(count as usize);
            let chosen = &mut self.chosen[..count as usize];
            // What a decoder copies here is overwritten.
            for (col, flat) in chosen.iter_mut().zip(own_indices.iter()) {
                *col = flat.wrapping_sub(start) as u16;
            }
            model.columns(&mut coders.columns, &self.columns, chosen);
            for (flat, col) in own_indices.iter_mut().zip(chosen.iter()) {
                *flat = start.wrapping_add(u32::from(*col));
                let seen = &mut seen[usize::from(*col)];
                *seen = seen.wrapping_add(1);
            }
            *row = row.wrapping_add(count);
            rest = others;
            start = start.wrapping_add(tile.stride);
        }
    }
}
