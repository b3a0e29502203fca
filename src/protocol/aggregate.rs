//! A round's aggregate: everything by which anyone makes the next checkpoint out of the round's own, to the bit. One small
//! file for everybody who was there, and the step between two checkpoints for a peer that missed rounds.
//!
//! It holds the accepted updates, in the order in which the outer step sums them, with their clip factors: coded together,
//! so that what they have in common (places, directions, probabilities) is written once. It holds no sums: where two updates
//! don't meet, which of all their levels a place holds says whose it was, and that is what the updates' own places say.
//!
//! # Format, version 1
//! ```text
//! magic "L4AG" | version 1: u8 | from: 32 bytes | to: 32 bytes | updates: u32 | clip factors, update by update
//!              | coded updates
//! clip factors: which tensors are clipped: one bit each, lowest first, in ⌈tensors ÷ 8⌉ bytes | their factors: u32 …
//! coded updates: as in the sparse update after its version, with all updates in one, tensor by tensor and of each tensor
//!                update by update, all but the first beside those before them (codec/joint.rs); dense ones without their
//!                headers, one after the other; nothing if there are none
//! ```
//! All integers are little-endian. A tensor that isn't clipped has factor 1; the factor of a clipped one is the bits of an f32
//! from 0 to below 1. So an aggregate has one encoding. A decoder knows the model and the most updates that a round takes, and
//! allocates for nothing else.

use super::codec::{self, DecodeError, EncodeError, TensorShape, Update};
use super::ids::Blake3Hash;
use super::manifest::CodecParams;

const MAGIC: [u8; 4] = *b"L4AG";
const VERSION: u8 = 1;
/// The bits of the factor of a tensor that isn't clipped.
pub const NOT_CLIPPED: u32 = 0x3f80_0000;

/// One accepted update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AggregatedUpdate {
    /// One f32, as bits, a tensor.
    pub clip: Vec<u32>,
    /// As it was sent.
    pub update: Update,
}

/// What a round does to its checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aggregate {
    /// The round's checkpoint.
    pub from: Blake3Hash,
    /// The next one.
    pub to: Blake3Hash,
    /// In the order of the outer step's sums; none if the checkpoint stays as it is.
    pub updates: Vec<AggregatedUpdate>,
}

/// Why bytes are not an aggregate of a run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAggregate {
    /// It doesn't start like one.
    #[error("this is not an aggregate: the magic bytes are missing")]
    Magic,
    /// Written in another version of the format.
    #[error("aggregate of version {0}; only {VERSION} can be read")]
    Version(u8),
    /// It ends too early.
    #[error("the aggregate is truncated")]
    Truncated,
    /// There is more than an aggregate without updates.
    #[error("the aggregate is followed by other bytes")]
    Trailing,
    /// More updates than a round takes.
    #[error("the aggregate has {found} updates, a round takes at most {most}")]
    Updates {
        /// What it says.
        found: u32,
        /// From the manifest.
        most: u32,
    },
    /// A tensor that the model doesn't have is said to be clipped.
    #[error("the aggregate clips a tensor that isn't there")]
    NoSuchTensor,
    /// A factor of a clipped tensor.
    #[error("the aggregate has a clip factor that is not from 0 to below 1: bits {0:08x}")]
    Factor(u32),
    /// The coded updates.
    #[error("the aggregate's updates: {0}")]
    Update(#[from] DecodeError),
}

impl Aggregate {
    /// Encodes it for a model of these shapes; every update has one clip factor a tensor.
    ///
    /// # Errors
    /// An update is not one of this model.
    pub fn to_bytes(&self, params: &CodecParams, shapes: &[TensorShape]) -> Result<Vec<u8>, EncodeError> {
        let mut bytes = [&MAGIC[..], &[VERSION], self.from.as_bytes(), self.to.as_bytes()].concat();
        // A round sells a u32 of tickets.
        bytes.extend_from_slice(&(self.updates.len() as u32).to_le_bytes());
        for update in &self.updates {
            if update.clip.len() != shapes.len() {
                return Err(EncodeError::Tensors { expected: shapes.len(), found: update.clip.len() });
            }
            let clipped = |factor: &u32| *factor != NOT_CLIPPED;
            let bits = |factors: &[u32]| (0..).zip(factors).fold(0, |bits, (at, f)| bits | u8::from(clipped(f)) << at);
            bytes.extend(update.clip.chunks(8).map(bits));
            bytes.extend(update.clip.iter().filter(|factor| clipped(factor)).flat_map(|factor| factor.to_le_bytes()));
        }
        if !self.updates.is_empty() {
            let updates: Vec<&Update> = self.updates.iter().map(|update| &update.update).collect();
            codec::write(params, shapes, &updates, &mut bytes)?;
        }
        Ok(bytes)
    }

    /// Decodes hostile bytes for a model of these shapes and rounds of at most `most_updates`.
    pub fn from_bytes(
        params: &CodecParams,
        shapes: &[TensorShape],
        most_updates: u32,
        bytes: &[u8],
    ) -> Result<Self, BadAggregate> {
        let mut rest = bytes;
        if take(&mut rest)? != MAGIC {
            return Err(BadAggregate::Magic);
        }
        let [version] = take(&mut rest)?;
        if version != VERSION {
            return Err(BadAggregate::Version(version));
        }
        let [from, to] = [take(&mut rest)?, take(&mut rest)?].map(Blake3Hash::from_bytes);
        let count = u32::from_le_bytes(take(&mut rest)?);
        if count > most_updates {
            return Err(BadAggregate::Updates { found: count, most: most_updates });
        }
        let clips = (0..count).map(|_| clip_factors(&mut rest, shapes.len())).collect::<Result<Vec<_>, _>>()?;
        let updates = match count {
            0 if rest.is_empty() => Vec::new(),
            0 => return Err(BadAggregate::Trailing),
            _ => codec::read(params, shapes, clips.len(), rest)?,
        };
        let updates = clips.into_iter().zip(updates).map(|(clip, update)| AggregatedUpdate { clip, update }).collect();
        Ok(Self { from, to, updates })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], BadAggregate> {
    let (taken, others) = rest.split_first_chunk().ok_or(BadAggregate::Truncated)?;
    *rest = others;
    Ok(*taken)
}

/// One update's, one a tensor.
fn clip_factors(rest: &mut &[u8], tensors: usize) -> Result<Vec<u32>, BadAggregate> {
    let (clipped, others) = rest.split_at_checked(tensors.div_ceil(8)).ok_or(BadAggregate::Truncated)?;
    *rest = others;
    let is_clipped = |place: usize| clipped[place / 8] >> (place % 8) & 1 == 1;
    if (tensors..8 * clipped.len()).any(is_clipped) {
        return Err(BadAggregate::NoSuchTensor);
    }
    (0..tensors).map(|place| if is_clipped(place) { factor(rest) } else { Ok(NOT_CLIPPED) }).collect()
}

/// From 0 to below 1: as integers, the bits of numbers that aren't negative are in the same order.
fn factor(rest: &mut &[u8]) -> Result<u32, BadAggregate> {
    let factor = u32::from_le_bytes(take(rest)?);
    if factor < NOT_CLIPPED { Ok(factor) } else { Err(BadAggregate::Factor(factor)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::codec::{DenseTensor, DenseUpdate, Format, SparseTensor, SparseUpdate, kept, levels, tiles};

    const PARAMS: CodecParams = CodecParams { version: 2, tile: 8, k: 12, value_bits: 2 };
    const SHAPES: [TensorShape; 9] = {
        let mut shapes = [TensorShape::Vector { len: 11 }; 9];
        shapes[0] = TensorShape::Matrix { rows: 20, cols: 12 };
        shapes
    };
    const MOST: u32 = 3;

    fn update(seed: u32) -> Update {
        let tensor = |shape: &TensorShape| {
            let mut tensor = SparseTensor {
                levels: levels(&[0xbc80_0000, 0xbb80_0000, 0x3b80_0000, 0x3c80_0000]),
                ..SparseTensor::default()
            };
            for tile in tiles(*shape, &PARAMS) {
                let kept = kept(&PARAMS, tile.numel());
                let step = (tile.numel() - seed % 3).checked_div(kept).unwrap_or(1).max(1);
                tensor.indices.extend((0..kept).map(|at| tile.flat(at * step)));
            }
            tensor.codes = (0..tensor.indices.len() as u32).map(|at| ((at + seed) % 4) as u8).collect();
            for code in 0..4 {
                if !tensor.codes.contains(&code) {
                    tensor.levels[usize::from(code)] = 0;
                }
            }
            tensor
        };
        SparseUpdate { tensors: SHAPES.iter().map(tensor).collect() }.into()
    }

    fn sample() -> Aggregate {
        let one = |seed: u32| AggregatedUpdate {
            clip: (0..9).map(|at| if at % 3 == 0 { NOT_CLIPPED } else { 0x3f00_0000 + at * seed }).collect(),
            update: update(seed),
        };
        let (from, to) = (Blake3Hash::of(b"from"), Blake3Hash::of(b"to"));
        Aggregate { from, to, updates: vec![one(1), one(2)] }
    }

    fn encode(aggregate: &Aggregate) -> Vec<u8> {
        aggregate.to_bytes(&PARAMS, &SHAPES).expect("of this model")
    }

    fn decode(bytes: &[u8]) -> Result<Aggregate, BadAggregate> {
        Aggregate::from_bytes(&PARAMS, &SHAPES, MOST, bytes)
    }

    #[test]
    fn an_aggregate_survives_the_round_trip() {
        for aggregate in [sample(), Aggregate { updates: vec![], ..sample() }] {
            assert_eq!(decode(&encode(&aggregate)), Ok(aggregate));
        }
    }

    #[test]
    fn updates_together_are_shorter_than_one_by_one() {
        let aggregate = sample();
        let alone = |update: &AggregatedUpdate| codec::encode(&PARAMS, &SHAPES, &update.update).expect("valid").len();
        let sum: usize = aggregate.updates.iter().map(alone).sum();
        let clips = 2 * (2 + 6 * 4);
        assert!(encode(&aggregate).len() < 73 + clips + sum, "{} against {sum}", encode(&aggregate).len());
    }

    #[test]
    fn every_changed_byte_is_refused_or_is_another_aggregate() {
        let bytes = encode(&sample());
        for at in 0..bytes.len() {
            decode(&bytes[..at]).expect_err("truncated");
            for change in [1, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[at] ^= change;
                if let Ok(other) = decode(&changed) {
                    assert_ne!(other, sample());
                    assert_eq!(encode(&other), changed);
                }
            }
        }
        assert_eq!(decode(&[&bytes[..], &[0]].concat()), Err(BadAggregate::Update(DecodeError::Trailing)));
    }

    #[test]
    fn each_part_that_is_wrong_is_named() {
        let bytes = encode(&sample());
        let changed = |at: usize, with: &[u8]| {
            let mut bytes = bytes.clone();
            bytes[at..at + with.len()].copy_from_slice(with);
            decode(&bytes).expect_err("wrong")
        };
        assert_eq!(changed(0, b"L4SU"), BadAggregate::Magic);
        assert_eq!(changed(4, &[2]), BadAggregate::Version(2));
        assert_eq!(changed(69, &[0xff; 4]), BadAggregate::Updates { found: u32::MAX, most: MOST });
        assert_eq!(changed(69, &0u32.to_le_bytes()), BadAggregate::Trailing);
        // Tensors 1, 2, 4, 5, 7 and 8 are clipped, 9 to 15 aren't there.
        assert_eq!(bytes[73..75], [0b1011_0110, 1]);
        assert_eq!(changed(74, &[3]), BadAggregate::NoSuchTensor);
        for factor in [NOT_CLIPPED, 0x7fc0_0000, 0x8000_0000, 0xbf00_0000] {
            assert_eq!(changed(75, &factor.to_le_bytes()), BadAggregate::Factor(factor));
        }
        assert_eq!(decode(b""), Err(BadAggregate::Truncated));
        assert_eq!(decode(&bytes[..75]), Err(BadAggregate::Truncated));
    }

    #[test]
    fn an_aggregate_of_another_model_is_refused_by_either_side() {
        let bytes = encode(&sample());
        assert!(Aggregate::from_bytes(&PARAMS, &SHAPES[1..], MOST, &bytes).is_err());
        assert!(sample().to_bytes(&PARAMS, &SHAPES[1..]).is_err());
        let mut fewer = sample();
        fewer.updates[0].clip.pop();
        assert_eq!(fewer.to_bytes(&PARAMS, &SHAPES), Err(EncodeError::Tensors { expected: 9, found: 8 }));
    }

    #[test]
    fn a_round_without_updates_has_these_bytes() {
        let aggregate = Aggregate { updates: vec![], ..sample() };
        let (from, to) = (Blake3Hash::of(b"from"), Blake3Hash::of(b"to"));
        assert_eq!(hex::encode(encode(&aggregate)), format!("4c34414701{from}{to}00000000"));
    }

    #[test]
    fn dense_updates_follow_one_another() {
        let params = CodecParams { version: 2, tile: 4, k: 16, value_bits: 8 };
        let shapes = [TensorShape::Vector { len: 6 }];
        let one = |code: u8| {
            let tensor = DenseTensor { scales: vec![0x3f80, 0], codes: vec![1, code, 200, 128, 128, 128] };
            let update = Update::Dense(DenseUpdate { tile: 4, tensors: vec![tensor] });
            AggregatedUpdate { clip: vec![NOT_CLIPPED], update }
        };
        let (from, to) = (Blake3Hash::of(b"from"), Blake3Hash::of(b"to"));
        let aggregate = Aggregate { from, to, updates: vec![one(7), one(8)] };
        let bytes = aggregate.to_bytes(&params, &shapes).expect("of this model");
        assert_eq!(bytes.len(), 73 + 2 + 2 * 10);
        let read = |bytes: &[u8]| Aggregate::from_bytes(&params, &shapes, 2, bytes);
        assert_eq!(read(&bytes), Ok(aggregate.clone()));
        assert_eq!(read(&bytes[..bytes.len() - 1]), Err(BadAggregate::Update(DecodeError::Truncated)));
        assert_eq!(read(&[&bytes[..], &[0]].concat()), Err(BadAggregate::Update(DecodeError::Trailing)));
        let sparse = CodecParams { version: 2, tile: 4, k: 2, value_bits: 2 };
        let mixed = EncodeError::Format { expected: Format::Sparse, found: Format::Dense };
        assert_eq!(aggregate.to_bytes(&sparse, &shapes), Err(mixed));
    }
}
