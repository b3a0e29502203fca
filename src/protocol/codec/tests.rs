use proptest::prelude::*;

use super::sparse::{MAGIC, decode, encode, read, write};
use super::*;

const PARAMS: CodecParams = CodecParams { version: 2, tile: 64, k: 64, value_bits: 2 };

/// Small numbers from a seed (xorshift64*), so that a failing case is its seed.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % u64::from(bound)) as u32
    }
}

/// Any valid update of these shapes; `bias` makes low rows and columns likelier.
fn update(params: &CodecParams, shapes: &[TensorShape], seed: u64, bias: u32) -> SparseUpdate {
    let mut draw = Draw(seed.wrapping_mul(2).wrapping_add(1));
    let tensors = shapes.iter().map(|shape| {
        let mut tensor = SparseTensor::default();
        for tile in tiles(*shape, params) {
            let mut positions = std::collections::BTreeSet::new();
            while positions.len() < kept(params, tile.numel()) as usize {
                let place = |draw: &mut Draw, len| (0..bias).fold(draw.below(len), |at, _| at.min(draw.below(len)));
                positions.insert(place(&mut draw, tile.rows) * tile.cols + place(&mut draw, tile.cols));
            }
            tensor.indices.extend(positions.iter().map(|position| tile.flat(*position)));
        }
        let known = 1 << params.value_bits;
        let codes = draw.below(1 << known);
        let allowed: Vec<u8> = (0..known as u8).filter(|code| codes >> code & 1 == 1 || codes == 0).collect();
        tensor.codes = tensor.indices.iter().map(|_| allowed[draw.below(allowed.len() as u32) as usize]).collect();
        for code in &tensor.codes {
            // Ascending over all codes there are; 0xbf80 is −1, 0x3f80 is 1.
            let upper = if *code < known as u8 / 2 { 0xbf90 - u32::from(*code) } else { 0x3f80 + 3 * u32::from(*code) };
            tensor.levels[usize::from(*code)] = upper << 16;
        }
        tensor
    });
    SparseUpdate { tensors: tensors.collect() }
}

fn shape() -> impl Strategy<Value = TensorShape> {
    prop_oneof![
        (0u32..300).prop_map(|len| TensorShape::Vector { len }),
        (0u32..150, 0u32..150).prop_map(|(rows, cols)| TensorShape::Matrix { rows, cols }),
    ]
}

fn params() -> impl Strategy<Value = CodecParams> {
    prop_oneof![
        3 => Just(PARAMS),
        1 => (1u32..20, any::<u32>(), 0u32..3).prop_map(|(tile, k, bits)| CodecParams {
            version: 2,
            tile,
            k: 1 + k % (tile * tile),
            value_bits: 1 << bits,
        }),
        1 => (0u32..3).prop_map(|bits| CodecParams { value_bits: 1 << bits, ..PARAMS }),
    ]
}

/// Decodes hostile bytes: an error, or an update that encodes to the same bytes.
fn decodes_canonically(params: &CodecParams, shapes: &[TensorShape], bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(update) = decode(params, shapes, bytes) {
        let again = encode(params, shapes, &update);
        prop_assert_eq!(again.as_deref(), Ok(bytes));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_update_survives_the_round_trip(
        params in params(),
        shapes in proptest::collection::vec(shape(), 0..4),
        seed in any::<u64>(),
        bias in 0u32..3,
    ) {
        let update = update(&params, &shapes, seed, bias);
        let bytes = encode(&params, &shapes, &update).expect("a valid update");
        prop_assert_eq!(decode(&params, &shapes, &bytes), Ok(update));
    }

    #[test]
    fn changed_bytes_never_decode_to_an_update_with_other_bytes(
        params in params(),
        shapes in proptest::collection::vec(shape(), 1..3),
        seed in any::<u64>(),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = encode(&params, &shapes, &update(&params, &shapes, seed, 0)).expect("a valid update");
        for (at, change) in changes {
            let at = at.index(bytes.len());
            bytes[at] ^= change;
        }
        decodes_canonically(&params, &shapes, &bytes)?;
    }

    /// Few seeds, so that some updates are the same and many share places.
    #[test]
    fn updates_that_are_coded_together_survive_and_have_one_encoding(
        params in params(),
        shapes in proptest::collection::vec(shape(), 0..3),
        seeds in proptest::collection::vec(0u64..4, 1..5),
        bias in 0u32..4,
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let updates: Vec<SparseUpdate> = seeds.iter().map(|seed| update(&params, &shapes, *seed, bias)).collect();
        let together = |updates: &[SparseUpdate]| {
            let mut bytes = Vec::new();
            write(&params, &shapes, &updates.iter().collect::<Vec<_>>(), &mut bytes).expect("valid updates");
            bytes
        };
        let mut bytes = together(&updates);
        let again = read(&params, &shapes, updates.len(), &bytes);
        prop_assert_eq!(again.as_ref(), Ok(&updates));
        for (at, change) in changes {
            let at = at.index(bytes.len());
            bytes[at] ^= change;
            if let Ok(other) = read(&params, &shapes, updates.len(), &bytes) {
                prop_assert_eq!(together(&other), bytes.clone());
            }
        }
    }

    #[test]
    fn random_bytes_never_panic(
        params in params(),
        shapes in proptest::collection::vec(shape(), 0..3),
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        with_header in proptest::bool::weighted(0.9),
    ) {
        if with_header {
            let stream = (bytes.len() / 12) as u8;
            bytes.splice(0..0, MAGIC.into_iter().chain([VERSION, stream, 0, 0, 0, stream, 0, 0, 0]));
        }
        decodes_canonically(&params, &shapes, &bytes)?;
    }
}

const SHAPES: [TensorShape; 3] = [
    TensorShape::Matrix { rows: 70, cols: 66 },
    TensorShape::Vector { len: 100 },
    TensorShape::Matrix { rows: 64, cols: 64 },
];

#[test]
fn a_truncated_update_is_refused_at_every_byte() {
    for seed in 0..8 {
        let bytes = encode(&PARAMS, &SHAPES, &update(&PARAMS, &SHAPES, seed, 0)).expect("a valid update");
        for len in 0..bytes.len() {
            assert_eq!(decode(&PARAMS, &SHAPES, &bytes[..len]), Err(DecodeError::Truncated), "{len} bytes");
        }
    }
}

#[test]
fn a_byte_after_the_end_is_refused() {
    let mut bytes = encode(&PARAMS, &SHAPES, &update(&PARAMS, &SHAPES, 1, 0)).expect("a valid update");
    for extra in 1..=9 {
        bytes.push(0);
        assert_eq!(decode(&PARAMS, &SHAPES, &bytes), Err(DecodeError::Trailing), "{extra} bytes");
    }
}

#[test]
fn every_flipped_bit_is_refused_or_is_another_update() {
    let update = update(&PARAMS, &SHAPES, 3, 1);
    let mut bytes = encode(&PARAMS, &SHAPES, &update).expect("a valid update");
    for bit in 0..8 * bytes.len() {
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(other) = decode(&PARAMS, &SHAPES, &bytes) {
            assert_ne!(other, update, "bit {bit}");
            assert_eq!(encode(&PARAMS, &SHAPES, &other).as_ref(), Ok(&bytes), "bit {bit}");
        }
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn the_one_start_that_no_encoder_writes_is_refused() {
    let good = [&MAGIC[..], &[VERSION, 2, 0, 0, 0, 2, 0, 0, 0], &[0; 24]].concat();
    assert_eq!(decode(&PARAMS, &[], &good), Ok(SparseUpdate::default()));
    for stream in 0..3 {
        let mut bytes = good.clone();
        bytes[13 + 8 * stream..][..8].fill(0xff);
        assert_eq!(decode(&PARAMS, &[], &bytes), Err(DecodeError::NotCanonical));
    }
}

#[test]
fn a_foreign_header_is_named() {
    let mut bytes = encode(&PARAMS, &[], &SparseUpdate::default()).expect("a valid update");
    bytes[4] = 1;
    assert_eq!(decode(&PARAMS, &[], &bytes), Err(DecodeError::Version(1)));
    bytes[0] = b'l';
    assert_eq!(decode(&PARAMS, &[], &bytes), Err(DecodeError::Magic));
}

/// Encodes a valid update after a change, which must be refused.
fn refused(change: impl FnOnce(&mut SparseUpdate)) -> EncodeError {
    let shapes = [TensorShape::Matrix { rows: 64, cols: 128 }];
    let mut update = update(&PARAMS, &shapes, 5, 0);
    let tensor = &mut update.tensors[0];
    tensor.codes = (0..128).map(|at| at % 2 * 2).collect();
    tensor.levels = levels(&[0xbf80_0000, 0, 0x3f80_0000, 0]);
    change(&mut update);
    encode(&PARAMS, &shapes, &update).expect_err("the change breaks a rule")
}

#[test]
fn an_update_outside_the_rules_is_not_encoded() {
    let fault = |fault| EncodeError::Levels { tensor: 0, fault };
    let level = |code: usize, bits: u32| refused(move |update| update.tensors[0].levels[code] = bits);
    assert_eq!(level(1, 0x3f00_0000), fault(LevelFault::Unused));
    assert_eq!(level(2, 0x3f80_0001), fault(LevelFault::TooPrecise));
    assert_eq!(level(2, 0x7f80_0000), fault(LevelFault::NotFinite));
    assert_eq!(level(2, 0x7fc0_0000), fault(LevelFault::NotFinite));
    assert_eq!(level(2, 0x8000_0000), fault(LevelFault::NegativeZero));
    assert_eq!(level(2, 0xbf80_0000), fault(LevelFault::NotAscending));
    assert_eq!(level(2, 0xbf81_0000), fault(LevelFault::NotAscending));

    assert!(matches!(refused(|update| update.tensors[0].codes[7] = 4), EncodeError::Code { tensor: 0, code: 4 }));
    assert!(matches!(refused(|update| update.tensors[0].indices.swap(3, 4)), EncodeError::Index { tensor: 0, .. }));
    assert!(matches!(
        refused(|update| update.tensors[0].indices[1] = update.tensors[0].indices[0]),
        EncodeError::Index { tensor: 0, .. }
    ));
    // The last index of the first tile, moved into the second.
    assert_eq!(
        refused(|update| update.tensors[0].indices[63] = 63 * 128 + 64),
        EncodeError::Index { tensor: 0, index: 63 * 128 + 64 }
    );
    let short = refused(|update| update.tensors[0].indices.truncate(127));
    assert_eq!(short, EncodeError::Kept { tensor: 0, kept: 128, indices: 127, codes: 128 });
    let many = refused(|update| update.tensors.push(SparseTensor::default()));
    assert_eq!(many, EncodeError::Tensors { expected: 1, found: 2 });
}

#[test]
fn settings_that_no_update_can_have_are_refused() {
    let check = |version, tile, k, value_bits| check_params(&CodecParams { version, tile, k, value_bits }, &[]);
    assert_eq!(check(1, 64, 64, 2), Err(UnsupportedParams::Version(1)));
    assert_eq!(check(2, 0, 1, 2), Err(UnsupportedParams::Tile(0)));
    assert_eq!(check(2, 257, 1, 2), Err(UnsupportedParams::Tile(257)));
    assert_eq!(check(2, 8, 65, 2), Err(UnsupportedParams::Kept { k: 65, tile: 8 }));
    assert_eq!(check(2, 8, 0, 2), Err(UnsupportedParams::Kept { k: 0, tile: 8 }));
    assert_eq!(check(2, 256, 65_536, 4), Ok(()));
    assert_eq!(check(2, 64, 64, 8), Err(UnsupportedParams::NotAll { k: 64, tile: 64 }));
    assert_eq!(check(2, 64, 4096, 8), Ok(()));
    for value_bits in [0, 3, 5, 16, u32::MAX] {
        assert_eq!(check(2, 64, 64, value_bits), Err(UnsupportedParams::ValueBits(value_bits)));
    }
    let huge = TensorShape::Matrix { rows: u32::MAX, cols: u32::MAX };
    assert!(matches!(check_params(&PARAMS, &[huge]), Err(UnsupportedParams::Numel { tensor: 0, .. })));
    assert_eq!(decode(&PARAMS, &[huge], b"").map_err(|e| e.code()), Err("unsupported_params"));
}

#[test]
fn random_places_and_even_codes_cost_about_their_entropy() {
    let shapes = [TensorShape::Matrix { rows: 640, cols: 640 }];
    let mut update = update(&PARAMS, &shapes, 9, 0);
    let tensor = &mut update.tensors[0];
    let mut draw = Draw(77);
    tensor.codes.iter_mut().for_each(|code| *code = draw.below(4) as u8);
    tensor.levels = levels(&[0xbf90_0000, 0xbf80_0000, 0x3f80_0000, 0x3f90_0000]);
    let bits = 8.0 * encode(&PARAMS, &shapes, &update).expect("a valid update").len() as f64;
    // log2 C(4096, 64) / 64 = 7.364 bits of place and 2 of code.
    let per_value = bits / 6400.0;
    assert!(per_value > 9.30 && per_value < 9.60, "{per_value} bits a value");
}
