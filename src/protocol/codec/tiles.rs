//! How a tensor is cut into tiles, and how many values of a tile are kept.

use super::TensorShape;
use crate::protocol::manifest::CodecParams;

/// A rectangle of a tensor. Its values are numbered row by row from 0: the tile's positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// The tensor's flat index of the tile's first value.
    pub first: u32,
    /// Its rows, at least 1.
    pub rows: u32,
    /// Its columns, at least 1.
    pub cols: u32,
    /// From one of its rows to the next, in flat indices: the tensor's columns.
    pub stride: u32,
}

impl Tile {
    /// How many values it holds.
    pub fn numel(&self) -> u32 {
        self.rows * self.cols
    }

    /// The tensor's flat (row-major) index of a position below `numel`.
    pub fn flat(&self, position: u32) -> u32 {
        self.at(position / self.cols, position % self.cols)
    }

    /// As [`flat`](Self::flat), for many positions below 2¹⁶: divides once.
    pub fn flats(&self) -> impl Fn(u32) -> u32 + use<> {
        let Tile { first, cols, stride, .. } = *self;
        // Too large by at most 1 ÷ cols of 2⁻³², which no product with fewer than 2¹⁶ brings to the next whole number.
        let reciprocal = (1_u64 << 32) / u64::from(cols) + 1;
        move |position| {
            let row = (u64::from(position).wrapping_mul(reciprocal) >> 32) as u32;
            let col = position.wrapping_sub(row.wrapping_mul(cols));
            first.wrapping_add(row.wrapping_mul(stride)).wrapping_add(col)
        }
    }

    /// The tensor's flat index of a row and column of the tile.
    pub(super) fn at(&self, row: u32, col: u32) -> u32 {
        self.first + row * self.stride + col
    }

    /// The row and column of a flat index, `None` if it lies outside the tile.
    pub(super) fn row_col(&self, flat: u32) -> Option<(u32, u32)> {
        let past = flat.checked_sub(self.first)?;
        let (row, col) = (past / self.stride, past % self.stride);
        (row < self.rows && col < self.cols).then_some((row, col))
    }

    /// The position of a flat index, `None` if it lies outside the tile.
    pub fn position(&self, flat: u32) -> Option<u32> {
        self.row_col(flat).map(|(row, col)| row * self.cols + col)
    }
}

/// Values kept of a tile or chunk of `numel` values: `k` of a full tile, else max(1, round(numel · k / tile²)), halves up;
/// none of an empty one.
pub fn kept(params: &CodecParams, numel: u32) -> u32 {
    let full = u64::from(params.tile) * u64::from(params.tile);
    let scaled = (2 * u64::from(numel) * u64::from(params.k) + full).checked_div(2 * full).unwrap_or(0);
    // k ≤ tile² makes `scaled` at most `numel`, a u32.
    scaled.clamp(1, u64::from(numel).max(1)).min(u64::from(numel)) as u32
}

/// A tensor's tiles, in the order of the sparse update: from left to right, then from top to bottom. A matrix is cut
/// into squares of `tile` × `tile`, a vector into chunks of `tile` values; those at the right and lower edges hold what
/// is left.
pub fn tiles(shape: TensorShape, params: &CodecParams) -> impl Iterator<Item = Tile> + use<> {
    tiles_of(shape, params.tile)
}

/// As [`tiles`], of tiles with this side.
pub fn tiles_of(shape: TensorShape, side: u32) -> impl Iterator<Item = Tile> + use<> {
    let side = side.max(1);
    let (rows, cols) = match shape {
        TensorShape::Vector { len } => (len.min(1), len),
        TensorShape::Matrix { rows, cols } => (rows, cols),
    };
    let starts = move |len: u32| (0..len.div_ceil(side)).map(move |n| (n * side, side.min(len - n * side)));
    starts(rows).flat_map(move |(row, rows)| {
        starts(cols).map(move |(col, width)| Tile { first: row * cols + col, rows, cols: width, stride: cols })
    })
}

/// Values kept of a whole tensor, computed without walking its tiles.
pub fn kept_in(shape: TensorShape, params: &CodecParams) -> u64 {
    let side = params.tile.max(1);
    let (rows, cols) = match shape {
        TensorShape::Vector { len } => (len.min(1), len),
        TensorShape::Matrix { rows, cols } => (rows, cols),
    };
    let cut = |len: u32| [(side, len / side), (len % side, u32::from(!len.is_multiple_of(side)))];
    let mut sum = 0;
    for (height, down) in cut(rows) {
        for (width, across) in cut(cols) {
            sum += u64::from(down) * u64::from(across) * u64::from(kept(params, height * width));
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARAMS: CodecParams = CodecParams { version: 2, tile: 64, k: 64, value_bits: 2 };

    #[test]
    fn a_part_tile_keeps_its_share_and_never_nothing() {
        assert_eq!(kept(&PARAMS, 4096), 64);
        assert_eq!(kept(&PARAMS, 2048), 32);
        assert_eq!(kept(&PARAMS, 96), 2);
        assert_eq!(kept(&PARAMS, 95), 1);
        assert_eq!(kept(&PARAMS, 64), 1);
        assert_eq!(kept(&PARAMS, 1), 1);
        assert_eq!(kept(&PARAMS, 0), 0);
    }

    #[test]
    fn tiles_cover_every_value_once() {
        let shapes = [
            TensorShape::Vector { len: 0 },
            TensorShape::Vector { len: 1 },
            TensorShape::Vector { len: 129 },
            TensorShape::Matrix { rows: 0, cols: 7 },
            TensorShape::Matrix { rows: 65, cols: 130 },
            TensorShape::Matrix { rows: 128, cols: 64 },
            TensorShape::Matrix { rows: 3, cols: 1 },
        ];
        for shape in shapes {
            let mut seen = vec![0; shape.numel() as usize];
            let mut sum = 0;
            for tile in tiles(shape, &PARAMS) {
                sum += u64::from(kept(&PARAMS, tile.numel()));
                for position in 0..tile.numel() {
                    let flat = tile.flat(position);
                    assert_eq!(tile.flats()(position), flat);
                    assert_eq!(tile.position(flat), Some(position));
                    seen[flat as usize] += 1;
                }
            }
            assert!(seen.iter().all(|times| *times == 1), "{shape:?}");
            assert_eq!(kept_in(shape, &PARAMS), sum, "{shape:?}");
        }
    }

    #[test]
    fn one_division_serves_every_position_of_any_tile() {
        for cols in 1..=256 {
            let tile = Tile { first: 7, rows: 256, cols, stride: 1000 };
            let flat = tile.flats();
            for position in 0..1 << 16 {
                assert_eq!(flat(position), tile.flat(position), "{position} of {cols} columns");
            }
        }
    }

    #[test]
    fn a_flat_index_outside_a_tile_has_no_position() {
        let tile = tiles(TensorShape::Matrix { rows: 128, cols: 128 }, &PARAMS).nth(1).expect("four tiles");
        assert_eq!(tile.first, 64);
        assert_eq!(tile.position(63), None);
        assert_eq!(tile.position(128), None);
        assert_eq!(tile.position(64 * 128), None);
        assert_eq!(tile.position(63 * 128 + 127), Some(4095));
    }
}
