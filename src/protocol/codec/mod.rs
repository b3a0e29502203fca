//! What a peer sends of its pseudo-gradient, in canonical wire formats: the sparse update and the dense update.
//!
//! Floats appear as their bits only, and all arithmetic is on integers. A decoder meets hostile bytes: what it allocates
//! and how long it works is decided by the run's shapes, never by the payload. A run's manifest says which of the two its
//! updates are: sparse with values of 1, 2 or 4 bits ([`sparse`]), dense with those of 8 ([`dense`]).
//!
//! Every tensor of the layout is there once, in layout order, cut into tiles ([`tiles`]).

mod columns;
pub mod dense;
mod error;
mod joint;
mod model;
mod range;
pub mod sparse;
mod symbols;
mod tiles;
mod walk;

#[cfg(test)]
mod tests;

pub use error::{DecodeError, EncodeError, LevelFault, TileFault, UnsupportedParams};
pub use tiles::{Tile, kept, kept_in, tiles, tiles_of};

use super::manifest::CodecParams;

/// The wire formats' version.
pub const VERSION: u8 = 2;
/// Largest tile side that is supported.
pub const MAX_TILE: u32 = 256;
/// Most values of one tensor, so that neither a flat index nor a count of choices overflows.
pub const MAX_NUMEL: u32 = i32::MAX as u32;
/// Most levels of a sparse tensor: those of 4-bit codes.
pub const MAX_LEVELS: usize = 16;
/// The bits of a dense update's values.
pub const DENSE_BITS: u32 = 8;

/// The f32 levels of a tensor, as bits: code c stands for the value `levels[c]`. 0 where there is no such code.
pub type Levels = [u32; MAX_LEVELS];

/// The levels of the first codes; the others have none. Those past [`MAX_LEVELS`] are left out.
pub fn levels(first: &[u32]) -> Levels {
    std::array::from_fn(|code| first.get(code).copied().unwrap_or(0))
}

/// One tensor of a sparse update: its kept values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SparseTensor {
    /// Quantisation levels: bfloat16 values as f32 bits, strictly ascending over the codes that occur, 0 for the others.
    pub levels: Levels,
    /// Flat row-major positions in the tensor, tile after tile, increasing within a tile.
    pub indices: Vec<u32>,
    /// The code of each index.
    pub codes: Vec<u8>,
}

/// A decoded sparse update: one entry a tensor, in layout order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SparseUpdate {
    /// In layout order.
    pub tensors: Vec<SparseTensor>,
}

/// One tensor of a dense update: a code for every value, a scale for every tile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DenseTensor {
    /// A tile's step, as bfloat16 bits (the upper half of an f32's), tile after tile. 0 where all its values are 0.
    pub scales: Vec<u16>,
    /// Of each value, row-major: code c stands for (c − 128) · scale, which an f32 holds exactly.
    pub codes: Vec<u8>,
}

/// A decoded dense update: one entry a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DenseUpdate {
    /// Side of the square tiles that share a scale.
    pub tile: u32,
    /// In layout order.
    pub tensors: Vec<DenseTensor>,
}

/// A decoded update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// The largest values of each tile.
    Sparse(SparseUpdate),
    /// Every value.
    Dense(DenseUpdate),
}

impl Update {
    /// Which it is.
    pub fn format(&self) -> Format {
        match self {
            Update::Sparse(_) => Format::Sparse,
            Update::Dense(_) => Format::Dense,
        }
    }
}

impl From<SparseUpdate> for Update {
    fn from(update: SparseUpdate) -> Self {
        Update::Sparse(update)
    }
}

impl From<DenseUpdate> for Update {
    fn from(update: DenseUpdate) -> Self {
        Update::Dense(update)
    }
}

/// A tensor's shape, as far as tiling is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorShape {
    /// 1-D.
    Vector {
        /// Values.
        len: u32,
    },
    /// 2-D, row-major.
    Matrix {
        /// Rows.
        rows: u32,
        /// Columns.
        cols: u32,
    },
}

impl TensorShape {
    /// How many values it has.
    pub fn numel(self) -> u64 {
        match self {
            TensorShape::Vector { len } => u64::from(len),
            TensorShape::Matrix { rows, cols } => u64::from(rows) * u64::from(cols),
        }
    }
}

/// Which of the formats a run's updates have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The largest values of each tile.
    Sparse,
    /// Every value.
    Dense,
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Format::Sparse => "sparse",
            Format::Dense => "dense",
        })
    }
}

/// Which of the formats these parameters ask for.
pub fn format(params: &CodecParams) -> Format {
    if params.value_bits == DENSE_BITS { Format::Dense } else { Format::Sparse }
}

/// Checks that updates of these shapes can be coded with these parameters.
pub fn check_params(params: &CodecParams, shapes: &[TensorShape]) -> Result<(), UnsupportedParams> {
    match format(params) {
        Format::Sparse => check_sparse(params, shapes),
        Format::Dense => check_dense(params, shapes),
    }
}

fn check_sparse(params: &CodecParams, shapes: &[TensorShape]) -> Result<(), UnsupportedParams> {
    if !matches!(params.value_bits, 1 | 2 | 4) {
        return Err(UnsupportedParams::ValueBits(params.value_bits));
    }
    check_tiles(params, shapes)
}

fn check_dense(params: &CodecParams, shapes: &[TensorShape]) -> Result<(), UnsupportedParams> {
    if params.value_bits != DENSE_BITS {
        return Err(UnsupportedParams::ValueBits(params.value_bits));
    }
    check_tiles(params, shapes)?;
    if params.k != params.tile * params.tile {
        return Err(UnsupportedParams::NotAll { k: params.k, tile: params.tile });
    }
    Ok(())
}

fn check_tiles(params: &CodecParams, shapes: &[TensorShape]) -> Result<(), UnsupportedParams> {
    if params.version != u32::from(VERSION) {
        return Err(UnsupportedParams::Version(params.version));
    }
    if !(1..=MAX_TILE).contains(&params.tile) {
        return Err(UnsupportedParams::Tile(params.tile));
    }
    if !(1..=params.tile * params.tile).contains(&params.k) {
        return Err(UnsupportedParams::Kept { k: params.k, tile: params.tile });
    }
    match shapes.iter().position(|shape| shape.numel() > u64::from(MAX_NUMEL)) {
        Some(tensor) => Err(UnsupportedParams::Numel { tensor, numel: shapes[tensor].numel() }),
        None => Ok(()),
    }
}

fn check_format(params: &CodecParams, update: &Update) -> Result<(), EncodeError> {
    let (expected, found) = (format(params), update.format());
    if expected == found { Ok(()) } else { Err(EncodeError::Format { expected, found }) }
}

/// Encodes an update of a model with these tensors, in the format that these parameters ask for.
pub fn encode(params: &CodecParams, shapes: &[TensorShape], update: &Update) -> Result<Vec<u8>, EncodeError> {
    check_format(params, update)?;
    match update {
        Update::Sparse(update) => sparse::encode(params, shapes, update),
        Update::Dense(update) => dense::encode(params, shapes, update),
    }
}

/// Decodes an update of a model with these tensors. Never panics, and accepts a byte string only if [`encode`] gives it
/// back.
pub fn decode(params: &CodecParams, shapes: &[TensorShape], bytes: &[u8]) -> Result<Update, DecodeError> {
    match format(params) {
        Format::Sparse => sparse::decode(params, shapes, bytes).map(Update::Sparse),
        Format::Dense => dense::decode(params, shapes, bytes).map(Update::Dense),
    }
}

/// What follows an encoded update's magic bytes and version, where the whole header has so many bytes.
fn after_version(magic: [u8; 4], header_bytes: usize, bytes: &[u8]) -> Result<&[u8], DecodeError> {
    if bytes.len() < header_bytes {
        return Err(DecodeError::Truncated);
    }
    match bytes.split_first_chunk() {
        None | Some((_, [])) => Err(DecodeError::Truncated),
        Some((found, _)) if *found != magic => Err(DecodeError::Magic),
        Some((_, [VERSION, rest @ ..])) => Ok(rest),
        Some((_, [version, ..])) => Err(DecodeError::Version(*version)),
    }
}

/// Some updates of one model, together and without their headers: what the sparse ones share is written once, the dense ones
/// follow one another.
pub(super) fn write(
    params: &CodecParams,
    shapes: &[TensorShape],
    updates: &[&Update],
    bytes: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let mut sparse_ones = Vec::new();
    for update in updates {
        check_format(params, update)?;
        match update {
            Update::Sparse(update) => sparse_ones.push(update),
            Update::Dense(update) => dense::write(params, shapes, update, bytes)?,
        }
    }
    match format(params) {
        Format::Sparse => sparse::write(params, shapes, &sparse_ones, bytes),
        Format::Dense => Ok(()),
    }
}

/// What [`write`] wrote, and nothing else. The memory that it takes is that of so many updates, whatever the bytes say.
pub(super) fn read(
    params: &CodecParams,
    shapes: &[TensorShape],
    updates: usize,
    bytes: &[u8],
) -> Result<Vec<Update>, DecodeError> {
    match format(params) {
        Format::Sparse => Ok(sparse::read(params, shapes, updates, bytes)?.into_iter().map(Update::Sparse).collect()),
        Format::Dense => Ok(dense::read(params, shapes, updates, bytes)?.into_iter().map(Update::Dense).collect()),
    }
}
