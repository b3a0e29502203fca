//! A choice of several, whose probabilities follow what was chosen.

use super::range::{Coder, Total};

/// Probabilities are in 2⁻¹⁵, so that they are 16-bit integers with a sign: what vector units compare.
pub(super) const SCALE_BITS: u32 = 15;

/// One of `N` symbols.
#[derive(Clone, Copy, Debug)]
pub(super) struct Symbols<const N: usize> {
    /// Where each symbol's part starts, in 2⁻¹⁵, strictly ascending from 0.
    starts: [i16; N],
    /// Choices seen, up to `MEMORY`: the more, the slower the probabilities move.
    seen: u8,
}

/// Every symbol keeps at least this probability (in 2⁻¹⁵), so a surprise costs at most 13 bits.
const FLOOR: i32 = 4;
/// About how many past choices the probabilities remember.
const MEMORY: u8 = 120;
/// How many choices an initial estimate is worth.
const CONFIDENCE: u8 = 12;

/// `RATE[n]` is 2¹⁶ / (n + 2.5): the weight of the (n+1)-th choice.
const RATE: [i16; MEMORY as usize + 1] = {
    let mut rate = [0; MEMORY as usize + 1];
    let mut n = 0;
    while n < rate.len() {
        rate[n] = (131_072 / (2 * n as i32 + 5)) as i16;
        n += 1;
    }
    rate
};

impl<const N: usize> Symbols<N> {
    /// Knows nothing yet.
    pub(super) fn even() -> Self {
        Self { starts: std::array::from_fn(|at| ((at << SCALE_BITS) / N) as i16), seen: 0 }
    }

    /// Starts from weights of which at least one isn't 0.
    pub(super) fn estimated(weights: [u32; N]) -> Self {
        let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        let free = (1 << SCALE_BITS) - FLOOR as u64 * N as u64;
        let mut before = 0;
        let starts = std::array::from_fn(|at| {
            let start = before * free / sum + FLOOR as u64 * at as u64;
            before += u64::from(weights[at]);
            start as i16
        });
        Self { starts, seen: CONFIDENCE }
    }

    /// Codes one symbol and learns from it.
    #[inline(always)]
    pub(super) fn code<C: Coder>(&mut self, coder: &mut C, want: usize) -> usize {
        let starts = &self.starts;
        let symbol = coder.choose(
            Total::Power(SCALE_BITS),
            want,
            |target| {
                let target = target as i16;
                // starts[0] is 0, so that at least one start is not past the target.
                not_past(starts, target).wrapping_sub(1)
            },
            |symbol| {
                let end = if symbol + 1 < N { starts[symbol + 1] as u32 } else { 1 << SCALE_BITS };
                (starts[symbol] as u32, end)
            },
        );
        self.learn(symbol);
        symbol
    }

    /// Moves every start towards where it would be if `symbol` were certain, save for the floor. Rounding down keeps
    /// neighbours at least as far apart as the nearer of both was: strictly ascending.
    #[inline(always)]
    fn learn(&mut self, symbol: usize) {
        let rate = i32::from(RATE[usize::from(self.seen)]);
        for (at, start) in self.starts.iter_mut().enumerate() {
            let after = (at as i16 > symbol as i16) as i16;
            let low = (FLOOR as i16).wrapping_mul(at as i16);
            let high = low.wrapping_add(((1_i32 << SCALE_BITS) - FLOOR * N as i32) as i16);
            let aim = if after != 0 { high } else { low };
            let moved = (i32::from(aim.wrapping_sub(*start)).wrapping_mul(rate) >> 16) as i16;
            *start = start.wrapping_add(moved);
        }
        self.seen = (self.seen + 1).min(MEMORY);
    }
}

/// How many of these ascending starts are not past `target`: neither is negative. Written as it is for compilers to make
/// vector code of: sign bits, added up in lanes.
#[inline(always)]
pub(super) fn not_past(starts: &[i16], target: i16) -> usize {
    let past = |start: &i16| (start.wrapping_sub(target).wrapping_sub(1) as u16) >> 15;
    let (vectors, rest) = starts.as_chunks::<16>();
    let mut lanes = [0u16; 16];
    for vector in vectors {
        for (lane, start) in lanes.iter_mut().zip(vector) {
            *lane = lane.wrapping_add(past(start));
        }
    }
    usize::from(lanes.into_iter().chain(rest.iter().map(past)).fold(0, u16::wrapping_add))
}
