//! Compression of a pseudo-gradient with error feedback: the top-k of each tile in a few bits (SparseLoCo, arXiv 2508.15706),
//! or every value in eight (dense DiLoCo with group quantisation).
//!
//! Error feedback is the same for both. What a dense update leaves out is only what rounding takes, at most half a step a
//! value; but it is the same half again in every round where a value is small beside its tile's largest, and it costs nothing
//! to keep.
//!
//! Runs on the peer only: nothing here is recomputed by a judge, so floats may round as they like. What was left out of
//! a contribution is carried into the next one by the error feedback, which therefore must move on exactly when a
//! contribution is committed: compressing changes nothing until its result is accepted.

use l402t_kernels::quantise::quantise;
use l402t_kernels::tile::{Rectangle, feed_back, gather};
use l402t_kernels::topk::{Scratch, top_k};
use l402t_kernels::{Isa, bfloat16, dense};

use crate::protocol::amount::Ppm;
use crate::protocol::codec::{
    self, DenseTensor, DenseUpdate, Format, SparseTensor, SparseUpdate, TensorShape, Tile, UnsupportedParams, Update,
    check_params, kept,
};
use crate::protocol::ids::Blake3Hash;
use crate::protocol::manifest::CodecParams;

const STATE_MAGIC: [u8; 4] = *b"L4EF";
const STATE_VERSION: u8 = 1;
const HASH_BYTES: usize = 32;
const STATE_HEADER_BYTES: usize = STATE_MAGIC.len() + 1 + HASH_BYTES;

/// So many values are kept in the cache while their tiles are looked at: 256 KiB, half of what small cores have of their own.
const CACHED_VALUES: usize = 1 << 16;

/// Why a pseudo-gradient wasn't compressed, or error feedback not restored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompressError {
    /// The run's settings.
    #[error(transparent)]
    Params(#[from] UnsupportedParams),
    /// A pseudo-gradient of another model.
    #[error("the pseudo-gradient has {found} values, the model {expected}")]
    Length {
        /// The model's values.
        expected: usize,
        /// The pseudo-gradient's.
        found: usize,
    },
    /// NaN or infinite: the inner loop diverged.
    #[error("tensor {tensor} of the pseudo-gradient isn't finite: the training diverged; start the round over")]
    NotFinite {
        /// Its place in the layout.
        tensor: usize,
    },
    /// Saved error feedback that can't be read.
    #[error("the saved error feedback is damaged ({0}): delete it to go on without")]
    Damaged(&'static str),
    /// Saved error feedback of something else.
    #[error("the saved error feedback belongs to another model or other codec settings")]
    OtherModel,
}

/// What earlier contributions left out, in layout order.
#[derive(Clone, Debug, PartialEq)]
pub struct ErrorFeedback {
    /// Of the model and settings it belongs to.
    fingerprint: Blake3Hash,
    values: Vec<f32>,
}

impl ErrorFeedback {
    /// The values, in layout order.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// For a file: magic, version, fingerprint, the values little-endian, and the BLAKE3 of all that.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(STATE_HEADER_BYTES + 4 * self.values.len() + HASH_BYTES);
        bytes.extend_from_slice(&STATE_MAGIC);
        bytes.push(STATE_VERSION);
        bytes.extend_from_slice(self.fingerprint.as_bytes());
        bytes.extend(self.values.iter().flat_map(|value| value.to_le_bytes()));
        let checksum = Blake3Hash::of(&bytes);
        bytes.extend_from_slice(checksum.as_bytes());
        bytes
    }
}

/// A compressed pseudo-gradient, and the error feedback to go on with once it is committed.
#[derive(Clone, Debug, PartialEq)]
pub struct Compressed {
    /// To be encoded and contributed.
    pub update: Update,
    /// For [`Compressor::accept`], and for the file.
    pub next: ErrorFeedback,
}

/// Compresses one pseudo-gradient after the other.
#[derive(Debug)]
pub struct Compressor {
    params: CodecParams,
    decay: f32,
    shapes: Vec<TensorShape>,
    feedback: ErrorFeedback,
    isa: Isa,
}

impl Compressor {
    /// For a model with these tensors, with no error feedback yet.
    pub fn new(params: CodecParams, decay: Ppm, shapes: Vec<TensorShape>) -> Result<Self, CompressError> {
        check_params(&params, &shapes)?;
        let numel = shapes.iter().map(|shape| shape.numel() as usize).sum();
        let feedback = ErrorFeedback { fingerprint: fingerprint(&params, &shapes), values: vec![0.0; numel] };
        // At most 10⁶, so exact in f32.
        let decay = decay.get() as f32 / 1e6;
        Ok(Self { params, decay, shapes, feedback, isa: Isa::best() })
    }

    /// Compresses Δ = θ_start − θ_end, in layout order; its memory becomes that of the next error feedback. Changes nothing:
    /// the same call gives the same result until [`accept`](Self::accept).
    pub fn compress(&self, pseudo_gradient: Vec<f32>) -> Result<Compressed, CompressError> {
        let expected = self.feedback.values.len();
        if pseudo_gradient.len() != expected {
            return Err(CompressError::Length { expected, found: pseudo_gradient.len() });
        }
        let mut values = pseudo_gradient;
        let mut select = Select::default();
        let update = match codec::format(&self.params) {
            Format::Sparse => {
                let tensors = self.each_tensor(&mut values, |shape, feedback, values| {
                    self.compress_tensor(&mut select, shape, feedback, values)
                })?;
                Update::Sparse(SparseUpdate { tensors })
            }
            Format::Dense => {
                let tensors = self.each_tensor(&mut values, |shape, feedback, values| {
                    self.quantise_tensor(&mut select.tile, shape, feedback, values)
                })?;
                Update::Dense(DenseUpdate { tile: self.params.tile, tensors })
            }
        };
        let next = ErrorFeedback { fingerprint: self.feedback.fingerprint, values };
        Ok(Compressed { update, next })
    }

    /// Compresses tensor after tensor: `compress` takes shape, error feedback and values, and gives `None` where not all are
    /// finite.
    fn each_tensor<T>(
        &self,
        values: &mut [f32],
        mut compress: impl FnMut(TensorShape, &[f32], &mut [f32]) -> Option<T>,
    ) -> Result<Vec<T>, CompressError> {
        let (mut rest, mut feedback) = (values, self.feedback.values.as_slice());
        let mut tensors = Vec::with_capacity(self.shapes.len());
        for (at, shape) in self.shapes.iter().enumerate() {
            let (own, others) = rest.split_at_mut(shape.numel() as usize);
            let (own_feedback, other_feedback) = feedback.split_at(own.len());
            tensors.push(compress(*shape, own_feedback, own).ok_or(CompressError::NotFinite { tensor: at })?);
            (rest, feedback) = (others, other_feedback);
        }
        Ok(tensors)
    }

    /// Goes on with the error feedback of a committed contribution. Refused if it is another compressor's.
    pub fn accept(&mut self, next: ErrorFeedback) -> Result<(), CompressError> {
        if next.fingerprint != self.feedback.fingerprint || next.values.len() != self.feedback.values.len() {
            return Err(CompressError::OtherModel);
        }
        self.feedback = next;
        Ok(())
    }

    /// The current error feedback.
    pub fn state(&self) -> &ErrorFeedback {
        &self.feedback
    }

    /// Goes on with saved error feedback ([`ErrorFeedback::to_bytes`]). Unchanged on error.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), CompressError> {
        let body_bytes = bytes.len().checked_sub(HASH_BYTES).ok_or(CompressError::Damaged("too short"))?;
        let (body, checksum) = bytes.split_at(body_bytes);
        if Blake3Hash::of(body).as_bytes() != checksum {
            return Err(CompressError::Damaged("wrong checksum"));
        }
        let (header, values) = body.split_at_checked(STATE_HEADER_BYTES).ok_or(CompressError::Damaged("too short"))?;
        let (magic, rest) = header.split_at(STATE_MAGIC.len());
        if magic != STATE_MAGIC || rest[0] != STATE_VERSION {
            return Err(CompressError::Damaged("not error feedback of this version"));
        }
        if rest[1..] != *self.feedback.fingerprint.as_bytes() || values.len() != 4 * self.feedback.values.len() {
            return Err(CompressError::OtherModel);
        }
        let values: Vec<f32> =
            values.chunks_exact(4).map(|value| f32::from_le_bytes([value[0], value[1], value[2], value[3]])).collect();
        if values.iter().any(|value| !value.is_finite()) {
            return Err(CompressError::Damaged("not finite"));
        }
        self.feedback.values = values;
        Ok(())
    }

    /// Adds the error feedback to one tensor's values and takes what is kept out of them: one pass, tile by tile. `None` if
    /// not all are finite.
    fn compress_tensor(
        &self,
        select: &mut Select,
        shape: TensorShape,
        feedback: &[f32],
        values: &mut [f32],
    ) -> Option<SparseTensor> {
        let kept_values = codec::kept_in(shape, &self.params) as usize;
        let mut indices = Vec::with_capacity(kept_values);
        select.kept.clear();
        select.kept.reserve_exact(kept_values);
        for tile in codec::tiles(shape, &self.params) {
            self.gather(feedback, values, &tile, &mut select.tile)?;
            let k = kept(&self.params, tile.numel()) as usize;
            top_k(self.isa, &select.tile, k, &mut select.scratch, &mut select.positions);
            let flat = tile.flats();
            indices.extend(select.positions.iter().map(|position| flat(u32::from(*position))));
            select.kept.extend(select.positions.iter().map(|position| select.tile[usize::from(*position)]));
        }
        let mut codes = Vec::with_capacity(kept_values);
        let levels = quantise(self.isa, &select.kept, self.params.value_bits, &mut codes);
        for (index, code) in indices.iter().zip(&codes) {
            values[*index as usize] -= f32::from_bits(levels[usize::from(*code)]);
        }
        Some(SparseTensor { levels, indices, codes })
    }

    /// Adds the error feedback to one tensor's values and takes what their codes stand for out of them. `None` if not all are
    /// finite.
    fn quantise_tensor(
        &self,
        buffer: &mut Vec<f32>,
        shape: TensorShape,
        feedback: &[f32],
        values: &mut [f32],
    ) -> Option<DenseTensor> {
        let mut tensor = DenseTensor { scales: Vec::new(), codes: vec![codec::dense::ZERO; values.len()] };
        for tile in codec::tiles(shape, &self.params) {
            let scale = dense::scale_of(self.gather(feedback, values, &tile, buffer)?);
            dense::quantise(self.isa, scale, values, rectangle(&tile), &mut tensor.codes);
            tensor.scales.push(bfloat16::narrow(scale));
        }
        Some(tensor)
    }

    /// Copies the next of a tensor's tiles to `buffer`, its error feedback added, and gives its largest magnitude. The error
    /// feedback is added for several tiles beside each other at once, at the first of them: memory is read in long rows then,
    /// and the tiles come out of the cache. `None` if not all of the tile are finite.
    fn gather(&self, feedback: &[f32], values: &mut [f32], tile: &Tile, buffer: &mut Vec<f32>) -> Option<f32> {
        let own = rectangle(tile);
        let side = self.params.tile as usize;
        let together = side * (CACHED_VALUES / (side * own.rows)).max(1);
        let column = own.first % own.stride;
        if column.is_multiple_of(together) {
            let cols = together.min(own.stride - column);
            feed_back(self.isa, self.decay, feedback, values, Rectangle { cols, ..own });
        }
        let largest = f32::from_bits(gather(self.isa, values, own, buffer));
        largest.is_finite().then_some(largest)
    }
}

fn rectangle(tile: &Tile) -> Rectangle {
    let [first, rows, cols, stride] = [tile.first, tile.rows, tile.cols, tile.stride].map(|place| place as usize);
    Rectangle { first, rows, cols, stride }
}

/// What error feedback belongs to.
fn fingerprint(params: &CodecParams, shapes: &[TensorShape]) -> Blake3Hash {
    let mut bytes = Vec::new();
    bytes.extend([params.version, params.tile, params.k, params.value_bits].iter().flat_map(|n| n.to_le_bytes()));
    for shape in shapes {
        let [kind, rows, cols] = match *shape {
            TensorShape::Vector { len } => [1, 1, len],
            TensorShape::Matrix { rows, cols } => [2, rows, cols],
        };
        bytes.extend([kind, rows, cols].iter().flat_map(|n| n.to_le_bytes()));
    }
    Blake3Hash::derive("l402t error feedback v1", &bytes)
}

/// Buffers for choosing the largest values of tiles.
#[derive(Default)]
struct Select {
    tile: Vec<f32>,
    scratch: Scratch,
    positions: Vec<u16>,
    /// What is kept of the tensor.
    kept: Vec<f32>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::codec::{decode, encode};

    const PARAMS: CodecParams = CodecParams { version: 2, tile: 64, k: 64, value_bits: 2 };

    fn decay() -> Ppm {
        Ppm::new(950_000).expect("valid")
    }

    fn shapes() -> Vec<TensorShape> {
        vec![
            TensorShape::Matrix { rows: 128, cols: 96 },
            TensorShape::Vector { len: 100 },
            TensorShape::Vector { len: 1 },
            TensorShape::Matrix { rows: 0, cols: 5 },
            TensorShape::Matrix { rows: 3, cols: 130 },
        ]
    }

    fn numel(shapes: &[TensorShape]) -> usize {
        shapes.iter().map(|shape| shape.numel() as usize).sum()
    }

    /// About normal values.
    fn noise(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut draw = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 16_777_216.0 - 0.5
        };
        (0..n).map(|_| (draw() + draw() + draw() + draw()) * 1e-3).collect()
    }

    const DENSE: CodecParams = CodecParams { version: 2, tile: 16, k: 256, value_bits: 8 };

    /// What an update says of every value.
    fn sent(shapes: &[TensorShape], update: &Update) -> Vec<f32> {
        let mut all = Vec::new();
        for (place, shape) in shapes.iter().enumerate() {
            let mut values = vec![0.0; shape.numel() as usize];
            match update {
                Update::Sparse(update) => {
                    let tensor = &update.tensors[place];
                    for (index, code) in tensor.indices.iter().zip(&tensor.codes) {
                        values[*index as usize] = f32::from_bits(tensor.levels[usize::from(*code)]);
                    }
                }
                Update::Dense(update) => {
                    let tensor = &update.tensors[place];
                    for (tile, scale) in codec::tiles_of(*shape, update.tile).zip(&tensor.scales) {
                        for flat in (0..tile.numel()).map(|position| tile.flat(position) as usize) {
                            let steps = f32::from(tensor.codes[flat]) - 128.0;
                            values[flat] = steps * bfloat16::widen(*scale);
                        }
                    }
                }
            }
            all.extend(values);
        }
        all
    }

    #[test]
    fn what_is_not_sent_now_is_kept_for_later() {
        let shapes = shapes();
        for params in [PARAMS, DENSE] {
            let mut compressor = Compressor::new(params, decay(), shapes.clone()).expect("valid");
            for round in 0..4 {
                let delta = noise(numel(&shapes), round);
                let before = compressor.state().values().to_vec();
                let Compressed { update, next } = compressor.compress(delta.clone()).expect("finite");
                let sent = sent(&shapes, &update);
                for at in 0..delta.len() {
                    let whole = 0.95 * f64::from(before[at]) + f64::from(delta[at]);
                    let parts = f64::from(sent[at]) + f64::from(next.values()[at]);
                    assert!((whole - parts).abs() <= 1e-9, "value {at}: {whole} became {parts}");
                }
                compressor.accept(next).expect("its own");
            }
        }
    }

    #[test]
    fn a_dense_update_leaves_out_no_more_than_rounding_takes() {
        let shapes = shapes();
        let compressor = Compressor::new(DENSE, decay(), shapes.clone()).expect("valid");
        let delta = noise(numel(&shapes), 5);
        let largest = delta.iter().fold(0.0, |largest: f32, value| largest.max(value.abs()));
        let left = compressor.compress(delta).expect("finite").next;
        assert!(left.values().iter().all(|value| value.abs() <= largest / 127.0 * 0.51));
    }

    #[test]
    fn every_compressed_update_can_be_encoded() {
        let shapes = shapes();
        let n = numel(&shapes);
        let mut spike = vec![0.0; n];
        spike[5] = f32::MAX;
        spike[6] = -f32::MAX;
        let nearly_equal = (0..n).map(|at| f32::from_bits(0x3f80_0000 + at as u32 % 7)).collect();
        let tiny = (0..n).map(|at| if at % 2 == 0 { f32::from_bits(1) } else { -f32::from_bits(1) }).collect();
        for delta in [noise(n, 3), vec![0.0; n], vec![-0.0; n], vec![1e-3; n], spike, nearly_equal, tiny] {
            for params in [PARAMS, DENSE] {
                let compressor = Compressor::new(params, decay(), shapes.clone()).expect("valid");
                let update = compressor.compress(delta.clone()).expect("finite").update;
                let bytes = encode(&params, &shapes, &update).expect("canonical");
                assert_eq!(decode(&params, &shapes, &bytes), Ok(update));
            }
        }
    }

    #[test]
    fn nothing_changes_until_the_result_is_accepted() {
        let shapes = shapes();
        let mut compressor = Compressor::new(PARAMS, decay(), shapes.clone()).expect("valid");
        let delta = noise(numel(&shapes), 1);
        let first = compressor.compress(delta.clone()).expect("finite");
        assert_eq!(compressor.compress(delta.clone()).expect("finite"), first);
        compressor.accept(first.next.clone()).expect("its own");
        assert_ne!(compressor.compress(delta.clone()).expect("finite"), first);
    }

    #[test]
    fn the_largest_of_each_tile_are_sent() {
        let shapes = vec![TensorShape::Matrix { rows: 64, cols: 128 }];
        let mut delta = vec![0.0; 64 * 128];
        for at in 0..64 {
            delta[at * 128 + (at * 7) % 64] = 1.0 + at as f32 / 64.0;
            delta[at * 128 + 64 + (at * 5) % 64] = -1.0;
        }
        let compressor = Compressor::new(PARAMS, decay(), shapes).expect("valid");
        let Update::Sparse(update) = compressor.compress(delta.clone()).expect("finite").update else {
            panic!("a dense update of a sparse codec");
        };
        let tensor = &update.tensors[0];
        let left: Vec<u32> = (0..64).map(|at| at * 128 + at * 7 % 64).collect();
        let right: Vec<u32> = (0..64).map(|at| at * 128 + 64 + at * 5 % 64).collect();
        assert_eq!(tensor.indices, [left, right].concat());
    }

    #[test]
    fn a_diverged_tensor_is_named() {
        let shapes = shapes();
        let compressor = Compressor::new(PARAMS, decay(), shapes.clone()).expect("valid");
        let mut delta = noise(numel(&shapes), 1);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            delta[128 * 96 + 3] = bad;
            assert_eq!(compressor.compress(delta.clone()), Err(CompressError::NotFinite { tensor: 1 }));
        }
        let expected = numel(&shapes);
        assert_eq!(
            compressor.compress(delta[1..].to_vec()),
            Err(CompressError::Length { expected, found: expected - 1 })
        );
    }

    #[test]
    fn error_feedback_survives_a_restart() {
        let shapes = shapes();
        let mut compressor = Compressor::new(PARAMS, decay(), shapes.clone()).expect("valid");
        let next = compressor.compress(noise(numel(&shapes), 1)).expect("finite").next;
        let bytes = next.to_bytes();
        compressor.accept(next).expect("its own");
        let mut restarted = Compressor::new(PARAMS, decay(), shapes).expect("valid");
        restarted.restore(&bytes).expect("its own");
        assert_eq!(restarted.state(), compressor.state());
    }

    #[test]
    fn torn_or_foreign_error_feedback_is_refused_and_changes_nothing() {
        let small = vec![TensorShape::Vector { len: 12 }];
        let mut compressor = Compressor::new(PARAMS, decay(), small.clone()).expect("valid");
        let bytes = compressor.compress(noise(12, 1)).expect("finite").next.to_bytes();
        for len in 0..bytes.len() {
            assert!(matches!(compressor.restore(&bytes[..len]), Err(CompressError::Damaged(_))), "{len} bytes");
        }
        for bit in 0..8 * bytes.len() {
            let mut torn = bytes.clone();
            torn[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(compressor.restore(&torn), Err(CompressError::Damaged("wrong checksum")), "bit {bit}");
        }
        assert_eq!(compressor.state().values(), [0.0; 12]);

        let other_shape = vec![TensorShape::Matrix { rows: 3, cols: 4 }];
        let mut other = Compressor::new(PARAMS, decay(), other_shape).expect("valid");
        assert_eq!(other.restore(&bytes), Err(CompressError::OtherModel));
        assert_eq!(other.accept(compressor.state().clone()), Err(CompressError::OtherModel));
        let other_k = CodecParams { k: 32, ..PARAMS };
        let mut other = Compressor::new(other_k, decay(), small).expect("valid");
        assert_eq!(other.restore(&bytes), Err(CompressError::OtherModel));
    }
}
