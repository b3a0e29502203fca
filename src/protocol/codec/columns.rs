//! Where in a row a kept value is expected: the columns' weights as parts of one choice.

use super::range::{Coder, Total};
use super::symbols::{SCALE_BITS, not_past};

/// The weights of a tile's columns.
#[derive(Debug, Default)]
pub(super) struct Columns {
    /// Where each column starts in 2⁻¹⁵ of the tile's weight, strictly ascending from 0; past the last, the largest there is.
    starts: Vec<i16>,
    len: usize,
}

const ONE: u32 = 1 << SCALE_BITS;

impl Columns {
    /// For a tile of up to 256 columns, whose weights add up to at most 2⁴⁰.
    pub(super) fn set(&mut self, weights: impl ExactSizeIterator<Item = u32> + Clone) {
        let len = weights.len();
        let sum: u64 = weights.clone().map(u64::from).sum();
        let per_weight = (u64::from(ONE) - len as u64) * (1 << 20) / sum.max(1);
        self.starts.clear();
        self.starts.resize(len.next_multiple_of(16), i16::MAX);
        self.len = len;
        let mut before = 0u64;
        for (at, (start, weight)) in self.starts.iter_mut().zip(weights).enumerate() {
            *start = ((before.wrapping_mul(per_weight) >> 20) as u32).wrapping_add(at as u32) as i16;
            before = before.wrapping_add(u64::from(weight));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Where a column starts; after the last, the end.
    #[inline(always)]
    pub(super) fn start(&self, at: usize) -> u32 {
        if at < self.len { self.starts[at] as u32 } else { ONE }
    }

    /// The column whose part holds `target`.
    #[inline(always)]
    fn find(&self, target: u32) -> usize {
        // What stands past the last column is not past the largest target.
        not_past(&self.starts, target as i16).min(self.len).wrapping_sub(1)
    }

    /// One column of `from .. to`.
    #[inline(always)]
    pub(super) fn one<C: Coder>(&self, coder: &mut C, from: usize, to: usize, want: usize) -> usize {
        let (first, past) = (self.start(from), self.start(to));
        let total = if past.wrapping_sub(first) == ONE {
            Total::Power(SCALE_BITS)
        } else {
            Total::Sum(past.wrapping_sub(first))
        };
        coder.choose(
            total,
            want,
            |target| self.find(target.wrapping_add(first)),
            |at| (self.start(at).wrapping_sub(first), self.start(at.wrapping_add(1)).wrapping_sub(first)),
        )
    }
}
