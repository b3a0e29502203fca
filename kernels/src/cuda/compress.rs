//! The kernels of a sparse update's compression as functions on typed buffers: error feedback, the largest values of each tile,
//! their codes and levels, and the codes in as few bits as they have. The same bits as on the CPU.
//!
//! Lengths that must agree are checked by assertion: they come from a model's layout, never from the network.

use super::ops::{THREADS, blocks, number};
use super::{Arg, CudaError, Kernel, Machine, Slice, Values};
use crate::quantise::MAX_LEVELS;

/// The quantiser's sums are of so many lanes, each a thread's.
const LANES: u32 = 64;
const MAX_TILE: usize = 256;

/// A tensor, and how it is cut: into squares, or a vector (of one row) into chunks.
#[derive(Clone, Copy, Debug)]
pub struct Tiled {
    /// Its rows; 1 of a vector.
    pub rows: usize,
    /// Its columns; all values of a vector.
    pub cols: usize,
    /// A tile's side, 1 to 256.
    pub side: usize,
    /// Values kept of a full tile, 1 to side².
    pub k: usize,
}

impl Tiled {
    fn tiles(&self) -> usize {
        self.rows.div_ceil(self.side) * self.cols.div_ceil(self.side)
    }

    /// Values kept of all tiles: of each its part of k, rounded with halves up, at least one.
    pub fn kept(&self) -> usize {
        let (side, full) = (self.side, self.side * self.side);
        let cut = |len: usize| [(side, len / side), (len % side, usize::from(!len.is_multiple_of(side)))];
        let mut sum = 0;
        for (height, down) in cut(self.rows) {
            for (width, across) in cut(self.cols) {
                sum += down * across * ((2 * height * width * self.k + full) / (2 * full)).max(1);
            }
        }
        sum
    }
}

/// As [`crate::tile::feed_back`], on all values.
pub fn feed_back<M: Machine>(
    machine: &M,
    decay: f32,
    feedback: &Values<M, f32>,
    values: &mut Values<M, f32>,
) -> Result<(), CudaError> {
    let len = values.len();
    assert!(feedback.len() >= len);
    if len == 0 {
        return Ok(());
    }
    let args = [Arg::U64(len as u64), Arg::F32(decay), feedback.arg(), values.arg()];
    // SAFETY: the kernel touches the first `len` of both.
    unsafe { machine.launch(Kernel::FeedBack, [blocks(len, THREADS as usize), 1, 1], THREADS, &args) }
}

/// As [`crate::topk::top_k`] on each of a tensor's tiles: the flat indices in the tensor of what is kept, tile after tile, and
/// the values there.
pub fn top_k<M: Machine>(
    machine: &M,
    tensor: Tiled,
    values: Slice<'_, M, f32>,
    indices: &mut Values<M, u32>,
    chosen: &mut Values<M, f32>,
) -> Result<(), CudaError> {
    let Tiled { rows, cols, side, k } = tensor;
    assert!((1..=MAX_TILE).contains(&side) && (1..=side * side).contains(&k));
    assert!(rows.checked_mul(cols).is_some_and(|numel| numel < 1 << 31) && values.len >= rows * cols);
    assert!(indices.len() >= tensor.kept() && chosen.len() >= tensor.kept());
    if rows * cols == 0 {
        return Ok(());
    }
    let [r, c, s, k] = [rows, cols, side, k].map(|n| Arg::U32(number(n)));
    let args = [r, c, s, k, values.arg(), indices.arg(), chosen.arg()];
    // SAFETY: each block reads its tile of (rows, cols) and writes as many indices and values as `kept` counts for it, after
    // those of the tiles before.
    unsafe { machine.launch(Kernel::TopK, [number(tensor.tiles()), 1, 1], THREADS, &args) }
}

/// As [`crate::quantise::quantise`], of the first `count` values (finite) of one tensor.
pub fn quantise<M: Machine>(
    machine: &M,
    count: usize,
    bits: u32,
    values: &Values<M, f32>,
    codes: &mut Values<M, u8>,
    levels: &mut Values<M, u32>,
) -> Result<(), CudaError> {
    assert!(matches!(bits, 1 | 2 | 4), "codes have 1, 2 or 4 bits");
    assert!(values.len() >= count && codes.len() >= count && levels.len() >= MAX_LEVELS);
    let args = [Arg::U32(number(count)), Arg::U32(bits), values.arg(), codes.arg(), levels.arg()];
    // SAFETY: the kernel reads `count` values, and writes as many codes and every level.
    unsafe { machine.launch(Kernel::Quantise, [1, 1, 1], LANES, &args) }
}

/// The first `count` codes of `bits` bits each, the first of a byte in its lowest bits; what is left of the last byte is 0.
pub fn pack<M: Machine>(
    machine: &M,
    count: usize,
    bits: u32,
    codes: &Values<M, u8>,
    packed: &mut Values<M, u8>,
) -> Result<(), CudaError> {
    assert!(matches!(bits, 1 | 2 | 4), "codes have 1, 2 or 4 bits");
    let bytes = (count * bits as usize).div_ceil(8);
    assert!(codes.len() >= count && packed.len() >= bytes);
    if count == 0 {
        return Ok(());
    }
    let args = [Arg::U32(number(count)), Arg::U32(bits), codes.arg(), packed.arg()];
    // SAFETY: the kernel reads `count` codes and writes the bytes that hold them.
    unsafe { machine.launch(Kernel::Pack, [blocks(bytes, THREADS as usize), 1, 1], THREADS, &args) }
}
