//! What the coder expects: where a tile's kept values lie, and which codes they have.
//!
//! Rows and columns that were chosen often in the tiles before are expected to be chosen again. Every estimate is an
//! integer function of what was coded before, so both sides make the same one.

use std::array::from_fn;
use std::sync::LazyLock;

use super::range::{Bit, Coder};

/// Buckets of a row's expected count, two per power of two from 2⁻⁸ to 2⁸.
const EXPECTED: usize = 32;
/// Counts of a row told apart.
const ROW_COUNTS: usize = 6;
/// Counts of a column range told apart.
const RANGE_COUNTS: usize = 8;
/// Buckets of the left half's share.
const SHARES: usize = 16;

/// All adaptive probabilities of one payload.
#[derive(Clone, Debug)]
pub(super) struct Model {
    /// A row holds more than `i` values, given that it holds `i` and how many are expected.
    row: [[Bit; ROW_COUNTS]; EXPECTED],
    /// More than `i` of a range's `n` values lie in its left half, given that `i` do and the left half's share.
    range: [[[Bit; RANGE_COUNTS]; SHARES]; RANGE_COUNTS],
    /// A code is 2 or 3, after the code before it.
    code_high: [Bit; 5],
    /// A code is odd, given its high bit.
    code_low: [[Bit; 5]; 2],
    /// Code c is used in a tensor.
    used: [Bit; 4],
    /// The upper byte (sign and seven bits of exponent) of code c's level, bit by bit.
    level: [[Bit; 256]; 4],
}

impl Model {
    /// As every payload starts.
    pub(super) fn new() -> Self {
        static START: LazyLock<Model> = LazyLock::new(Model::start);
        START.clone()
    }

    fn start() -> Self {
        let row = |bucket: usize, i| {
            // The middle of the bucket in 2⁻⁸ values, as a share of 64 places, at most a half.
            let expected = (5 + 2 * (bucket as u32 % 2)) << (bucket / 2) >> 2;
            Bit::new(more_than(64, (expected * 4).clamp(1, 1 << 15), i as u32))
        };
        let range = |n: usize, share: usize, i: usize| {
            Bit::new(more_than(n as u32 + 1, (2 * share as u32 + 1) << 11, i as u32))
        };
        Self {
            row: from_fn(|bucket| from_fn(|i| row(bucket, i))),
            range: from_fn(|n| from_fn(|share| from_fn(|i| range(n, share, i)))),
            code_high: [Bit::EVEN; 5],
            code_low: [[Bit::EVEN; 5]; 2],
            used: [Bit::EVEN; 4],
            level: [[Bit::EVEN; 256]; 4],
        }
    }

    /// Which codes a tensor uses, and the upper halves of their levels; an unused code's level is 0.
    pub(super) fn levels<C: Coder>(&mut self, coder: &mut C, used: &mut [bool; 4], halves: &mut [u16; 4]) {
        for code in 0..4 {
            used[code] = coder.bit(&mut self.used[code], used[code]);
            halves[code] = match used[code] {
                true => {
                    let want = u32::from(halves[code]);
                    let tree = &mut self.level[code];
                    let upper = (0..8).rev().fold(1, |node, at| {
                        node << 1 | usize::from(coder.bit(&mut tree[node], want >> (at + 8) & 1 == 1))
                    });
                    // 8 bits below a leading one, and 8 bits more.
                    (upper as u16) << 8 | coder.plain(8, want & 0xff) as u16
                }
                false => 0,
            };
        }
    }

    /// How many of a row's values are kept, from `least` to `most`, when `expected` (in 2⁻⁸ values) are.
    pub(super) fn row_count<C: Coder>(
        &mut self,
        coder: &mut C,
        expected: u32,
        least: u32,
        most: u32,
        want: u32,
    ) -> u32 {
        let bucket = match expected.checked_ilog2() {
            Some(log) => (2 * log + (expected << 1 >> log & 1)) as usize,
            None => 0,
        };
        let bits = &mut self.row[bucket.min(EXPECTED - 1)];
        let mut count = least;
        while count < most && coder.bit(&mut bits[(count as usize).min(ROW_COUNTS - 1)], want > count) {
            count += 1;
        }
        count
    }

    /// The columns of a row's kept values: those in `from .. to` of the tile, whose weights add up along `sums`.
    /// An encoder reads `cols`, a decoder fills it; either way it ends up ascending.
    pub(super) fn columns<C: Coder>(&mut self, coder: &mut C, sums: &[u32], from: usize, to: usize, cols: &mut [u16]) {
        let n = cols.len();
        if n == 0 {
            return;
        }
        if n == to - from {
            for (col, at) in cols.iter_mut().zip(from..) {
                *col = at as u16;
            }
            return;
        }
        let mid = from + (to - from) / 2;
        let share = (sums[mid] - sums[from]) as usize * SHARES / (sums[to] - sums[from]) as usize;
        let bits = &mut self.range[n.min(RANGE_COUNTS) - 1][share.min(SHARES - 1)];
        let want = if C::DECODES { 0 } else { cols.partition_point(|col| usize::from(*col) < mid) };
        let mut count = n.saturating_sub(to - mid);
        let most = n.min(mid - from);
        while count < most && coder.bit(&mut bits[count.min(RANGE_COUNTS - 1)], want > count) {
            count += 1;
        }
        let (left, right) = cols.split_at_mut(count);
        self.columns(coder, sums, from, mid, left);
        self.columns(coder, sums, mid, to, right);
    }

    /// One code, of those that the tensor uses (at least one).
    pub(super) fn code<C: Coder>(&mut self, coder: &mut C, used: &[bool; 4], last: u8, want: u8) -> u8 {
        let last = usize::from(last);
        let high = match (used[0] || used[1], used[2] || used[3]) {
            (true, true) => coder.bit(&mut self.code_high[last], want >= 2),
            (_, high) => high,
        };
        let pair = 2 * usize::from(high);
        let low = match (used[pair], used[pair + 1]) {
            (true, true) => coder.bit(&mut self.code_low[usize::from(high)][last], want & 1 == 1),
            (_, low) => low,
        };
        2 * u8::from(high) + u8::from(low)
    }
}

/// The probability (in 2⁻¹⁶) that a binomial count of `n` trials with probability `p` · 2⁻¹⁶ is more than `i`, given that it is
/// at least `i`.
fn more_than(n: u32, p: u32, i: u32) -> u32 {
    const ONE: u128 = 1 << 16;
    let (p, q) = (u128::from(p), ONE - u128::from(p));
    // P(X ≥ j) / P(X = j), in 2⁻¹⁶, from j = n downwards. At most 2⁶⁴ for the arguments above.
    let tail = (i..n).rev().fold(ONE, |tail, j| ONE + tail * u128::from(n - j) * p / (u128::from(j + 1) * q));
    ((tail - ONE) * ONE / tail) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn initial_estimates_are_binomial() {
        // Two places, each taken with probability ½: three in four that there is one, one in three that it has company.
        assert_eq!(more_than(2, 1 << 15, 0), 49152);
        assert_eq!(more_than(2, 1 << 15, 1), 21845);
        assert_eq!(more_than(2, 1 << 15, 2), 0);
        // 1 − (63/64)⁶⁴ = 0.635.
        assert_eq!(more_than(64, 1024, 0), 41616);
    }
}
