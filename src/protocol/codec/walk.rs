//! The order in which an update is coded: one walk that the encoder and the decoder share.

use super::model::Model;
use super::range::Coder;
use super::tiles::{Tile, kept, tiles};
use super::{SparseTensor, TensorShape};
use crate::protocol::manifest::CodecParams;

/// How many chosen values each row and column is thought to have had before the first tile: the higher, the less the
/// tiles that were seen count.
const PRIOR: u32 = 2;

/// Codes one tensor of at least one value. The encoder reads `tensor`, the decoder fills it; its vectors have their final
/// length. `used` says which codes occur.
pub(super) fn tensor<C: Coder>(
    coder: &mut C,
    model: &mut Model,
    params: &CodecParams,
    shape: TensorShape,
    used: &mut [bool; 4],
    tensor: &mut SparseTensor,
) {
    let mut halves = tensor.levels.map(|level| (level >> 16) as u16);
    model.levels(coder, used, &mut halves);
    tensor.levels = halves.map(|half| u32::from(half) << 16);

    let mut walk = Walk::new(params, shape);
    let (mut indices, mut codes) = (tensor.indices.as_mut_slice(), tensor.codes.as_mut_slice());
    for tile in tiles(shape, params) {
        let count = kept(params, tile.numel()) as usize;
        let (tile_indices, rest) = indices.split_at_mut(count);
        let (tile_codes, rest_codes) = codes.split_at_mut(count);
        walk.tile(coder, model, &tile, used, tile_indices, tile_codes);
        (indices, codes) = (rest, rest_codes);
    }
}

/// What the tiles coded so far say about those to come.
struct Walk {
    /// Values chosen in each row of the current row of tiles.
    rows: Vec<u32>,
    /// Values chosen in each of the tensor's columns.
    cols: Vec<u32>,
    /// The tile's columns of the values being coded.
    chosen: Vec<u16>,
    /// Weights of the tile's columns, added up.
    sums: Vec<u32>,
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
            chosen: Vec::new(),
            sums: Vec::new(),
            last_code: 4,
        }
    }

    fn tile<C: Coder>(
        &mut self,
        coder: &mut C,
        model: &mut Model,
        tile: &Tile,
        used: &[bool; 4],
        indices: &mut [u32],
        codes: &mut [u8],
    ) {
        let first_col = (tile.first % tile.stride) as usize;
        if first_col == 0 {
            self.rows.fill(0);
        }
        let seen = &mut self.cols[first_col..first_col + tile.cols as usize];
        self.sums.clear();
        self.sums.push(0);
        let mut sum = 0;
        for count in seen.iter() {
            sum += PRIOR + count;
            self.sums.push(sum);
        }

        let mut weight: u32 = self.rows[..tile.rows as usize].iter().map(|count| PRIOR + count).sum();
        let mut done = 0;
        for row in 0..tile.rows {
            let left = (indices.len() - done) as u32;
            if left == 0 {
                break;
            }
            let own = PRIOR + self.rows[row as usize];
            let expected = u64::from(left) * 256 * u64::from(own) / u64::from(weight);
            weight -= own;
            let room = (tile.rows - row - 1) * tile.cols;
            let start = tile.at(row, 0);
            let ahead = &mut indices[done..];
            let want = match C::DECODES {
                true => 0,
                false => ahead.iter().take_while(|flat| **flat < start + tile.cols).count() as u32,
            };
            let count =
                model.row_count(coder, expected as u32, left.saturating_sub(room), left.min(tile.cols), want) as usize;

            self.chosen.clear();
            // What a decoder copies here is overwritten.
            self.chosen.extend(ahead[..count].iter().map(|flat| flat.wrapping_sub(start) as u16));
            model.columns(coder, &self.sums, 0, tile.cols as usize, &mut self.chosen);
            for (at, col) in (done..).zip(&self.chosen) {
                indices[at] = start + u32::from(*col);
                seen[usize::from(*col)] += 1;
                codes[at] = model.code(coder, used, self.last_code, codes[at]);
                self.last_code = codes[at];
            }
            self.rows[row as usize] += count as u32;
            done += count;
        }
    }
}
