//! The copy test: which part of an update's indices an earlier one has.
//!
//! Nothing that an earlier update leaves out makes a later one its copy: one of a few lucky places would otherwise have the
//! honest ones refused that come after it.
//!
//! A dense update has every index, which says nothing. What tells it apart is where its largest values are, and those are what
//! a sparse update would have sent: of each tile that isn't all zeros a 64th, at least one. So one threshold serves both.

use crate::protocol::amount::Ppm;
use crate::protocol::codec::{self, DenseTensor, Format, SparseTensor, TensorShape, Tile, Update, dense, tiles_of};
use crate::protocol::manifest::CodecParams;

/// Of so many values of a dense update's tile, one is looked at.
const DENSE_SHARE: u32 = 64;

/// An update's indices, tensor by tensor, in ascending order.
#[derive(Clone, Debug)]
pub(super) struct IndexSet(Vec<Vec<u32>>);

impl IndexSet {
    /// Of an update of tensors with these shapes.
    pub(super) fn new(shapes: &[TensorShape], update: &Update) -> Self {
        Self(match update {
            Update::Sparse(update) => update.tensors.iter().map(sorted).collect(),
            Update::Dense(update) => {
                let tensors = shapes.iter().zip(&update.tensors);
                tensors.map(|(shape, tensor)| largest(*shape, update.tile, tensor)).collect()
            }
        })
    }

    fn len(&self) -> u64 {
        self.0.iter().map(|indices| indices.len() as u64).sum()
    }

    /// The part of its indices that an earlier update has, too.
    pub(super) fn overlap(&self, earlier: &IndexSet) -> Ppm {
        let shared = self.0.iter().zip(&earlier.0).map(|(own, theirs)| shared(own, theirs)).sum();
        Ppm::ratio_floor(shared, self.len())
    }
}

fn sorted(tensor: &SparseTensor) -> Vec<u32> {
    let mut indices = tensor.indices.clone();
    indices.sort_unstable();
    indices
}

/// Of so many values of a dense update's tile, at least one.
fn looked_at(numel: u32) -> u32 {
    (numel / DENSE_SHARE).max(1)
}

/// The overlap that two updates in which nothing decides about places have on average, but for their 1-D tensors. The
/// parameters are ones that an update can have.
pub fn chance_overlap(params: &CodecParams) -> Ppm {
    let full = params.tile * params.tile;
    let compared = match codec::format(params) {
        Format::Sparse => params.k,
        Format::Dense => looked_at(full),
    };
    Ppm::ratio_floor(u64::from(compared), u64::from(full))
}

fn largest(shape: TensorShape, side: u32, tensor: &DenseTensor) -> Vec<u32> {
    let mut indices = Vec::new();
    for (tile, scale) in tiles_of(shape, side).zip(&tensor.scales) {
        if *scale != 0 {
            largest_of_tile(&tile, &tensor.codes, &mut indices);
        }
    }
    indices.sort_unstable();
    indices
}

/// The places of the codes that are farthest from 0's, of equal ones the first; never those of zeros.
fn largest_of_tile(tile: &Tile, codes: &[u8], indices: &mut Vec<u32>) {
    let places = || (0..tile.numel()).map(|position| tile.flat(position));
    let steps = |flat: u32| usize::from(codes[flat as usize].abs_diff(dense::ZERO));
    let mut counts = [0; 129];
    places().for_each(|flat| counts[steps(flat)] += 1);
    // The least distance of which not all are wanted, and how many are.
    let (mut least, mut room) = (128, (looked_at(tile.numel()) as usize).min(tile.numel() as usize - counts[0]));
    while counts[least] < room {
        room -= counts[least];
        least -= 1;
    }
    for flat in places() {
        let tie = steps(flat) == least && room > 0;
        if steps(flat) > least || tie {
            room -= usize::from(tie);
            indices.push(flat);
        }
    }
}

fn shared(a: &[u32], b: &[u32]) -> u64 {
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    let mut count = 0;
    while let (Some(x), Some(y)) = (a.peek(), b.peek()) {
        match x.cmp(y) {
            std::cmp::Ordering::Less => drop(a.next()),
            std::cmp::Ordering::Greater => drop(b.next()),
            std::cmp::Ordering::Equal => {
                count += 1;
                a.next();
                b.next();
            }
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::codec::{DenseUpdate, SparseUpdate};

    fn set(tensors: &[&[u32]]) -> IndexSet {
        let tensor = |indices: &&[u32]| SparseTensor { indices: indices.to_vec(), ..SparseTensor::default() };
        IndexSet::new(&[], &Update::Sparse(SparseUpdate { tensors: tensors.iter().map(tensor).collect() }))
    }

    #[test]
    fn overlap_is_shared_indices_over_the_later_updates_own() {
        let a = set(&[&[9, 1, 5], &[2]]);
        assert_eq!(a.overlap(&a), Ppm::ONE);
        let fewer = set(&[&[1, 5], &[]]);
        assert_eq!(a.overlap(&fewer).get(), 500_000);
        assert_eq!(fewer.overlap(&a), Ppm::ONE);
        assert_eq!(a.overlap(&set(&[&[2, 3], &[2, 9]])).get(), 250_000);
        // The same number in another tensor is another index.
        assert_eq!(a.overlap(&set(&[&[2], &[9, 1, 5]])), Ppm::ZERO);
        assert_eq!(a.overlap(&set(&[&[], &[]])), Ppm::ZERO);
    }

    /// A dense update of tensors of 32 × 32 in tiles of 16 × 16, all zeros but for the codes at these places.
    fn few(places: &[(usize, u8)]) -> IndexSet {
        let shape = TensorShape::Matrix { rows: 32, cols: 32 };
        let mut tensor = DenseTensor { scales: vec![0; 4], codes: vec![dense::ZERO; 1024] };
        for (flat, code) in places {
            tensor.scales[flat / 512 * 2 + flat % 32 / 16] = 0x3f80;
            tensor.codes[*flat] = *code;
        }
        IndexSet::new(&[shape], &Update::Dense(DenseUpdate { tile: 16, tensors: vec![tensor] }))
    }

    #[test]
    fn a_dense_update_of_almost_nothing_makes_no_copies_of_those_after_it() {
        // An honest update has sixteen places. Four are guessed by one that has little else.
        let honest: Vec<(usize, u8)> =
            (0..4).flat_map(|tile| (0..4).map(move |at| (tile / 2 * 512 + tile % 2 * 16 + 33 * at, 255))).collect();
        let (tiny, honest) = (few(&honest[..4]), few(&honest));
        assert_eq!(honest.overlap(&tiny).get(), 250_000);
        assert_eq!(tiny.overlap(&honest), Ppm::ONE);
    }

    #[test]
    fn a_zero_is_never_among_the_largest() {
        let one = few(&[(5, 255)]);
        assert_eq!(one.0, [[5]]);
        assert_eq!(few(&[(6, 255)]).overlap(&one), Ppm::ZERO);
        assert_eq!(few(&[(5, 1), (6, 200), (700, 255)]).0, [[5, 6, 700]]);
    }

    #[test]
    fn of_a_dense_update_the_largest_values_of_each_tile_count() {
        let shape = TensorShape::Matrix { rows: 16, cols: 20 };
        let mut codes: Vec<u8> = (0..320).map(|at| 120 + (at % 16) as u8).collect();
        // The four of the first tile: two that stand out, and the first two of those eight steps below zero.
        codes[21] = 255;
        codes[310] = 60;
        // The other tile of 16 × 4 has one.
        codes[319] = 1;
        let tensor = DenseTensor { scales: vec![0x3f80, 0x3f80], codes };
        let set = |tensor: &DenseTensor| {
            IndexSet::new(&[shape], &Update::Dense(DenseUpdate { tile: 16, tensors: vec![tensor.clone()] }))
        };
        let own = set(&tensor);
        assert_eq!(own.0, [vec![0, 21, 32, 310, 319]]);
        assert_eq!(own.overlap(&own), Ppm::ONE);
        // Noise on the others hides nothing.
        let mut noisy = tensor.clone();
        noisy
            .codes
            .iter_mut()
            .filter(|code| (100..150).contains(*code))
            .for_each(|code| *code = 256u16.wrapping_sub(u16::from(*code)) as u8);
        assert!(own.overlap(&set(&noisy)).get() >= 600_000);
        // A tile of zeros says nothing.
        let zeros = DenseTensor { scales: vec![0, 0], codes: vec![dense::ZERO; 320] };
        assert!(set(&zeros).0[0].is_empty());
        assert_eq!(set(&zeros).overlap(&set(&zeros)), Ppm::ZERO);
    }
}
