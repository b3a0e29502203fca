//! The sparse update: SparseLoCo's top-k of each tile with values of a few bits, and its canonical wire format.
//!
//! # The update
//! Every tensor of the layout is there once, in layout order. It is cut into tiles ([`tiles`]), and of each tile exactly
//! [`kept`] values are kept, so no count is ever written. A kept value is a code of 1, 2 or 4 bits (the run's manifest says
//! which) that stands for one of the tensor's levels. The rules that leave one update one encoding:
//! - indices ascend within a tile, and tiles follow one another; an empty tensor keeps nothing;
//! - a level is an f32 whose lower 16 bits are zero (bfloat16), finite, and not −0;
//! - the levels of the codes that occur ascend strictly; a code that doesn't occur has level +0 (bits 0).
//!
//! # Format, version 2
//! ```text
//! magic "L4SU" | version 2: u8 | words of the rows: u32 | words of the columns: u32 | rows | columns | codes
//! ```
//! All integers are little-endian. Rows, columns and codes are the words (u32) of three range coders (64-bit range, 32-bit
//! words, carry into the words before, the whole low end written at the end), whose choices are, tensor by tensor (tensors
//! without values are left out):
//! 1. codes: for each code whether it occurs, and if so its level's upper 16 bits, most significant first: two halves of a
//!    byte that are learned, one byte evenly likely;
//! 2. tile by tile, for each row until all kept values are placed: in the rows how many it holds, in the columns which those
//!    are: one as one choice, several by halving the tile's width again and again and giving how many lie in the left half;
//! 3. after each tile, in the codes its codes, four bits of them in a choice.
//!
//! A count with one possible outcome is not coded. The probabilities are those of `model.rs`, starting afresh with each
//! payload. The decoder accepts exactly what an encoder writes: every sequence of choices is one update, and the coders'
//! final states and lengths are checked, which fixes the words.

use super::joint::{self, Earlier, Shared};
use super::model::Model;
use super::range::{Decoder, Encoder, Ending};
use super::walk::{self, Streams};
use super::{
    CodecParams, DecodeError, EncodeError, LevelFault, Levels, MAX_LEVELS, SparseTensor, SparseUpdate, TensorShape,
    VERSION, after_version, check_sparse, kept, kept_in, tiles,
};

/// The first bytes of an encoded sparse update.
pub const MAGIC: [u8; 4] = *b"L4SU";

const WORD_BYTES: usize = 4;
const HEADER_BYTES: usize = MAGIC.len() + 1 + 2 * WORD_BYTES;

/// Encodes a sparse update of a model with these tensors.
pub fn encode(params: &CodecParams, shapes: &[TensorShape], update: &SparseUpdate) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = MAGIC.to_vec();
    bytes.push(VERSION);
    write(params, shapes, &[update], &mut bytes)?;
    Ok(bytes)
}

/// Decodes a sparse update of a model with these tensors. Never panics, and accepts a byte string only if [`encode`] gives it
/// back.
pub fn decode(params: &CodecParams, shapes: &[TensorShape], bytes: &[u8]) -> Result<SparseUpdate, DecodeError> {
    check_sparse(params, shapes)?;
    let mut updates = read(params, shapes, 1, after_version(MAGIC, HEADER_BYTES, bytes)?)?;
    // One was asked for.
    Ok(updates.pop().unwrap_or_default())
}

/// The lengths of the streams and the streams of some updates of one model: tensor by tensor, of each tensor update by update,
/// with one set of probabilities. All but the first are coded beside those before them (`joint.rs`).
pub(super) fn write(
    params: &CodecParams,
    shapes: &[TensorShape],
    updates: &[&SparseUpdate],
    bytes: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    check_sparse(params, shapes)?;
    if let Some(update) = updates.iter().find(|update| update.tensors.len() != shapes.len()) {
        return Err(EncodeError::Tensors { expected: shapes.len(), found: update.tensors.len() });
    }
    let mut coders = Streams { rows: Encoder::new(), columns: Encoder::new(), codes: Encoder::new() };
    let (mut model, mut shared) = (Model::new(), Shared::new());
    for (at, shape) in shapes.iter().enumerate() {
        let mut earlier = Earlier::default();
        for (place, update) in updates.iter().enumerate() {
            let tensor = &update.tensors[at];
            check_positions(params, at, *shape, tensor)?;
            let mut used = used_codes(params, at, tensor)?;
            check_levels(&tensor.levels, &used).map_err(|fault| EncodeError::Levels { tensor: at, fault })?;
            if shape.numel() == 0 {
                continue;
            }
            let mut coded = tensor.clone();
            if earlier.is_empty() {
                walk::tensor(&mut coders, &mut model, params, *shape, &mut used, &mut coded);
            } else {
                let models = (&mut model, &mut shared);
                joint::tensor(&mut coders, models, params, *shape, &mut used, (&earlier, &mut coded));
            }
            if place + 1 < updates.len() {
                earlier.add(*shape, tensor);
            }
        }
    }
    let streams = coders.each().map(Encoder::finish);
    bytes.reserve(2 * WORD_BYTES + streams.iter().map(Vec::len).sum::<usize>());
    for counted in &streams[..2] {
        // A tensor has fewer than 2³¹ values, and a model that is in memory not nearly 2³² words of rows.
        bytes.extend_from_slice(&((counted.len() / WORD_BYTES) as u32).to_le_bytes());
    }
    streams.iter().for_each(|stream| bytes.extend_from_slice(stream));
    Ok(())
}

/// What [`write`] wrote, and nothing else. The memory that it takes is that of so many updates, whatever the bytes say, and it
/// stops at the first tensor that they don't reach.
pub(super) fn read(
    params: &CodecParams,
    shapes: &[TensorShape],
    updates: usize,
    bytes: &[u8],
) -> Result<Vec<SparseUpdate>, DecodeError> {
    check_sparse(params, shapes)?;
    let Streams { rows, columns, codes } = split(bytes)?;
    let mut coders = Streams { rows: Decoder::new(rows), columns: Decoder::new(columns), codes: Decoder::new(codes) };
    let mut models = (Model::new(), Shared::new());
    let mut decoded = vec![SparseUpdate::default(); updates];
    for (at, shape) in shapes.iter().enumerate() {
        let mut earlier = Earlier::default();
        for (place, update) in decoded.iter_mut().enumerate() {
            let tensor = read_tensor(params, at, *shape, &mut coders, &mut models, &earlier)?;
            if place + 1 < updates && shape.numel() > 0 {
                earlier.add(*shape, &tensor);
            }
            update.tensors.push(tensor);
        }
    }
    for ending in coders.each().map(|coder| coder.ending()) {
        match ending {
            Ending::Exact => {}
            Ending::Truncated => return Err(DecodeError::Truncated),
            Ending::Trailing => return Err(DecodeError::Trailing),
            Ending::NotCanonical => return Err(DecodeError::NotCanonical),
        }
    }
    Ok(decoded)
}

fn read_tensor(
    params: &CodecParams,
    at: usize,
    shape: TensorShape,
    coders: &mut Streams<Decoder<'_>>,
    (model, shared): &mut (Model, Shared),
    earlier: &Earlier,
) -> Result<SparseTensor, DecodeError> {
    let mut tensor = SparseTensor::default();
    if shape.numel() == 0 {
        return Ok(tensor);
    }
    let kept = kept_in(shape, params) as usize;
    tensor.indices = vec![0; kept];
    tensor.codes = vec![0; kept];
    let mut used = [false; MAX_LEVELS];
    if earlier.is_empty() {
        walk::tensor(coders, model, params, shape, &mut used, &mut tensor);
    } else {
        joint::tensor(coders, (model, shared), params, shape, &mut used, (earlier, &mut tensor));
    }
    let Streams { rows, columns, codes } = coders;
    if [&rows, &columns, &codes].into_iter().any(|coder| coder.overrun()) {
        return Err(DecodeError::Truncated);
    }
    if [&rows, &columns, &codes].into_iter().any(|coder| coder.outside()) {
        return Err(DecodeError::NotCanonical);
    }
    check_decoded_levels(&tensor, &used).map_err(|fault| DecodeError::Levels { tensor: at, fault })?;
    Ok(tensor)
}

/// How long the parts of an encoded update are, in bytes: of its header, and of its rows, columns and codes. For measuring;
/// looks at the header only.
pub fn part_bytes(bytes: &[u8]) -> Result<[usize; 4], DecodeError> {
    let streams = split(after_version(MAGIC, HEADER_BYTES, bytes)?)?.each().map(<[u8]>::len);
    Ok([HEADER_BYTES, streams[0], streams[1], streams[2]])
}

/// The streams, by their lengths.
fn split(bytes: &[u8]) -> Result<Streams<&[u8]>, DecodeError> {
    let (lengths, body) = bytes.split_at_checked(2 * WORD_BYTES).ok_or(DecodeError::Truncated)?;
    let stream_bytes = |at: usize| {
        let words = u32::from_le_bytes([lengths[at], lengths[at + 1], lengths[at + 2], lengths[at + 3]]);
        usize::try_from(words).ok().and_then(|words| words.checked_mul(WORD_BYTES)).ok_or(DecodeError::Truncated)
    };
    let (rows, body) = body.split_at_checked(stream_bytes(0)?).ok_or(DecodeError::Truncated)?;
    let (columns, codes) = body.split_at_checked(stream_bytes(WORD_BYTES)?).ok_or(DecodeError::Truncated)?;
    Ok(Streams { rows, columns, codes })
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
        let mut least = tile.first;
        for index in rest.by_ref().take(kept(params, tile.numel()) as usize) {
            if *index < least || tile.row_col(*index).is_none() {
                return Err(EncodeError::Index { tensor: at, index: *index });
            }
            least = *index + 1;
        }
    }
    Ok(())
}

fn used_codes(params: &CodecParams, at: usize, tensor: &SparseTensor) -> Result<[bool; MAX_LEVELS], EncodeError> {
    let mut used = [false; MAX_LEVELS];
    let known = 1 << params.value_bits;
    for code in &tensor.codes {
        match used[..known].get_mut(usize::from(*code)) {
            Some(used) => *used = true,
            None => return Err(EncodeError::Code { tensor: at, code: *code }),
        }
    }
    Ok(used)
}

/// As [`check_levels`], for codes that a payload says are used.
fn check_decoded_levels(tensor: &SparseTensor, said: &[bool; MAX_LEVELS]) -> Result<(), LevelFault> {
    let mut used = [false; MAX_LEVELS];
    for code in &tensor.codes {
        used[usize::from(*code)] = true;
    }
    if used != *said {
        return Err(LevelFault::Unused);
    }
    check_levels(&tensor.levels, &used)
}

fn check_levels(levels: &Levels, used: &[bool; MAX_LEVELS]) -> Result<(), LevelFault> {
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
