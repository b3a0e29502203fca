//! The dense update: every value of the pseudo-gradient in 8 bits, with one scale for each tile, and its canonical wire format.
//!
//! For runs that would rather send more than leave anything out (DiLoCo with group quantisation). A tile of s × s values is
//! the group: small ones (16: 256 values) follow a tensor's rows and columns of larger values, at 16 bits a tile.
//!
//! A value is its code's distance from 128 times its tile's scale. The scale has 8 significant bits and the distance 7, so
//! the product is exact in f32, on every machine, in any order of evaluation.
//!
//! # Format, version 2
//! ```text
//! magic "L4DU" | version 2: u8 | tensor …
//! tensor: the scales of its tiles: u16 … | the codes of its values, row by row: u8 …
//! ```
//! Integers are little-endian. The rules that leave one set of values one encoding:
//! - a scale is a bfloat16: 0, or from the smallest normal one to the largest of which 127 times is finite; never negative;
//! - code 0 doesn't occur, so that every value has its opposite;
//! - in a tile with a scale, some code is 1 or 255: its largest value decides the scale; without, all are 128.

use super::{
    CodecParams, DecodeError, DenseTensor, DenseUpdate, EncodeError, TensorShape, Tile, TileFault, VERSION,
    after_version, check_dense, tiles_of,
};

/// The first bytes of an encoded dense update.
pub const MAGIC: [u8; 4] = *b"L4DU";
/// The code of 0.
pub const ZERO: u8 = 128;
/// The bfloat16 bits of the smallest scale, 2⁻¹²⁶.
pub const MIN_SCALE: u16 = 0x0080;
/// The bfloat16 bits of the largest scale: 127 times it is below 2¹²⁸.
pub const MAX_SCALE: u16 = 0x7c01;

const HEADER_BYTES: usize = MAGIC.len() + 1;
const SCALE_BYTES: usize = 2;

/// Encodes a dense update of a model with these tensors.
pub fn encode(params: &CodecParams, shapes: &[TensorShape], update: &DenseUpdate) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = [&MAGIC[..], &[VERSION]].concat();
    write(params, shapes, update, &mut bytes)?;
    Ok(bytes)
}

/// Decodes a dense update of a model with these tensors. Never panics, and accepts a byte string only if [`encode`] gives it
/// back.
pub fn decode(params: &CodecParams, shapes: &[TensorShape], bytes: &[u8]) -> Result<DenseUpdate, DecodeError> {
    check_dense(params, shapes)?;
    let mut rest = after_version(MAGIC, HEADER_BYTES, bytes)?;
    let update = read_one(params, shapes, &mut rest)?;
    if rest.is_empty() { Ok(update) } else { Err(DecodeError::Trailing) }
}

/// An update's tensors.
pub(super) fn write(
    params: &CodecParams,
    shapes: &[TensorShape],
    update: &DenseUpdate,
    bytes: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    check_dense(params, shapes)?;
    if update.tile != params.tile {
        return Err(EncodeError::TileSide { expected: params.tile, found: update.tile });
    }
    if update.tensors.len() != shapes.len() {
        return Err(EncodeError::Tensors { expected: shapes.len(), found: update.tensors.len() });
    }
    for (at, (shape, tensor)) in shapes.iter().zip(&update.tensors).enumerate() {
        let (tiles, numel) = (tile_count(*shape, params.tile), shape.numel());
        let (scales, codes) = (tensor.scales.len(), tensor.codes.len());
        if scales != tiles || codes as u64 != numel {
            return Err(EncodeError::Values { tensor: at, tiles, numel, scales, codes });
        }
        check_values(*shape, params.tile, tensor).map_err(|fault| EncodeError::Tile { tensor: at, fault })?;
        bytes.extend(tensor.scales.iter().flat_map(|scale| scale.to_le_bytes()));
        bytes.extend_from_slice(&tensor.codes);
    }
    Ok(())
}

/// The tensors of some updates, one update after the other, and nothing else.
pub(super) fn read(
    params: &CodecParams,
    shapes: &[TensorShape],
    updates: usize,
    bytes: &[u8],
) -> Result<Vec<DenseUpdate>, DecodeError> {
    check_dense(params, shapes)?;
    let mut rest = bytes;
    let all = (0..updates).map(|_| read_one(params, shapes, &mut rest)).collect::<Result<Vec<_>, _>>()?;
    if rest.is_empty() { Ok(all) } else { Err(DecodeError::Trailing) }
}

fn read_one(params: &CodecParams, shapes: &[TensorShape], rest: &mut &[u8]) -> Result<DenseUpdate, DecodeError> {
    let tensor = |(at, shape): (usize, &TensorShape)| read_tensor(params, at, *shape, rest);
    let tensors = shapes.iter().enumerate().map(tensor).collect::<Result<Vec<_>, _>>()?;
    Ok(DenseUpdate { tile: params.tile, tensors })
}

fn read_tensor(
    params: &CodecParams,
    at: usize,
    shape: TensorShape,
    rest: &mut &[u8],
) -> Result<DenseTensor, DecodeError> {
    // At most 2³¹ values, each with a tile of its own: no overflow.
    let scale_bytes = SCALE_BYTES * tile_count(shape, params.tile);
    let (scales, others) = rest.split_at_checked(scale_bytes).ok_or(DecodeError::Truncated)?;
    let (codes, others) = others.split_at_checked(shape.numel() as usize).ok_or(DecodeError::Truncated)?;
    *rest = others;
    let tensor = DenseTensor {
        scales: scales.chunks_exact(SCALE_BYTES).map(|scale| u16::from_le_bytes([scale[0], scale[1]])).collect(),
        codes: codes.to_vec(),
    };
    check_values(shape, params.tile, &tensor).map_err(|fault| DecodeError::Tile { tensor: at, fault })?;
    Ok(tensor)
}

/// The codes of one of a tile's rows.
fn row<'a>(tile: &Tile, codes: &'a [u8], row: u32) -> &'a [u8] {
    &codes[tile.at(row, 0) as usize..][..tile.cols as usize]
}

fn tile_count(shape: TensorShape, side: u32) -> usize {
    match shape {
        TensorShape::Vector { len } => len.div_ceil(side) as usize,
        TensorShape::Matrix { rows, cols } => rows.div_ceil(side) as usize * cols.div_ceil(side) as usize,
    }
}

/// The rules, of a tensor with as many scales and codes as its shape has.
fn check_values(shape: TensorShape, side: u32, tensor: &DenseTensor) -> Result<(), TileFault> {
    for (tile, scale) in tiles_of(shape, side).zip(&tensor.scales) {
        // The least and the largest code.
        let (mut least, mut largest) = (u8::MAX, 0);
        for at in 0..tile.rows {
            let codes = row(&tile, &tensor.codes, at);
            least = codes.iter().fold(least, |least, code| least.min(*code));
            largest = codes.iter().fold(largest, |largest, code| largest.max(*code));
        }
        if least == 0 {
            return Err(TileFault::Code);
        }
        let scaled = match scale {
            0 => least == ZERO && largest == ZERO,
            &(MIN_SCALE..=MAX_SCALE) => least == 1 || largest == u8::MAX,
            _ => return Err(TileFault::Scale),
        };
        if !scaled {
            return Err(TileFault::NotScaled);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{decode as decode_any, encode as encode_any};
    use super::*;
    use crate::protocol::codec::{SparseUpdate, Update};

    fn params(tile: u32) -> CodecParams {
        CodecParams { version: 2, tile, k: tile * tile, value_bits: 8 }
    }

    fn shapes() -> impl Strategy<Value = Vec<TensorShape>> {
        let shape = prop_oneof![
            (0u32..60).prop_map(|len| TensorShape::Vector { len }),
            (0u32..40, 0u32..40).prop_map(|(rows, cols)| TensorShape::Matrix { rows, cols }),
        ];
        proptest::collection::vec(shape, 0..4)
    }

    /// A valid update whose values come from a stream of numbers.
    fn update(tile: u32, shapes: &[TensorShape], numbers: &[u16]) -> DenseUpdate {
        let mut numbers = numbers.iter().copied().cycle();
        let mut next = || numbers.next().unwrap_or(0);
        let mut tensor = |shape: &TensorShape| {
            let mut tensor = DenseTensor { scales: Vec::new(), codes: vec![ZERO; shape.numel() as usize] };
            for tile in tiles_of(*shape, tile) {
                let scale = if next() % 4 == 0 { 0 } else { MIN_SCALE + next() % (MAX_SCALE - MIN_SCALE + 1) };
                tensor.scales.push(scale);
                if scale > 0 {
                    for position in 0..tile.numel() {
                        tensor.codes[tile.flat(position) as usize] = (next() % 255) as u8 + 1;
                    }
                    let extreme = if next() % 2 == 0 { 1 } else { u8::MAX };
                    tensor.codes[tile.flat(u32::from(next()) % tile.numel()) as usize] = extreme;
                }
            }
            tensor
        };
        DenseUpdate { tile, tensors: shapes.iter().map(&mut tensor).collect() }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn an_update_survives_the_round_trip_and_no_changed_byte_passes_for_it(
            tile in 1u32..20,
            shapes in shapes(),
            numbers in proptest::collection::vec(any::<u16>(), 1..50),
            (place, change) in (any::<proptest::sample::Index>(), 1u8..),
        ) {
            let (params, update) = (params(tile), Update::Dense(update(tile, &shapes, &numbers)));
            let mut bytes = encode_any(&params, &shapes, &update).expect("a valid update");
            prop_assert_eq!(decode_any(&params, &shapes, &bytes), Ok(update.clone()));
            let place = place.index(bytes.len());
            bytes[place] ^= change;
            if let Ok(other) = decode_any(&params, &shapes, &bytes) {
                prop_assert_ne!(&other, &update);
                prop_assert_eq!(encode_any(&params, &shapes, &other), Ok(bytes));
            }
        }

        #[test]
        fn random_bytes_never_panic(
            tile in 1u32..20,
            shapes in shapes(),
            body in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let bytes = [&MAGIC[..], &[VERSION], &body].concat();
            if let Ok(update) = decode(&params(tile), &shapes, &bytes) {
                prop_assert_eq!(encode(&params(tile), &shapes, &update), Ok(bytes));
            }
        }
    }

    #[test]
    fn a_truncated_or_longer_update_is_refused_at_every_byte() {
        let shapes = [TensorShape::Matrix { rows: 5, cols: 7 }, TensorShape::Vector { len: 6 }];
        let mut bytes = encode(&params(4), &shapes, &update(4, &shapes, &[7, 30_000, 9, 501])).expect("valid");
        for len in 0..bytes.len() {
            assert_eq!(decode(&params(4), &shapes, &bytes[..len]), Err(DecodeError::Truncated), "{len} bytes");
        }
        bytes.push(0);
        assert_eq!(decode(&params(4), &shapes, &bytes), Err(DecodeError::Trailing));
    }

    #[test]
    fn an_update_outside_the_rules_is_not_encoded() {
        let shapes = [TensorShape::Vector { len: 6 }];
        let good = DenseUpdate {
            tile: 4,
            tensors: vec![DenseTensor { scales: vec![0x3f80, 0], codes: vec![1, 128, 200, 254, 128, 128] }],
        };
        assert!(encode(&params(4), &shapes, &good).is_ok());
        let refused = |change: fn(&mut DenseUpdate)| {
            let mut update = good.clone();
            change(&mut update);
            encode(&params(4), &shapes, &update).expect_err("the change breaks a rule")
        };
        let fault = |fault| EncodeError::Tile { tensor: 0, fault };
        assert_eq!(refused(|update| update.tensors[0].scales[0] = MAX_SCALE + 1), fault(TileFault::Scale));
        assert_eq!(refused(|update| update.tensors[0].scales[0] = MIN_SCALE - 1), fault(TileFault::Scale));
        assert_eq!(refused(|update| update.tensors[0].scales[0] |= 1 << 15), fault(TileFault::Scale));
        assert_eq!(refused(|update| update.tensors[0].codes[5] = 0), fault(TileFault::Code));
        assert_eq!(refused(|update| update.tensors[0].codes[0] = 2), fault(TileFault::NotScaled));
        assert_eq!(refused(|update| update.tensors[0].codes[4] = 127), fault(TileFault::NotScaled));
        assert_eq!(refused(|update| update.tensors[0].scales[1] = 0x3f80), fault(TileFault::NotScaled));
        assert_eq!(refused(|update| update.tile = 5), EncodeError::TileSide { expected: 4, found: 5 });
        let values = EncodeError::Values { tensor: 0, tiles: 2, numel: 6, scales: 2, codes: 5 };
        assert_eq!(refused(|update| update.tensors[0].codes.truncate(5)), values);
        let tensors = EncodeError::Tensors { expected: 1, found: 0 };
        assert_eq!(refused(|update| update.tensors.clear()), tensors);
    }

    #[test]
    fn each_format_refuses_the_others_settings() {
        let dense = Update::Dense(DenseUpdate { tile: 16, tensors: Vec::new() });
        let sparse = CodecParams { version: 2, tile: 64, k: 64, value_bits: 2 };
        let told = encode_any(&sparse, &[], &dense).map_err(|error| error.to_string());
        assert_eq!(told, Err("the update is dense, the run's are sparse".into()));
        let told = encode_any(&params(16), &[], &SparseUpdate::default().into()).map_err(|error| error.to_string());
        assert_eq!(told, Err("the update is sparse, the run's are dense".into()));
        let bytes = encode_any(&params(16), &[], &dense).expect("valid");
        assert_eq!(decode_any(&sparse, &[], &bytes), Err(DecodeError::Truncated));
        assert_eq!(
            super::super::sparse::decode(&params(16), &[], &bytes).map_err(|e| e.code()),
            Err("unsupported_params")
        );
        assert_eq!(decode(&sparse, &[], &bytes).map_err(|e| e.code()), Err("unsupported_params"));
        let not_all = CodecParams { k: 255, ..params(16) };
        assert!(matches!(decode(&not_all, &[], &bytes), Err(DecodeError::Params(_))));
    }
}
