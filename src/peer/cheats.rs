//! Peers that want to be paid for nothing, for the demo and the tests: real participants with worthless updates.

use std::path::PathBuf;
use std::time::Duration;

use super::error::PeerError;
use super::folder;
use super::trainer::{LocalTrainer, LocalUpdate, Onlooker, RoundWork};
use crate::model::LlamaConfig;
use crate::protocol::codec::{
    self, DenseTensor, DenseUpdate, Format, SparseTensor, SparseUpdate, TensorShape, Update, kept, tiles,
};

/// How often the copycat looks whether its victim has committed.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The level of one of `codes` codes: ±2⁻⁹ and up to some more, ascending; about what an honest update has.
fn level(code: u32, codes: u32) -> u32 {
    let outwards = |steps: u32| 0x3b00_0000 + steps * 0x0010_0000;
    match code.checked_sub(codes / 2) {
        Some(steps) => outwards(steps),
        None => outwards(codes / 2 - 1 - code) | 1 << 31,
    }
}

const RANDOM: &str = "l402t demo garbage update v1";

/// So many pairs of values does a copy exchange.
const ALTERED_PAIRS: usize = 8;

fn failed(error: impl std::fmt::Display) -> PeerError {
    PeerError::Training(error.to_string())
}

fn shapes_of(work: &RoundWork) -> Result<Vec<TensorShape>, PeerError> {
    let bytes = std::fs::read(&work.model_config);
    let bytes = bytes.map_err(|error| PeerError::io("read", &work.model_config, error))?;
    Ok(LlamaConfig::from_json(&bytes).map_err(failed)?.layout().shapes())
}

fn encoded(work: &RoundWork, shapes: &[TensorShape], update: &Update) -> Result<LocalUpdate, PeerError> {
    let payload = codec::encode(&work.manifest.codec, shapes, update).map_err(failed)?;
    let dense_bytes = shapes.iter().map(|shape| 4 * shape.numel()).sum();
    Ok(LocalUpdate { payload, dense_bytes })
}

/// Contributes random values in random places, in the right format.
#[derive(Clone, Copy, Debug)]
pub struct Garbage;

impl LocalTrainer for Garbage {
    fn contribute(&mut self, work: &RoundWork, _: &mut dyn Onlooker) -> Result<Option<LocalUpdate>, PeerError> {
        let shapes = shapes_of(work)?;
        let mut seed = work.peer.as_bytes().to_vec();
        seed.extend_from_slice(&work.round.0.to_le_bytes());
        let mut dice = Dice(blake3::Hasher::new_derive_key(RANDOM).update(&seed).finalize_xof());
        let update = match codec::format(&work.manifest.codec) {
            Format::Sparse => {
                let tensors = shapes.iter().map(|shape| random_tensor(work, *shape, &mut dice)).collect();
                Update::Sparse(SparseUpdate { tensors })
            }
            Format::Dense => {
                let tensors = shapes.iter().map(|shape| random_dense_tensor(work, *shape, &mut dice)).collect();
                Update::Dense(DenseUpdate { tile: work.manifest.codec.tile, tensors })
            }
        };
        encoded(work, &shapes, &update).map(Some)
    }
}

fn random_tensor(work: &RoundWork, shape: TensorShape, dice: &mut Dice) -> SparseTensor {
    let mut tensor = SparseTensor::default();
    let codes = 1 << work.manifest.codec.value_bits;
    for tile in tiles(shape, &work.manifest.codec) {
        let count = kept(&work.manifest.codec, tile.numel());
        tensor.indices.extend(dice.choose(count, tile.numel()).into_iter().map(|position| tile.flat(position)));
        tensor.codes.extend((0..count).map(|_| dice.below(codes) as u8));
    }
    for code in &tensor.codes {
        // A code that doesn't occur has level 0.
        tensor.levels[usize::from(*code)] = level(u32::from(*code), codes);
    }
    tensor
}

/// The scale of 2⁻¹⁵, of which 127 are about 2⁻⁸; bfloat16 bits.
const DENSE_SCALE: u16 = 0x3800;

fn random_dense_tensor(work: &RoundWork, shape: TensorShape, dice: &mut Dice) -> DenseTensor {
    let mut tensor = DenseTensor::default();
    tensor.codes.extend((0..shape.numel()).map(|_| 1 + dice.below(255) as u8));
    for tile in tiles(shape, &work.manifest.codec) {
        tensor.scales.push(DENSE_SCALE);
        // A tile's largest value has the largest code.
        tensor.codes[tile.flat(dice.below(tile.numel())) as usize] = u8::MAX;
    }
    tensor
}

/// A seeded stream of numbers.
struct Dice(blake3::OutputReader);

impl Dice {
    /// 0 .. `bound`, which is small enough for the remainder's bias not to matter here.
    fn below(&mut self, bound: u32) -> u32 {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        u32::from_le_bytes(bytes) % bound.max(1)
    }

    /// `count` of the numbers 0 .. `bound`, ascending.
    fn choose(&mut self, count: u32, bound: u32) -> Vec<u32> {
        let mut numbers: Vec<u32> = (0..bound).collect();
        for at in 0..count.min(bound) {
            let other = at + self.below(bound - at);
            numbers.swap(at as usize, other as usize);
        }
        numbers.truncate(count as usize);
        numbers.sort_unstable();
        numbers
    }
}

/// Waits until another peer on this machine has committed, and contributes nearly the same.
#[derive(Clone, Debug)]
pub struct Copycat {
    victim: PathBuf,
}

impl Copycat {
    /// Copies the peer with this data folder.
    pub fn of(victim: PathBuf) -> Self {
        Self { victim }
    }
}

impl LocalTrainer for Copycat {
    fn contribute(&mut self, work: &RoundWork, onlooker: &mut dyn Onlooker) -> Result<Option<LocalUpdate>, PeerError> {
        let path = folder::outbox_in(&self.victim, work.round);
        let payload = loop {
            match std::fs::read(&path) {
                Ok(payload) => break payload,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(PeerError::io("read", &path, error)),
            }
            if onlooker.should_stop() {
                return Ok(None);
            }
            std::thread::sleep(LOOK_EVERY);
        };
        let shapes = shapes_of(work)?;
        let mut update = codec::decode(&work.manifest.codec, &shapes, &payload).map_err(failed)?;
        alter(&mut update);
        encoded(work, &shapes, &update).map(Some)
    }
}

/// Exchanges a few values, so that the bytes differ and the same codes still occur: those of a dense tensor within a tile.
fn alter(update: &mut Update) {
    match update {
        Update::Sparse(update) => {
            update.tensors.iter_mut().rev().take(ALTERED_PAIRS).for_each(|tensor| exchange(&mut tensor.codes));
        }
        Update::Dense(update) => {
            let side = update.tile as usize;
            for tensor in update.tensors.iter_mut().rev().take(ALTERED_PAIRS) {
                // The first two of a tensor are in one tile, unless a tile holds one value.
                let together = side.min(tensor.codes.len()).min(2);
                exchange(&mut tensor.codes[..together]);
            }
        }
    }
}

fn exchange(codes: &mut [u8]) {
    let first = codes.first().copied();
    if let Some(other) = codes.iter().position(|code| Some(*code) != first) {
        codes.swap(0, other);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chosen_positions_are_distinct_and_ascend() {
        let mut dice = Dice(blake3::Hasher::new_derive_key(RANDOM).finalize_xof());
        for count in [0, 1, 64, 4_096] {
            let chosen = dice.choose(count, 4_096);
            assert_eq!(chosen.len(), count as usize);
            assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]) && chosen.iter().all(|number| *number < 4_096));
        }
    }

    #[test]
    fn an_altered_copy_has_other_bytes_but_the_same_places() {
        let tensor = SparseTensor {
            levels: codec::levels(&[0, 1, 2, 3].map(|code| level(code, 4))),
            indices: vec![1, 2, 3, 4],
            codes: vec![0, 1, 2, 3],
        };
        let indices = tensor.indices.clone();
        let original = Update::Sparse(SparseUpdate { tensors: vec![tensor] });
        let mut copy = original.clone();
        alter(&mut copy);
        assert_ne!(copy, original);
        assert!(matches!(copy, Update::Sparse(copy) if copy.tensors[0].indices == indices));
    }
}
