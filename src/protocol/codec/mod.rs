//! The sparse update: SparseLoCo's top-k of each tile with 2-bit values, and its canonical wire format.
//!
//! Floats appear as their bits only, and all arithmetic is on integers. A decoder meets hostile bytes: what it allocates
//! and how long it works is decided by the run's shapes, never by the payload.
//!
//! # The update
//! Every tensor of the layout is there once, in layout order. It is cut into tiles ([`tiles`]), and of each tile exactly
//! [`kept`] values are kept, so no count is ever written. A kept value is a 2-bit code that stands for one of the tensor's
//! four levels. The rules that leave one update one encoding:
//! - indices ascend within a tile, and tiles follow one another; an empty tensor keeps nothing;
//! - a level is an f32 whose lower 16 bits are zero (bfloat16), finite, and not −0;
//! - the levels of the codes that occur ascend strictly; a code that doesn't occur has level +0 (bits 0).
//!
//! # Format, version 1
//! ```text
//! magic "L4SU" | version 1: u8 | words: u32 little-endian …
//! ```
//! The words are the output of a binary range coder (64-bit range, 32-bit words, carry into the words before, the whole
//! low end written at the end) whose decisions are, tensor by tensor (tensors without values are left out):
//! 1. for each code whether it occurs, and if so its level's upper 16 bits, most significant first: eight with an adaptive
//!    tree, eight evenly likely;
//! 2. tile by tile, for each row until all kept values are placed: how many it holds, in unary; their columns, by halving
//!    the tile's width again and again and giving how many lie in the left half, in unary; then their codes, high bit first.
//!
//! A decision with one possible outcome is not coded. The probabilities are those of `model.rs`, starting afresh with each
//! payload. The decoder accepts exactly what an encoder writes: every sequence of decisions is one update, and the coder's
//! final state and length are checked, which fixes the words.

mod model;
mod range;
mod tiles;
mod walk;

#[cfg(test)]
mod tests;

pub use tiles::{Tile, kept, kept_in, tiles};

use self::model::Model;
use self::range::{Decoder, Encoder, Ending};
use super::manifest::CodecParams;

/// The first bytes of an encoded update.
pub const MAGIC: [u8; 4] = *b"L4SU";
/// The wire format's version.
pub const VERSION: u8 = 1;
/// Largest tile side that is supported.
pub const MAX_TILE: u32 = 256;
/// Most values of one tensor, so that neither a flat index nor a count of choices overflows.
pub const MAX_NUMEL: u32 = i32::MAX as u32;

const HEADER_BYTES: usize = MAGIC.len() + 1;

/// The f32 levels of a tensor, as bits: code c stands for the value `levels[c]`.
pub type Levels = [u32; 4];

/// One tensor's kept values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SparseTensor {
    /// Quantisation levels: bfloat16 values as f32 bits, strictly ascending over the codes that occur, 0 for the others.
    pub levels: Levels,
    /// Flat row-major positions in the tensor, tile after tile, increasing within a tile.
    pub indices: Vec<u32>,
    /// The 2-bit code of each index.
    pub codes: Vec<u8>,
}

/// A decoded update: one entry a tensor, in layout order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SparseUpdate {
    /// In layout order.
    pub tensors: Vec<SparseTensor>,
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

/// Settings that no update can be coded with: a mistake in the run's manifest or model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnsupportedParams {
    /// Another version of the format.
    #[error("codec version {0} is not supported, only {VERSION}")]
    Version(u32),
    /// The tile's side is out of range.
    #[error("a tile of {0} × {0} is not supported: its side must be 1 to {MAX_TILE}")]
    Tile(u32),
    /// k is out of range.
    #[error("{k} values can't be kept of a tile of {tile} × {tile}")]
    Kept {
        /// Values to keep.
        k: u32,
        /// The tile's side.
        tile: u32,
    },
    /// A tensor is too large.
    #[error("tensor {tensor} has {numel} values; at most {MAX_NUMEL} are supported")]
    Numel {
        /// Its place in the layout.
        tensor: usize,
        /// How many values it has.
        numel: u64,
    },
}

/// Checks that updates of these shapes can be coded with these parameters.
pub fn check_params(params: &CodecParams, shapes: &[TensorShape]) -> Result<(), UnsupportedParams> {
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

/// What is wrong with a tensor's levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LevelFault {
    /// NaN or infinite.
    #[error("a level is not finite")]
    NotFinite,
    /// More precise than bfloat16.
    #[error("a level has more than bfloat16's precision")]
    TooPrecise,
    /// −0.
    #[error("a level is −0")]
    NegativeZero,
    /// Not in strictly ascending order over the codes that occur.
    #[error("the levels don't ascend")]
    NotAscending,
    /// A code that doesn't occur has a level.
    #[error("a code that doesn't occur has a level")]
    Unused,
}

/// Why an update can't be encoded. Every one of them is a mistake of the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The settings.
    #[error(transparent)]
    Params(#[from] UnsupportedParams),
    /// Not one entry a tensor.
    #[error("the update has {found} tensors, the model {expected}")]
    Tensors {
        /// The model's.
        expected: usize,
        /// The update's.
        found: usize,
    },
    /// Not as many indices or codes as the tensor keeps.
    #[error("tensor {tensor} has {indices} indices and {codes} codes; it keeps {kept}")]
    Kept {
        /// Its place in the layout.
        tensor: usize,
        /// Values to keep.
        kept: u64,
        /// Indices found.
        indices: usize,
        /// Codes found.
        codes: usize,
    },
    /// An index that isn't in its tile, or not above the one before.
    #[error("tensor {tensor}: index {index} is not in its tile or out of order")]
    Index {
        /// Its place in the layout.
        tensor: usize,
        /// The index.
        index: u32,
    },
    /// A code above 3.
    #[error("tensor {tensor}: {code} is not a 2-bit code")]
    Code {
        /// Its place in the layout.
        tensor: usize,
        /// The code.
        code: u8,
    },
    /// The levels break a rule.
    #[error("tensor {tensor}: {fault}")]
    Levels {
        /// Its place in the layout.
        tensor: usize,
        /// The rule.
        fault: LevelFault,
    },
}

/// Why bytes are not an update of the given shapes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The settings, not the bytes.
    #[error(transparent)]
    Params(#[from] UnsupportedParams),
    /// It doesn't start like an update.
    #[error("this is not a sparse update: the magic bytes are missing")]
    Magic,
    /// Written in another version of the format.
    #[error("sparse update of version {0}; only {VERSION} can be read")]
    Version(u8),
    /// It ends too early.
    #[error("the sparse update is truncated")]
    Truncated,
    /// It goes on after its end.
    #[error("the sparse update is followed by other bytes")]
    Trailing,
    /// Not the bytes that its own contents encode to.
    #[error("the sparse update is not in its canonical encoding")]
    NotCanonical,
    /// The levels break a rule.
    #[error("tensor {tensor}: {fault}")]
    Levels {
        /// Its place in the layout.
        tensor: usize,
        /// The rule.
        fault: LevelFault,
    },
}

impl DecodeError {
    /// A stable name for verdicts and logs.
    pub fn code(&self) -> &'static str {
        match self {
            DecodeError::Params(_) => "unsupported_params",
            DecodeError::Magic => "bad_magic",
            DecodeError::Version(_) => "unknown_version",
            DecodeError::Truncated => "truncated",
            DecodeError::Trailing => "trailing_bytes",
            DecodeError::NotCanonical => "not_canonical",
            DecodeError::Levels { fault, .. } => match fault {
                LevelFault::NotFinite => "level_not_finite",
                LevelFault::TooPrecise => "level_too_precise",
                LevelFault::NegativeZero => "level_negative_zero",
                LevelFault::NotAscending => "levels_not_ascending",
                LevelFault::Unused => "unused_level",
            },
        }
    }
}

/// Encodes an update of a model with these tensors.
pub fn encode(params: &CodecParams, shapes: &[TensorShape], update: &SparseUpdate) -> Result<Vec<u8>, EncodeError> {
    check_params(params, shapes)?;
    if update.tensors.len() != shapes.len() {
        return Err(EncodeError::Tensors { expected: shapes.len(), found: update.tensors.len() });
    }
    let mut coder = Encoder::new();
    let mut model = Model::new();
    for (at, (shape, tensor)) in shapes.iter().zip(&update.tensors).enumerate() {
        check_positions(params, at, *shape, tensor)?;
        let mut used = used_codes(at, tensor)?;
        check_levels(&tensor.levels, &used).map_err(|fault| EncodeError::Levels { tensor: at, fault })?;
        if shape.numel() > 0 {
            walk::tensor(&mut coder, &mut model, params, *shape, &mut used, &mut tensor.clone());
        }
    }
    let words = coder.finish();
    let mut bytes = Vec::with_capacity(HEADER_BYTES + 4 * words.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.push(VERSION);
    bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    Ok(bytes)
}

/// Decodes an update of a model with these tensors. Never panics, and accepts a byte string only if [`encode`] gives it
/// back.
pub fn decode(params: &CodecParams, shapes: &[TensorShape], bytes: &[u8]) -> Result<SparseUpdate, DecodeError> {
    check_params(params, shapes)?;
    let (header, body) = bytes.split_at_checked(HEADER_BYTES).ok_or(DecodeError::Truncated)?;
    if header[..MAGIC.len()] != MAGIC {
        return Err(DecodeError::Magic);
    }
    if header[MAGIC.len()] != VERSION {
        return Err(DecodeError::Version(header[MAGIC.len()]));
    }
    let mut coder = Decoder::new(body);
    let mut model = Model::new();
    let mut tensors = Vec::with_capacity(shapes.len());
    for (at, shape) in shapes.iter().enumerate() {
        let mut tensor = SparseTensor::default();
        if shape.numel() > 0 {
            let kept = kept_in(*shape, params) as usize;
            tensor.indices = vec![0; kept];
            tensor.codes = vec![0; kept];
            let mut used = [false; 4];
            walk::tensor(&mut coder, &mut model, params, *shape, &mut used, &mut tensor);
            if coder.overrun() {
                return Err(DecodeError::Truncated);
            }
            check_decoded_levels(&tensor, &used).map_err(|fault| DecodeError::Levels { tensor: at, fault })?;
        }
        tensors.push(tensor);
    }
    match coder.ending() {
        Ending::Exact => Ok(SparseUpdate { tensors }),
        Ending::Truncated => Err(DecodeError::Truncated),
        Ending::Trailing => Err(DecodeError::Trailing),
        Ending::NotCanonical => Err(DecodeError::NotCanonical),
    }
}

fn check_positions(
    params: &CodecParams,
    at: usize,
    shape: TensorShape,
    tensor: &SparseTensor,
) -> Result<(), EncodeError> {
    let kept_values = kept_in(shape, params);
    let (indices, codes) = (tensor.indices.len(), tensor.codes.len());
    if indices as u64 != kept_values || codes as u64 != kept_values {
        return Err(EncodeError::Kept { tensor: at, kept: kept_values, indices, codes });
    }
    let mut rest = tensor.indices.iter();
    for tile in tiles(shape, params) {
        let mut above = None;
        for index in rest.by_ref().take(kept(params, tile.numel()) as usize) {
            if tile.position(*index).is_none() || above.is_some_and(|last| last >= *index) {
                return Err(EncodeError::Index { tensor: at, index: *index });
            }
            above = Some(*index);
        }
    }
    Ok(())
}

fn used_codes(at: usize, tensor: &SparseTensor) -> Result<[bool; 4], EncodeError> {
    let mut used = [false; 4];
    for code in &tensor.codes {
        *used.get_mut(usize::from(*code)).ok_or(EncodeError::Code { tensor: at, code: *code })? = true;
    }
    Ok(used)
}

/// As [`check_levels`], for codes that a payload says are used.
fn check_decoded_levels(tensor: &SparseTensor, said: &[bool; 4]) -> Result<(), LevelFault> {
    let mut used = [false; 4];
    for code in &tensor.codes {
        used[usize::from(*code)] = true;
    }
    if used != *said {
        return Err(LevelFault::Unused);
    }
    check_levels(&tensor.levels, &used)
}

fn check_levels(levels: &Levels, used: &[bool; 4]) -> Result<(), LevelFault> {
    let mut above = None;
    for (level, used) in levels.iter().zip(used) {
        if !used {
            if *level != 0 {
                return Err(LevelFault::Unused);
            }
            continue;
        }
        if level & 0xffff != 0 {
            return Err(LevelFault::TooPrecise);
        }
        if level & 0x7f80_0000 == 0x7f80_0000 {
            return Err(LevelFault::NotFinite);
        }
        if *level == 1 << 31 {
            return Err(LevelFault::NegativeZero);
        }
        // Maps the bits of finite floats to integers in the same order.
        let order = if level >> 31 == 1 { !level } else { level | 1 << 31 };
        if above.is_some_and(|last| last >= order) {
            return Err(LevelFault::NotAscending);
        }
        above = Some(order);
    }
    Ok(())
}
