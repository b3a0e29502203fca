//! The copy test: how many indices two updates share.

use crate::protocol::amount::Ppm;
use crate::protocol::codec::SparseUpdate;

/// An update's indices, tensor by tensor, in ascending order.
#[derive(Clone, Debug)]
pub(super) struct IndexSet(Vec<Vec<u32>>);

impl IndexSet {
    pub(super) fn new(update: &SparseUpdate) -> Self {
        let sorted = |tensor: &crate::protocol::codec::SparseTensor| {
            let mut indices = tensor.indices.clone();
            indices.sort_unstable();
            indices
        };
        Self(update.tensors.iter().map(sorted).collect())
    }

    fn len(&self) -> u64 {
        self.0.iter().map(|indices| indices.len() as u64).sum()
    }

    /// Shared indices ÷ the smaller index count.
    pub(super) fn overlap(&self, other: &IndexSet) -> Ppm {
        let shared = self.0.iter().zip(&other.0).map(|(a, b)| shared(a, b)).sum();
        Ppm::ratio_floor(shared, self.len().min(other.len()))
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
    use crate::protocol::codec::SparseTensor;

    fn set(tensors: &[&[u32]]) -> IndexSet {
        let tensor = |indices: &&[u32]| SparseTensor { indices: indices.to_vec(), ..SparseTensor::default() };
        IndexSet::new(&SparseUpdate { tensors: tensors.iter().map(tensor).collect() })
    }

    #[test]
    fn overlap_is_shared_indices_over_the_smaller_count() {
        let a = set(&[&[9, 1, 5], &[2]]);
        assert_eq!(a.overlap(&a), Ppm::ONE);
        assert_eq!(a.overlap(&set(&[&[1, 5], &[]])), Ppm::ONE);
        assert_eq!(a.overlap(&set(&[&[2, 3], &[2, 9]])).get(), 250_000);
        // The same number in another tensor is another index.
        assert_eq!(a.overlap(&set(&[&[2], &[9, 1, 5]])), Ppm::ZERO);
        assert_eq!(a.overlap(&set(&[&[], &[]])), Ppm::ZERO);
    }
}
