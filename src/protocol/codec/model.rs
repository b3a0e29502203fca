//! What the coder expects: where a tile's kept values lie, and which codes they have.
//!
//! Rows and columns that were chosen often in the tiles before are expected to be chosen again. Every estimate is an
//! integer function of what was coded before, so both sides make the same one.

use std::array::from_fn;
use std::sync::LazyLock;

use super::MAX_LEVELS;
use super::columns::Columns;
use super::range::Coder;
use super::symbols::Symbols;

/// Buckets of a row's expected count, two per power of two from 2⁻⁸ to 2⁸.
const EXPECTED: usize = 32;
/// Counts told apart by one choice; the last stands for itself and all above.
const COUNTS: usize = 16;
/// Buckets of the left half's share.
const SHARES: usize = 16;
/// Bits of codes that are one choice.
const GROUP_BITS: usize = 4;

/// All probabilities of one payload that learn.
#[derive(Clone, Debug)]
pub(super) struct Model {
    /// How many values a row holds, given how many are expected.
    row: [Symbols<COUNTS>; EXPECTED],
    /// How many of a range's 2 ..= 15 values lie in its left half, given that half's share.
    split: [[Symbols<COUNTS>; SHARES]; COUNTS - 2],
    /// Whether a column of a crowded range is taken, given how crowded it is.
    taken: [Symbols<2>; SHARES],
    /// As many codes as four bits hold, after the code before them; the last is for the first codes of a tensor.
    codes: [Symbols<MAX_LEVELS>; MAX_LEVELS + 1],
    /// Code c is used in a tensor.
    used: [Symbols<2>; MAX_LEVELS],
    /// The upper byte (sign and seven bits of exponent) of code c's level: its lower half, given its upper half, and that.
    level: [[Symbols<16>; 17]; MAX_LEVELS],
}

impl Model {
    /// As every payload starts.
    pub(super) fn new() -> Self {
        static START: LazyLock<Model> = LazyLock::new(Model::start);
        START.clone()
    }

    fn start() -> Self {
        let row = |bucket: usize| {
            // The middle of the bucket in 2⁻⁸ values, as a share of 64 places, at most a half.
            let expected = (5 + 2 * (bucket as u32 % 2)) << (bucket / 2) >> 2;
            Symbols::estimated(binomial(64, (expected * 4).clamp(1, 1 << 15)))
        };
        let split = |n: usize, share: usize| Symbols::estimated(binomial(n as u32 + 2, (2 * share as u32 + 1) << 11));
        Self {
            row: from_fn(row),
            split: from_fn(|n| from_fn(|share| split(n, share))),
            taken: from_fn(|share| Symbols::estimated([31 - 2 * share as u32, 2 * share as u32 + 1])),
            codes: [Symbols::even(); MAX_LEVELS + 1],
            used: [Symbols::even(); MAX_LEVELS],
            level: [[Symbols::even(); 17]; MAX_LEVELS],
        }
    }

    /// Which of the first `levels.len()` codes a tensor uses, and the upper halves of their levels; an unused code's level is 0.
    pub(super) fn levels<C: Coder>(&mut self, coder: &mut C, used: &mut [bool], levels: &mut [u32]) {
        for (code, (used, level)) in used.iter_mut().zip(levels).enumerate() {
            *used = self.used[code].code(coder, usize::from(*used)) == 1;
            *level = match *used {
                true => {
                    let want = *level >> 16;
                    let [low @ .., high] = &mut self.level[code];
                    let high = high.code(coder, want as usize >> 12);
                    let low = low[high].code(coder, want as usize >> 8 & 15);
                    ((high << 12 | low << 8) as u32 | coder.plain(8, want & 0xff)) << 16
                }
                false => 0,
            };
        }
    }

    /// How many of a row's values are kept, from `least` to `most`, when `expected` (in 2⁻⁸ values) are.
    #[inline(always)]
    pub(super) fn row_count<C: Coder>(
        &mut self,
        coder: &mut C,
        expected: u32,
        least: u32,
        most: u32,
        want: u32,
    ) -> u32 {
        if least == most {
            return least;
        }
        let log = (expected | 1).ilog2();
        let bucket = (2 * log + (expected << 1 >> log & 1)) as usize;
        let symbols = &mut self.row[bucket.min(EXPECTED - 1)];
        let mut count = symbols.code(coder, (want as usize).min(COUNTS - 1)) as u32;
        if count == COUNTS as u32 - 1 {
            count += coder.plain(8, want.wrapping_sub(count));
        }
        if count < least || count > most {
            coder.refuse();
            return least;
        }
        count
    }

    /// The columns of a row's kept values: those in `from .. to` of the tile. An encoder reads `cols`, a decoder fills it;
    /// either way it ends up ascending.
    #[inline(always)]
    pub(super) fn columns<C: Coder>(&mut self, coder: &mut C, columns: &Columns, cols: &mut [u16]) {
        match cols {
            [] => {}
            [col] => *col = columns.one(coder, 0, columns.len(), usize::from(*col)) as u16,
            _ => self.several(coder, columns, 0, columns.len(), cols),
        }
    }

    /// By halving: how many lie in the left half, then both halves.
    fn several<C: Coder>(&mut self, coder: &mut C, columns: &Columns, from: usize, to: usize, cols: &mut [u16]) {
        let n = cols.len();
        if n == to - from {
            for (col, at) in cols.iter_mut().zip(from..) {
                *col = at as u16;
            }
            return;
        }
        if n >= COUNTS {
            return self.crowd(coder, from, to, cols);
        }
        let mid = from + (to - from) / 2;
        let (first, middle, past) = (columns.start(from), columns.start(mid), columns.start(to));
        let share = ((middle - first) as usize * SHARES) / (past - first) as usize;
        let symbols = &mut self.split[n - 2][share];
        let want = if C::DECODES { 0 } else { cols.iter().filter(|col| usize::from(**col) < mid).count() };
        let (least, most) = (n.saturating_sub(to - mid), n.min(mid - from));
        let mut count = symbols.code(coder, want);
        if count < least || count > most {
            coder.refuse();
            count = least;
        }
        let (left, right) = cols.split_at_mut(count);
        for (part, from, to) in [(left, from, mid), (right, mid, to)] {
            match part {
                [] => {}
                [col] => *col = columns.one(coder, from, to, usize::from(*col)) as u16,
                _ => self.several(coder, columns, from, to, part),
            }
        }
    }

    /// So many that each column is asked about.
    fn crowd<C: Coder>(&mut self, coder: &mut C, from: usize, to: usize, cols: &mut [u16]) {
        let n = cols.len();
        let mut done = 0;
        for at in from..to {
            let (left, room) = (n - done, to - at);
            let taken = match left {
                0 => false,
                _ if left == room => true,
                _ => {
                    let want = usize::from(usize::from(cols[done]) == at);
                    self.taken[left * SHARES / room].code(coder, want) == 1
                }
            };
            if taken {
                cols[done] = at as u16;
                done += 1;
            }
        }
    }

    /// A tile's codes of `BITS` bits each, after the code `last` (`MAX_LEVELS` before the first). As many as fit are one
    /// choice; places that the last choice has left over hold zeros.
    #[inline(always)]
    pub(super) fn codes<C: Coder, const BITS: usize>(&mut self, coder: &mut C, last: &mut u8, codes: &mut [u8]) {
        for group in codes.chunks_mut(GROUP_BITS / BITS) {
            let want = group.iter().fold(0, |want, code| want << BITS | usize::from(*code));
            let unused_bits = GROUP_BITS - BITS * group.len();
            let chosen = self.codes[usize::from(*last)].code(coder, want << unused_bits);
            if chosen & ((1 << unused_bits) - 1) != 0 {
                coder.refuse();
            }
            let mut rest = chosen >> unused_bits;
            for code in group.iter_mut().rev() {
                *code = (rest & ((1 << BITS) - 1)) as u8;
                rest >>= BITS;
            }
            // A group is never empty.
            *last = group[group.len() - 1];
        }
    }
}

/// Weights of the binomial counts of `n` (at most 64) trials with probability `p` · 2⁻¹⁶, `p` not 0; the last of `COUNTS`
/// has what is above it too.
fn binomial(n: u32, p: u32) -> [u32; COUNTS] {
    let (p, q) = (u128::from(p), (1 << 16) - u128::from(p));
    // In 2⁻³²; every factor is rounded down.
    let mut term = (0..n).fold(1u128 << 80, |term, _| (term * q) >> 16);
    let mut sum = 0;
    from_fn(|count| {
        let weight = if count + 1 < COUNTS { term } else { (1u128 << 80) - sum };
        sum += term;
        term = term * u128::from(n.saturating_sub(count as u32)) * p / (q * (count as u128 + 1));
        (weight >> 56) as u32
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn initial_estimates_are_binomial() {
        // Two places, each taken with probability ½.
        assert_eq!(binomial(2, 1 << 15)[..4], [1 << 22, 1 << 23, 1 << 22, 0]);
        // (63/64)⁶⁴ = 0.3650, and the rest of the binomial(64, 1/64).
        let near = |weight: u32, share: f64| (f64::from(weight) / f64::from(1 << 24) - share).abs() < 1e-4;
        let weights = binomial(64, 1024);
        assert!(near(weights[0], 0.3650) && near(weights[1], 0.3708) && near(weights[2], 0.1854), "{weights:?}");
        assert!(near(binomial(64, 1 << 15)[COUNTS - 1], 1.0));
    }
}
